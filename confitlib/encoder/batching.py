"""Batches of similar length, run side by side on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Rows = NDArray[np.intp]
Result = TypeVar("Result")


def length_sorted_batches(lengths: Sequence[int] | Rows, batch_size: int, tokens: int) -> Iterator[Rows]:
    """Positions in batches of similar length, longest first so that a lack of memory shows at once.

    A batch holds at most `batch_size` texts and, padded, `tokens` tokens (one text at least).
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.intp), kind="stable")
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        size = max(1, min(batch_size, tokens // longest))
        yield order[start : start + size]
        start += size


def side_by_side(function: Callable[[Rows], Result], batches: Sequence[Rows], workers: int) -> Iterator[Result]:
    """The results of all batches in order, `workers` at a time, each computed on one thread.

    Splitting every matrix product over the threads instead makes them wait for each other hundreds
    of times a batch; whole batches only meet at the end.
    """
    if min(workers, len(batches)) <= 1:
        yield from map(function, batches)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # inherited by the pool's new threads
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(function, batches)
    finally:
        torch.set_num_threads(threads)
