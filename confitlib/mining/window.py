"""Windows of a task's ranking, by rank or by score."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from confitlib.mining.kernel import IntArray, Picks, select_band
from confitlib.mining.task import Task

CELLS_A_BLOCK = 2**22


def ranked(
    task: Task, start: IntArray, stop: IntArray, ranks: IntArray | None = None, removed: csr_array | None = None
) -> Iterator[Picks]:
    """Ranks `[start, stop)`, or of these only `ranks`, of each query's ranking without its known positives.

    `removed` takes the place of the known positives. See `select_band`.
    """
    queries, pool = task.vectors
    gone = task.known if removed is None else removed
    return select_band(queries, pool, gone, start, stop, task.block, task.device, ranks)


def count_from(task: Task, threshold: NDArray[np.float32]) -> IntArray:
    """How many candidates of each query score at least its threshold, `[Q]`; none where the threshold is NaN."""
    queries, pool = task.vectors
    counts = np.zeros(len(queries), dtype=np.intp)
    step = max(1, CELLS_A_BLOCK // max(1, len(pool)))
    for first in range(0, len(queries), step):
        rows = slice(first, first + step)
        reached = queries[rows] @ pool.T >= threshold[rows, None]
        gone = task.known[rows].nonzero()
        reached[gone] = False
        counts[rows] = reached.sum(axis=1)
    return counts
