"""Tell suitable pairs from unsuitable ones: a threshold tuned on validation, applied to test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from confitlib.corpus import Corpus, Split
from confitlib.evaluation.intervals import bootstrap_interval
from confitlib.evaluation.scorer import Scorer, checked

METRICS = ["f1_weighted", "roc_auc", "precision", "recall"]


@dataclass(frozen=True, eq=False)
class ClassificationResult:
    """The labelled test pairs of one ranker (`resume_id, job_id, label, score, predicted`) and the threshold.

    `notes` says which metrics are undefined, and why.
    """

    ranker: str
    threshold: float
    pairs: pd.DataFrame
    notes: tuple[str, ...] = ()

    def means(self) -> dict[str, float]:
        """Weighted F1, ROC-AUC, precision and recall of the positive class on the test pairs."""
        return dict(zip(METRICS, map(float, _pair_metrics(*self._columns(), axis=-1)), strict=True))

    def summary(self, seed: int = 0) -> pd.DataFrame:
        """Each metric with its 95 % bootstrap interval over pairs: rows `metric`, columns `mean, low, high`.

        The threshold is kept, so the interval holds the uncertainty of the test pairs alone.
        """
        low, high = bootstrap_interval(self._columns(), _pair_metrics, seed)
        table = {"mean": list(self.means().values()), "low": low, "high": high}
        return pd.DataFrame(table, index=pd.Index(METRICS, name="metric"))

    def _columns(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        order = rankdata(self.pairs["score"], method="dense").astype(np.int32)  # ranks again faster than floats
        return self.pairs["label"].to_numpy(), order, self.pairs["predicted"].to_numpy()


def evaluate_classification(ranker: Scorer, corpus: Corpus, official: bool = False) -> ClassificationResult:
    """Classify the labelled test pairs by a threshold that maximises weighted F1 on the validation pairs.

    A pair is accepted if its score is above the threshold. `official=True` searches the thresholds of
    the released `eval.py` (lines 51-66), see `tune_threshold`.

    Raises ValueError if validation or test has no labels, or for scores that are not finite.
    """
    valid, test = (_scored_pairs(ranker, corpus, split) for split in ("valid", "test"))
    threshold = tune_threshold(valid["label"], valid["score"], official)
    test["predicted"] = (test["score"] > threshold).astype(np.int64)
    notes = [
        f"{split} labels hold one class" for split, pairs in (("valid", valid), ("test", test)) if _one_class(pairs)
    ]
    if not test["predicted"].any():
        notes.append("no test pair is above the threshold: precision is undefined")
    return ClassificationResult(ranker.name, threshold, test, tuple(notes))


def tune_threshold(labels: ArrayLike, scores: ArrayLike, official: bool = False) -> float:
    """The threshold whose predictions `score > threshold` have the highest weighted F1, in O(n log n).

    Candidates lie midway between neighbouring scores, and at both ends (all or no pair accepted);
    of equally good ones the lowest is taken. `official=True`: candidates are the scores themselves,
    so the lowest pair is never accepted and the threshold clings to one validation pair.
    """
    label, score = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    levels = np.unique(score)
    between = levels[:-1] + np.diff(levels) / 2
    between = np.minimum(between, np.nextafter(levels[1:], -np.inf))  # neighbouring floats have no midpoint
    candidates = levels if official else np.array([np.nextafter(levels[0], -np.inf), *between, levels[-1]])
    positives, negatives = (np.sort(score[label == value]) for value in (1, 0))
    hits = len(positives) - np.searchsorted(positives, candidates, side="right")
    false_alarms = len(negatives) - np.searchsorted(negatives, candidates, side="right")
    return float(candidates[np.argmax(_weighted_f1(hits, false_alarms, len(positives), len(negatives)))])


def _scored_pairs(ranker: Scorer, corpus: Corpus, split: Split) -> pd.DataFrame:
    pairs = corpus.labelled(split)[["resume_id", "job_id", "label"]]
    if pairs.empty:
        what = f"corpus {corpus.name!r} has no {split} labels"
        raise ValueError(f"{what}: classification needs labelled pairs to tune (valid) and to test (test)")
    scores = ranker.score_pairs(list(pairs["resume_id"]), list(pairs["job_id"]))
    scores = checked(ranker, scores, (len(pairs),)).astype(np.float64)
    if not np.isfinite(scores).all():
        first = pairs.iloc[np.flatnonzero(~np.isfinite(scores))[0]]
        raise ValueError(f"ranker {ranker.name!r} scores {first['resume_id']!r}, {first['job_id']!r} NaN or infinite")
    return pairs.assign(score=scores)


def _one_class(pairs: pd.DataFrame) -> bool:
    return pairs["label"].nunique() < 2


def _pair_metrics(label: NDArray[Any], score: NDArray[Any], predicted: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """The metrics of `METRICS` along the last axis, so that thousands of resamples take one call."""
    positives = label.sum(axis=axis)
    negatives = label.shape[axis] - positives
    hits = (label * predicted).sum(axis=axis)
    false_alarms = predicted.sum(axis=axis) - hits
    wins = (rankdata(score, axis=axis) * label).sum(axis=axis) - positives * (positives + 1) / 2
    return np.stack(
        [
            _weighted_f1(hits, false_alarms, positives, negatives),
            _ratio(wins, positives * negatives),
            _ratio(hits, hits + false_alarms),
            _ratio(hits, positives),
        ]
    )


def _weighted_f1(hits: Any, false_alarms: Any, positives: Any, negatives: Any) -> NDArray[np.float64]:
    """F1 of both classes, weighted by their share of the pairs; a class nobody has or predicts counts 0."""
    rejected = negatives - false_alarms
    accepted_f1 = 2 * hits / np.maximum(hits + false_alarms + positives, 1)
    rejected_f1 = 2 * rejected / np.maximum(rejected + positives - hits + negatives, 1)
    return (positives * accepted_f1 + negatives * rejected_f1) / (positives + negatives)


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    """part / whole, NaN where whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
