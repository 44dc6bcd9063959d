"""How sure a mean over queries or runs is: intervals, paired randomisation tests, Holm's correction."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from confitlib.evaluation.metrics import COUNTS
from confitlib.util import checked

CONFIDENCE = 0.95
RESAMPLES = 1999
PERMUTATIONS = 9999
BATCH_CELLS = 2**18  # resampled values at a time: 2 MiB of float64, which a core's cache holds


@checked
def summarise(queries: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The mean of each metric over the queries that have positives, with its 95 % bootstrap interval.

    `queries`: a frame of `rank_metrics`. Returns rows indexed by `metric` with `mean, low, high`.
    With fewer than two usable queries the interval is NaN.
    """
    if missing := sorted({*COUNTS} - {*queries.columns}):
        raise ValueError(f"queries lack {missing}: give a frame of rank_metrics")
    used = queries[queries["positives"] > 0].drop(columns=COUNTS)
    low, high = bootstrap_interval([used.to_numpy().T], np.mean, seed)
    return pd.DataFrame({"mean": used.mean(), "low": low, "high": high}).rename_axis("metric")


def bootstrap_interval(
    samples: Sequence[NDArray[Any]], statistic: Callable[..., NDArray[Any]], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile bootstrap interval (95 %) of a vectorised statistic of paired samples `[..., n]`.

    `statistic(*samples, axis)` may return several values; resamples on which it is undefined (NaN)
    are left out. Returns low and high, NaN with fewer than two observations.
    """
    if samples[0].shape[-1] < 2:
        blank = np.full(np.shape(statistic(*samples, axis=-1)), np.nan)
        return blank, blank
    # the statistic of every resample  [values, RESAMPLES], then its quantiles
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of NaN resamples
        drawn = stats.bootstrap(
            samples, statistic, n_resamples=RESAMPLES, batch=max(1, BATCH_CELLS // samples[0].size), paired=True,
            axis=-1, vectorized=True, method="percentile", rng=np.random.default_rng(seed),
        )  # fmt: skip
        tail = (1 - CONFIDENCE) / 2
        low, high = np.nanquantile(drawn.bootstrap_distribution, [tail, 1 - tail], axis=-1)
    return low, high


@dataclass(frozen=True)
class Comparison:
    """The mean difference a - b of one metric over shared queries, its 95 % interval and p-value."""

    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    queries: int


@checked
def compare(a: pd.DataFrame, b: pd.DataFrame, metric: str, seed: int = 0) -> Comparison:
    """Paired randomisation test of two rankers on the same queries (Smucker et al., CIKM 2007).

    `a`, `b`: frames of `rank_metrics` (or `RankingResult.queries`) with equal query ids and equal
    positives. The null hypothesis flips the sign of each query's difference at random; two-sided.

    Raises ValueError if the frames do not hold the metric and the same queries, or fewer than two with positives.

    >>> import pandas as pd
    >>> from confitlib import compare
    >>> a = pd.DataFrame({"candidates": 50, "positives": 1, "mrr": [0.5, 1.0, 0.5, 1.0]})
    >>> test = compare(a, a.assign(mrr=a["mrr"] / 2), "mrr")
    >>> test.difference, test.p_value
    (0.375, 0.125)
    """
    # 1. both must rank the same queries, with the same candidates and positives
    if set(a.index) != set(b.index) or a.index.has_duplicates:
        raise ValueError("a and b rank different queries: evaluate both on the same corpus, split and candidates")
    if metric not in a.columns or metric not in b.columns:
        shared = ", ".join(name for name in a.columns if name in b.columns and name not in COUNTS)
        raise ValueError(f"a and b do not both hold {metric!r}: there are {shared}; evaluate with the k that you need")
    b = b.loc[a.index]
    if not a[COUNTS].equals(b[COUNTS]):
        raise ValueError("a and b differ in candidates or positives: evaluate both with the same relevance")
    # 2. the differences, the interval of their mean, and how often random signs give a mean as far from 0
    difference = (a[metric] - b[metric])[a["positives"] > 0].to_numpy()
    if (n := len(difference)) < 2:
        raise ValueError(f"a paired test needs two queries with positives, there are {n}")
    low, high = bootstrap_interval([difference], np.mean, seed)
    test = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=PERMUTATIONS,
        batch=max(1, BATCH_CELLS // n), vectorized=True, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Comparison(metric, float(difference.mean()), float(low), float(high), float(test.pvalue), n)


def summarise_runs(data: pd.DataFrame, by: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Mean of a column for every group with Student's confidence interval; the rest, e.g. seeds, varies.

    Returns the `by` columns, mean, low, high and n, groups in order of appearance; low and high are
    NaN where a group holds one value.
    """
    groups = data.groupby(list(by), sort=False, dropna=False)[value].agg(["mean", "std", "count"]).reset_index()
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, groups["count"] - 1)  # NaN without a degree of freedom
    half = quantile * groups["std"] / np.sqrt(groups["count"])
    intervals = groups.assign(low=groups["mean"] - half, high=groups["mean"] + half, n=groups["count"])
    return intervals[[*by, "mean", "low", "high", "n"]]


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted for several comparisons by Holm's step-down method (family-wise error); NaN is no test.

    The i-th smallest of m p-values is multiplied by m - i + 1, and none falls below a smaller one. Used rather than
    false discovery rates because a table compares few systems and each claim must hold.
    """
    given = np.asarray(p_values)
    if given.ndim != 1 or given.dtype.kind not in "biuf" or not ((given >= 0) & (given <= 1) | np.isnan(given)).all():
        raise ValueError("p_values must be a list of numbers from 0 to 1")
    p = given.astype(np.float64)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN is sorted last
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted
