"""Ranking metrics in which tied scores count with their expected value over random tie-breaking."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.util import checked

Rows = NDArray[Any] | Sequence[Any]  # a matrix, or one array a query

DEFAULT_KS = (10, 100)
COUNTS = ["candidates", "positives"]
BLOCK = 128  # queries at a time: bounds memory when every candidate carries a gain


@checked
def rank_metrics(
    scores: Rows, relevant: Rows, ks: Sequence[int] = DEFAULT_KS, query_ids: Sequence[Any] | None = None
) -> pd.DataFrame:
    """Recall@k, nDCG@k, MAP and MRR of every query, whatever the order of tied candidates.

    `scores`, `relevant`: matrices `[Q, C]`, or sequences of one array a query where lists differ in
    length. Higher scores rank first. `relevant` holds booleans or gains >= 0: nDCG uses the gains as
    they are (pass `2.0**grade - 1` for exponential gains), the other metrics count every gain > 0.
    Returns one row a query: `candidates`, `positives`, then `recall@k`, `ndcg@k` for each k, `map`
    (the query's average precision) and `mrr` (its reciprocal rank). A query without positives has
    NaN metrics. Raises ValueError for NaN scores, negative gains, shapes that differ and k < 1.

    >>> rank_metrics([[0.9, 0.5, 0.5]], [[0, 1, 0]], ks=[2])[["recall@2", "mrr"]].round(3).to_dict("list")
    {'recall@2': [0.5], 'mrr': [0.417]}
    """
    if len(scores) != len(relevant):
        raise ValueError(f"scores hold {len(scores)} queries, relevant {len(relevant)}: give one row a query to both")
    if any(k < 1 for k in ks):
        raise ValueError(f"ks={tuple(ks)}: every k must be at least 1")
    index = pd.RangeIndex(len(scores)) if query_ids is None else pd.Index(query_ids)
    if len(index) != len(scores):
        raise ValueError(f"query_ids names {len(index)} queries, scores hold {len(scores)}: give one id a query")
    frames = []
    for part in [slice(start, start + BLOCK) for start in range(0, len(scores), BLOCK)] or [slice(0, 0)]:
        ties = TieGroups(scores[part], relevant[part], index[part])
        columns: dict[str, NDArray[Any]] = {"candidates": ties.candidates, "positives": ties.positives}
        for k in ks:
            columns |= {f"recall@{k}": recall(ties, k), f"ndcg@{k}": ndcg(ties, k)}
        columns |= {"map": average_precision(ties), "mrr": reciprocal_rank(ties)}
        frames.append(pd.DataFrame(columns, index=index[part]))
    return pd.concat(frames).rename_axis("query_id")


def random_baseline(
    relevant: Rows, ks: Sequence[int] = DEFAULT_KS, query_ids: Sequence[str] | None = None
) -> pd.DataFrame:
    """The expected metrics of a random order, which is what `rank_metrics` gives a constant scorer."""
    return rank_metrics([np.zeros(len(row), np.float32) for row in relevant], relevant, ks, query_ids)


class TieGroups:
    """The groups of equally scored candidates that hold a positive, best first within each query.

    By group: its `query`, how many candidates score higher (`above`), its `size`, how many of it are
    `relevant`, their summed `gain`, and the positives of groups `before`. By query: `candidates`,
    `positives`, and the `gains` of the positives. Every metric is the mean over all orders of the
    tied candidates (McSherry and Najork, ECIR 2008).
    """

    def __init__(self, scores: Rows, relevant: Rows, query_ids: Iterable[object]) -> None:
        # 1. of each relevant candidate: how many score higher, how many score the same, and its gain
        higher, equal, self.gains = [], [], []
        for query, values, gains in zip(query_ids, map(np.asarray, scores), map(np.asarray, relevant), strict=True):
            if values.ndim != 1 or values.shape != gains.shape:
                raise ValueError(f"query {query!r}: scores have shape {values.shape}, relevant {gains.shape}")
            if {values.dtype.kind, gains.dtype.kind} - {*"biuf"} or np.isinf(values).any():
                raise ValueError(f"scores or relevant of query {query!r} are no finite numbers: give such numbers")
            ordered = np.sort(values)
            if len(ordered) and np.isnan(ordered[-1]):  # a sort puts NaN last
                raise ValueError(f"scores of query {query!r} hold {np.isnan(values).sum()} NaN: mend the ranker")
            if not ((gains >= 0) & (gains < np.inf)).all():
                raise ValueError(f"relevant of query {query!r} is negative or not finite: give the unjudged (-1) a 0")
            hits = np.flatnonzero(gains)
            below, up_to = (np.searchsorted(ordered, values[hits], side=side) for side in ("left", "right"))
            higher.append(len(values) - up_to)
            equal.append(up_to - below)
            self.gains.append(gains[hits].astype(np.float64))
        self.candidates = np.array([len(row) for row in scores], dtype=np.int64)
        self.positives = np.array([len(gains) for gains in self.gains], dtype=np.int64)
        # 2. candidates of one query with equally many above them are tied
        query = np.repeat(np.arange(len(higher)), self.positives)
        above, size, gain = (np.concatenate([*parts, np.empty(0, int)]) for parts in (higher, equal, self.gains))
        key = query * (self.candidates.max(initial=0) + 1) + above
        _, first, group, self.relevant = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        self.query, self.above, self.size = query[first], above[first], size[first]
        self.gain = np.bincount(group, weights=gain, minlength=len(first)).astype(np.float64)
        earlier = np.cumsum(self.positives) - self.positives  # positives of the queries before
        self.before = np.cumsum(self.relevant) - self.relevant - earlier[self.query]

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over the groups of each query `[Q]`; NaN without positives."""
        summed = np.bincount(self.query, weights=values, minlength=len(self.positives)).astype(np.float64)
        return np.where(self.positives > 0, summed, np.nan)


def recall(ties: TieGroups, k: int) -> NDArray[np.float64]:
    """Expected recall@k of every query `[Q]`: positives in the top k / positives (ConFit v2, `eval.py`).

    Of a group that the cut divides, the share above the cut counts: the mean of the hypergeometric distribution.
    """
    places = np.clip(k - ties.above, 0, ties.size)
    return ties.sum(ties.relevant * places / ties.size) / ties.positives.clip(1)


def ndcg(ties: TieGroups, k: int) -> NDArray[np.float64]:
    """Expected nDCG@k of every query `[Q]`, NaN without positives.

    DCG@k = sum of gain(r) / log2(1 + r) over the ranks r <= k, and nDCG@k is its share of the DCG@k of the best order.
    In a random order of tied candidates each rank of the group has the group's mean gain.
    """
    # 1. discount[n]: the summed discounts of ranks 1 … n, none beyond k  [C + 1]
    ranks = np.arange(1, ties.candidates.max(initial=0) + 1)
    discount = np.concatenate([[0.0], np.cumsum(np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0))])
    # 2. a group takes the ranks above + 1 … above + size
    dcg = ties.sum(ties.gain / ties.size * (discount[ties.above + ties.size] - discount[ties.above]))
    # 3. the best order has the gains falling
    best = [np.sort(gains)[::-1] @ np.diff(discount)[: len(gains)] for gains in ties.gains]
    return dcg / np.where(ties.positives > 0, best, np.nan)


def average_precision(ties: TieGroups) -> NDArray[np.float64]:
    """Expected average precision of every query `[Q]`: the mean precision at the ranks of its positives.

    Place j of a group of t, with r positives, below a candidates with b positives, holds a
    positive with chance r/t, and then has precision (b + 1 + (j-1)(r-1)/(t-1)) / (a + j).
    """
    ranks = np.arange(1, ties.candidates.max(initial=0) + 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / ranks)])
    reciprocals = harmonic[ties.above + ties.size] - harmonic[ties.above]  # sum over j of 1 / (a + j)
    steps = ties.size - (ties.above + 1) * reciprocals  # sum over j of (j - 1) / (a + j)
    density = (ties.relevant - 1) / np.maximum(ties.size - 1, 1)
    precision = (ties.before + 1) * reciprocals + density * steps
    return ties.sum(ties.relevant / ties.size * precision) / ties.positives.clip(1)


def reciprocal_rank(ties: TieGroups) -> NDArray[np.float64]:
    """Expected 1 / rank of the first positive of every query `[Q]`, which stands in the query's best group.

    The first of r positives shuffled among t stands at place j + 1 with the chance of place j times
    (t - r - j + 1) / (t - j).
    """
    result = np.full(len(ties.positives), np.nan)
    best = ties.before == 0
    groups = zip(ties.query[best], ties.above[best], ties.size[best], ties.relevant[best], strict=True)
    for query, above, size, relevant in groups:
        step = np.arange(size - relevant)
        moving_on = (size - relevant - step) / (size - 1 - step)
        chance = relevant / size * np.concatenate([[1.0], np.cumprod(moving_on)])
        result[query] = chance @ (1 / (above + 1 + np.arange(len(chance))))
    return result
