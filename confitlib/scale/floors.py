"""What the hardware allows, measured: operations and bytes a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch


def product_rate(rows: int, inner: int, columns: int, repeats: int = 20) -> float:
    """Measured float32 operations a second of a matrix product of this shape: the floor of dense arithmetic."""
    left, right = torch.rand(rows, inner), torch.rand(inner, columns)
    left @ right
    return 2 * rows * inner * columns / median_seconds(lambda: left @ right, repeats)


def bandwidth(megabytes: int = 256, repeats: int = 5) -> float:
    """Measured bytes a second read from memory: the floor of work that only passes over data."""
    data = np.ones(megabytes * 2**20 // 8)
    return data.nbytes / median_seconds(data.sum, repeats)


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return median(seconds)
