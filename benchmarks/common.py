"""What every benchmark shares: arguments, interleaved timing, physical floors, tables and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table


def arguments(description: str | None) -> argparse.Namespace:
    """The options that every benchmark takes."""
    return parser_of(description).parse_args()


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A parser of `--quick` and `--json FILE`, for a benchmark to add its own options to."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small inputs: done in under 50 s on two cores")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the rows, the summary and the environment here"
    )
    return parser


def environment(*packages: str) -> dict[str, str]:
    """Processor, threads, Python and versions of the packages that are installed (torch and numpy always)."""
    return {
        "cpu": processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **{package: found for package in ("torch", "numpy", *packages) if (found := installed(package))},
    }


def installed(package: str) -> str | None:
    """The version of a package; None if it is not there, as some peers on a machine with a card."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, from /proc/cpuinfo where there is one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int = 3) -> dict[str, float]:
    """Median seconds of each call; rounds alternate between the calls, so that a busy moment hits them all."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(times) for name, times in seconds.items()}


def product_rate(rows: int, inner: int, columns: int, repeats: int = 20) -> float:
    """Measured float32 operations a second of a matrix product of this shape: the floor of dense arithmetic."""
    left, right = torch.rand(rows, inner), torch.rand(inner, columns)
    left @ right  # the first one also starts the threads
    return 2 * rows * inner * columns / interleaved({"product": lambda: left @ right}, repeats)["product"]


def bandwidth(megabytes: int = 256, repeats: int = 5) -> float:
    """Measured bytes a second read from memory: the floor of work that only passes over data."""
    data = np.ones(megabytes * 2**20 // 8)
    return data.nbytes / interleaved({"sum": data.sum}, repeats)["sum"]


def clear_peak() -> None:
    """Let this process's peak of memory start from what is resident now, where the kernel counts it."""
    counters = Path("/proc/self/clear_refs")
    if counters.exists():
        counters.write_text("5", encoding="ascii")


def resident(field: str) -> float:
    """Bytes of this process by a field of /proc/self/status: VmRSS now, VmHWM at its peak; NaN where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((1024.0 * float(line.split()[1]) for line in lines if line.startswith(field)), float("nan"))


def report(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    where: Mapping[str, str],
    file: Path | None = None,
    before: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Print environment, table and, last, the line `NAME: key=value …`; write everything as JSON if asked.

    before: rows of a table printed earlier, which the file begins with.
    """
    print(" · ".join(f"{key} {value}" for key, value in where.items()))
    table = Table(*rows[0], title=name)
    for row in rows:
        table.add_row(*(shown(value) for value in row.values()))
    Console().print(table)
    if file is not None:
        content = {"benchmark": name, "environment": dict(where), "rows": [*before, *rows], "summary": dict(summary)}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"{name}: " + " ".join(f"{key}={shown(value)}" for key, value in summary.items()))


def shown(value: Any) -> str:
    """A fraction with three significant digits, anything else as it is."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
