"""Written negatives: documents that somebody made up for a query, mixed with mined ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import NEGATIVE_FOR
from confitlib.mining.band import band
from confitlib.mining.kernel import IntArray, Picks, concatenate
from confitlib.mining.task import Selection, Task


def synthetic(task: Task, share: float = 0.5, lo: float = 0.03, hi: float = 0.04) -> Selection:
    """Of `n` negatives the `share` that was written for the query, the rest from the band `[lo, hi)`.

    `confitlib.augment.synthetic_negatives` adds the written documents; a query without enough of them gets more of
    the band. Written ones have no rank; percentiles count among the real candidates. Source: the hybrid of SyNeg
    (Li et al. 2024, arXiv 2412.17250); the mixing ratio is not known to us and is our choice. Raises ValueError if
    the corpus holds no written negative.
    """
    quota, (written, owners) = task.quota(), _owners(task)
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} must lie between 0 and 1")
    if not written.any() and len(task.query_ids):
        raise ValueError("the corpus holds no written negatives: add them with confitlib.augment.synthetic_negatives")
    own = _drawn(task, owners, round(share * quota))
    taken = np.bincount(own.query, minlength=len(task.query_ids))
    real = np.flatnonzero(~written)
    mined = band(replace(task, pool_ids=task.pool_ids[real]), lo, hi)
    place = _places(mined.picks.query)
    kept = mined.picks.take(place < (quota - taken)[mined.picks.query])
    both = concatenate([own, Picks(kept.query, real[kept.item], kept.rank, kept.score)])
    return Selection(both.take(np.argsort(both.query, kind="stable")), mined.candidates, mined.removed)


def _owners(task: Task) -> tuple[NDArray[np.bool_], IntArray]:
    """Which documents of the pool were written as negatives, and the query position of each (-1: no query here)."""
    frame = task.corpus.documents(task.target).loc[task.pool_ids]
    if NEGATIVE_FOR not in frame.columns:
        return np.zeros(len(frame), dtype=bool), np.full(len(frame), -1, dtype=np.intp)
    named = frame[NEGATIVE_FOR].fillna("")
    return (named != "").to_numpy(), task.query_ids.get_indexer(pd.Index(named)).astype(np.intp)


def _drawn(task: Task, owners: IntArray, most: int) -> Picks:
    """At most so many of the documents written for each query."""
    item = np.flatnonzero(owners >= 0)
    item = item[np.argsort(owners[item], kind="stable")]
    picks = task.unranked(owners[item], item)
    return replace(task, n=most).draw(picks) if most else picks.take(np.zeros(0, dtype=np.intp))


def _places(query: IntArray) -> IntArray:
    """The place of every pick among those of its query; picks come in query order."""
    return np.arange(len(query)) - np.searchsorted(query, query)
