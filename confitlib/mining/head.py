"""What strategies that weigh the hardest documents share: the top of each ranking, and weighted draws from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from confitlib.mining.kernel import IntArray, Picks, concatenate
from confitlib.mining.task import Task
from confitlib.mining.window import ranked

DEEPEST = 200  # ANCE draws from the top 200


def head(task: Task, k: int | None) -> Picks:
    """The `k` highest-ranked candidates of each query, known positives left out; for the default see `depth`."""
    stop = depth(task, k)
    return concatenate(ranked(task, np.zeros_like(stop), stop))


def depth(task: Task, k: int | None) -> IntArray:
    """How many of each query's highest-ranked candidates a strategy looks at, `[Q]`.

    By default the top 200, or the top tenth of a smaller pool, but never fewer than are asked for: our scaling of
    what the papers take from pools of millions.
    """
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    scaled = np.minimum(DEEPEST, task.candidates // 10) if k is None else np.full(len(task.query_ids), k)
    return np.minimum(np.maximum(scaled, task.n or 1), task.candidates)


def weighted_draw(task: Task, picks: Picks, log_weights: NDArray[np.floating]) -> Picks:
    """At most `n` of each query's picks without replacement, with chances in proportion to their weights.

    log_weights: `[len(picks)]`; what has weight 0 (minus infinity) is never drawn. Picks stay in their order. The
    draw adds Gumbel noise and keeps the largest sums (Gumbel top-k).
    """
    kept = [np.zeros(0, dtype=np.intp)]
    queries, firsts, sizes = np.unique(picks.query, return_index=True, return_counts=True)
    for query, first, size in zip(queries, firsts, sizes, strict=True):
        keys = log_weights[first : first + size] + task.generator(query).gumbel(size=size)
        allowed = int((keys > -np.inf).sum())
        best = np.argsort(-keys, kind="stable")[: min(task.quota(), allowed)]
        kept.append(first + np.sort(best))
    return picks.take(np.concatenate(kept))
