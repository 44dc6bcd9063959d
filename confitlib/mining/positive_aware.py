"""Positive-aware mining: nothing that scores as high as a known positive."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from confitlib.mining.band import band_window
from confitlib.mining.kernel import IntArray, concatenate
from confitlib.mining.task import Selection, Task
from confitlib.mining.window import count_from, ranked

Of = Literal["min", "mean"]


def positive_aware(task: Task, ratio: float | None = 0.95, margin: float | None = None, of: Of = "min") -> Selection:
    """The `n` highest-ranked documents whose score is clearly below that of the query's positives.

    TopK-PercPos keeps s < s⁺ - (1 - ratio) |s⁺|, which is `ratio` x s⁺ for positive scores; TopK-MarginPos keeps
    s < s⁺ - margin; with both, both hold. s⁺ is the `min` or the `mean` over the query's training positives (our
    choice: the paper's queries have one). A query without positives has no bound and gets nothing.
    Source: NV-Retriever (Moreira et al. 2024, arXiv 2407.15831), 95 %.
    """
    limit = _limit(task, ratio, margin, of)
    start = count_from(task, limit)
    return _below(task, limit, start, start + task.quota())


def band_aware(
    task: Task,
    lo: float = 0.03,
    hi: float = 0.04,
    ratio: float | None = 0.95,
    margin: float | None = None,
    of: Of = "min",
) -> Selection:
    """A percentile band, less what scores as high as the query's positives: `band` and `positive_aware` together.

    Candidates keep the ranks and percentiles they have in `band`; a query may get none.
    """
    if not 0 <= lo < hi <= 1:
        raise ValueError(f"a band needs 0 <= lo < hi <= 1, got lo={lo}, hi={hi}")
    limit = _limit(task, ratio, margin, of)
    start, stop = band_window(task.candidates, lo, hi)
    return _below(task, limit, np.maximum(start, count_from(task, limit)), stop)


def _below(task: Task, limit: NDArray[np.float32], start: IntArray, stop: IntArray) -> Selection:
    stop = np.where(np.isnan(limit), 0, np.minimum(stop, task.candidates))
    start = np.minimum(start, stop)
    blocks = (block.take(block.score < limit[block.query]) for block in ranked(task, start, stop))  # two products may
    return task.from_pool(concatenate(map(task.draw, blocks)))  # differ in rounding, so what was counted is checked


def _limit(task: Task, ratio: float | None, margin: float | None, of: Of) -> NDArray[np.float32]:
    """The score that negatives of each query must stay below, `[Q]`; NaN without positives."""
    if ratio is None and margin is None:
        raise ValueError("give ratio, margin or both: without a bound this is the strategy 'top'")
    if ratio is not None and not 0 < ratio <= 1:
        raise ValueError(f"ratio={ratio} must lie in (0, 1]")
    if margin is not None and not np.isfinite(margin):
        raise ValueError(f"margin={margin} must be a finite number")
    if of not in get_args(Of):
        raise ValueError(f"of={of!r} is unknown; use one of {list(get_args(Of))}")
    positive = task.positive_scores().groupby(level=0).agg(of).reindex(range(len(task.query_ids))).to_numpy()
    bounds = [positive - (1 - ratio) * np.abs(positive)] if ratio is not None else []
    bounds += [positive - margin] if margin is not None else []
    return np.min(bounds, axis=0).astype(np.float32)
