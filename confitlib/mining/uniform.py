"""The baselines every other strategy has to beat: no mined negatives, and random ones."""

from __future__ import annotations

import numpy as np

from confitlib.mining.kernel import IntArray
from confitlib.mining.task import Selection, Task


def in_batch(task: Task) -> Selection:
    """Nothing: training then has the other documents of a batch as its only negatives."""
    nothing = np.zeros(0, dtype=np.intp)
    return task.from_pool(task.unranked(nothing, nothing))


def random(task: Task) -> Selection:
    """`n` documents of the pool a query, uniformly without replacement, known positives left out.

    In drawn order, so any prefix is a uniform sample too. Embeddings are optional and only score the picks.
    """
    quota, known, candidates = task.quota(), task.known.sorted_indices(), task.candidates
    items = [np.zeros(0, dtype=np.intp)]
    for query, left in enumerate(candidates):
        drawn = task.generator(query).choice(left, min(quota, left), replace=False) if left else items[0]
        items.append(_nth_free(known.indices[known.indptr[query] : known.indptr[query + 1]].astype(np.intp), drawn))
    queries = np.repeat(np.arange(len(candidates)), np.minimum(candidates, quota))
    return task.from_pool(task.unranked(queries, np.concatenate(items)))


def _nth_free(taken: IntArray, n: IntArray) -> IntArray:
    """The `n`-th (from 0) whole numbers that are not in the rising list `taken`."""
    return n + np.searchsorted(taken - np.arange(len(taken)), n, side="right")
