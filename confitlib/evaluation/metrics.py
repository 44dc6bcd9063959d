"""Ranking metrics in which tied scores count with their expected value over random tie-breaking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Rows = NDArray[Any] | Sequence[NDArray[Any]]

DEFAULT_KS = (10, 100)
COUNTS = ["candidates", "positives"]
BLOCK = 128  # queries at a time: bounds memory when every candidate carries a gain


def rank_metrics(
    scores: Rows, relevant: Rows, ks: Sequence[int] = DEFAULT_KS, query_ids: Sequence[str] | None = None
) -> pd.DataFrame:
    """Recall@k, nDCG@k, MAP and MRR of every query, whatever the order of tied candidates.

    `scores`, `relevant`: matrices `[Q, C]`, or sequences of one array a query where lists differ in
    length. Higher scores rank first. `relevant` holds booleans or gains >= 0: nDCG uses the gains as
    they are (pass `2.0**grade - 1` for exponential gains), the other metrics count every gain > 0.
    Returns one row a query: `candidates`, `positives`, then `recall@k`, `ndcg@k` for each k, `map`
    (the query's average precision) and `mrr` (its reciprocal rank). A query without positives has
    NaN metrics. recall@k = hits in the top k / number of positives (ConFit v2, `eval.py`).

    Raises ValueError for NaN scores, negative gains, shapes that differ and k < 1.
    """
    if len(scores) != len(relevant):
        raise ValueError(f"scores hold {len(scores)} queries, relevant {len(relevant)}: give one row a query to both")
    if any(k < 1 for k in ks):
        raise ValueError(f"ks={tuple(ks)}: every k must be at least 1")
    index = pd.RangeIndex(len(scores)) if query_ids is None else pd.Index(query_ids)
    if len(index) != len(scores):
        raise ValueError(f"query_ids names {len(index)} queries, scores hold {len(scores)}")
    parts = [slice(start, start + BLOCK) for start in range(0, len(scores), BLOCK)] or [slice(0, 0)]
    frames = [_block_metrics(scores[part], relevant[part], ks, index[part]) for part in parts]
    return pd.concat(frames).rename_axis("query_id")


def random_baseline(
    relevant: Rows, ks: Sequence[int] = DEFAULT_KS, query_ids: Sequence[str] | None = None
) -> pd.DataFrame:
    """The expected metrics of a random order, which is what `rank_metrics` gives a constant scorer."""
    return rank_metrics([np.zeros(len(row), np.float32) for row in relevant], relevant, ks, query_ids)


def _block_metrics(scores: Rows, relevant: Rows, ks: Sequence[int], index: pd.Index) -> pd.DataFrame:
    rows = [_relevant_places(*pair) for pair in zip(scores, relevant, index, strict=True)]
    lengths = np.array([len(row) for row in scores], dtype=np.int64)
    ties = TieGroups.of(rows, longest=int(lengths.max(initial=0)))
    columns: dict[str, NDArray[Any]] = {"candidates": lengths, "positives": ties.positives}
    for k in ks:
        columns[f"recall@{k}"] = ties.recall(k)
        columns[f"ndcg@{k}"] = ties.dcg(k) / _ideal_dcg([gains for *_, gains in rows], k)
    columns |= {"map": ties.average_precision(), "mrr": ties.reciprocal_rank()}
    return pd.DataFrame(columns, index=index)


def _relevant_places(
    scores: NDArray[Any], relevant: NDArray[Any], query: object
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Of each relevant candidate: how many score higher, how many score the same, and its gain."""
    scores, relevant = np.asarray(scores), np.asarray(relevant)
    if scores.ndim != 1 or scores.shape != relevant.shape:
        raise ValueError(f"query {query!r}: scores have shape {scores.shape}, relevant {relevant.shape}")
    ordered = np.sort(scores)
    if len(ordered) and np.isnan(ordered[-1]):  # a sort puts NaN last
        raise ValueError(f"scores of query {query!r} hold {np.isnan(scores).sum()} NaN: mend the ranker")
    if not (relevant >= 0).all():
        raise ValueError(f"relevant of query {query!r} is negative or NaN: mark unjudged (-1) candidates with 0")
    hits = np.flatnonzero(relevant)
    below = np.searchsorted(ordered, scores[hits], side="left")
    up_to = np.searchsorted(ordered, scores[hits], side="right")
    return len(scores) - up_to, up_to - below, relevant[hits].astype(np.float64)


@dataclass(frozen=True)
class TieGroups:
    """The groups of equally scored candidates that hold a positive, best first within each query.

    Of each group: its `query`, how many candidates score higher (`above`), its `size`, how many of
    it are `relevant`, their summed `gain`, and the positives of groups `before`. `positives` counts
    by query; `longest` is the largest number of candidates. Every metric is the mean over all orders
    of the tied candidates (McSherry and Najork, ECIR 2008).
    """

    query: NDArray[np.int64]
    above: NDArray[np.int64]
    size: NDArray[np.int64]
    relevant: NDArray[np.int64]
    gain: NDArray[np.float64]
    before: NDArray[np.int64]
    positives: NDArray[np.int64]
    longest: int

    @classmethod
    def of(cls, rows: Sequence[tuple[NDArray[Any], ...]], longest: int) -> TieGroups:
        """Group the relevant candidates (above, size, gain) of each query by their score."""
        positives = np.array([len(gains) for *_, gains in rows], dtype=np.int64)
        query = np.repeat(np.arange(len(rows)), positives)
        above, size, gain = (np.concatenate([row[part] for row in rows] or [np.empty(0, int)]) for part in range(3))
        _, first, group, relevant = np.unique(
            query * (longest + 1) + above, return_index=True, return_inverse=True, return_counts=True
        )
        gains = np.bincount(group, weights=gain, minlength=len(first)).astype(np.float64)
        of_earlier_queries = (np.cumsum(positives) - positives)[query[first]]
        before = np.cumsum(relevant) - relevant - of_earlier_queries
        return cls(query[first], above[first], size[first], relevant, gains, before, positives, longest)

    def recall(self, k: int) -> NDArray[np.float64]:
        """Expected share of the positives in the top k (mean of the hypergeometric distribution)."""
        places = np.clip(k - self.above, 0, self.size)
        return self._sum(self.relevant * places / self.size) / self._divisor()

    def dcg(self, k: int) -> NDArray[np.float64]:
        """Expected discounted gain: each of a tied group has the group's mean gain."""
        discount = _discounts(k, self.longest)
        return self._sum(self.gain / self.size * (discount[self.above + self.size] - discount[self.above]))

    def average_precision(self) -> NDArray[np.float64]:
        """Expected average precision.

        Place j of a group of t, with r positives, below a candidates with b positives, holds a
        positive with chance r/t, and then has precision (b + 1 + (j-1)(r-1)/(t-1)) / (a + j).
        """
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, self.longest + 1))])
        reciprocals = harmonic[self.above + self.size] - harmonic[self.above]
        steps = self.size - (self.above + 1) * reciprocals
        tied_density = (self.relevant - 1) / np.maximum(self.size - 1, 1)
        precision = (self.before + 1) * reciprocals + tied_density * steps
        return self._sum(self.relevant / self.size * precision) / self._divisor()

    def reciprocal_rank(self) -> NDArray[np.float64]:
        """Expected reciprocal rank of the first positive."""
        best = self.before == 0
        groups = zip(self.above[best], self.size[best], self.relevant[best], strict=True)
        ranks = np.full(len(self.positives), np.nan)
        ranks[self.query[best]] = [_expected_reciprocal(*group) for group in groups]
        return ranks

    def _sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(self.query, weights=values, minlength=len(self.positives)).astype(np.float64)

    def _divisor(self) -> NDArray[np.float64]:
        return np.where(self.positives > 0, self.positives, np.nan)


def _expected_reciprocal(above: int, size: int, relevant: int) -> float:
    """Mean of 1 / rank of the first of `relevant` positives shuffled among `size`, below `above` others."""
    step = np.arange(size - relevant)
    moving_on = (size - relevant - step) / (size - 1 - step)  # P(first at place j + 1) / P(first at place j)
    chance = relevant / size * np.concatenate([[1.0], np.cumprod(moving_on)])
    return float(chance @ (1 / (above + 1 + np.arange(len(chance)))))


def _ideal_dcg(gains: Sequence[NDArray[np.float64]], k: int) -> NDArray[np.float64]:
    """The highest DCG@k that each query allows; NaN without positives."""
    discount = np.diff(_discounts(k, max(map(len, gains), default=0)))
    ideal = np.array([np.sort(gain)[::-1] @ discount[: len(gain)] for gain in gains])
    return np.where([len(gain) > 0 for gain in gains], ideal, np.nan)


def _discounts(k: int, longest: int) -> NDArray[np.float64]:
    """Summed discounts 1 / log2(1 + rank) of the first n ranks, none beyond k, for n = 0 … longest."""
    ranks = np.arange(1, longest + 1)
    return np.concatenate([[0.0], np.cumsum(np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0))])
