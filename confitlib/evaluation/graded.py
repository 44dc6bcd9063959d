"""Lists of documents with human grades instead of labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.evaluation.metrics import random_baseline, rank_metrics
from confitlib.evaluation.scorer import Scorer


def evaluate_graded(ranker: Scorer, grades: pd.DataFrame, ks: Sequence[int] = (10,)) -> pd.DataFrame:
    """The metrics of each job's graded resumes (`resume_id, job_id, score`) in the order of a ranker.

    Returns a frame of `rank_metrics`, one row a job; only its nDCG uses the grades, with gains
    `2**score - 1`.
    """
    scores = np.asarray(ranker.score_pairs(list(grades["resume_id"]), list(grades["job_id"])))
    lists, gains = _lists(grades)
    return rank_metrics([scores[rows] for rows in lists.values()], gains, ks, list(lists))


def graded_baseline(grades: pd.DataFrame, ks: Sequence[int] = (10,)) -> pd.DataFrame:
    """What a random order of the same lists is expected to reach."""
    lists, gains = _lists(grades)
    return random_baseline(gains, ks, list(lists))


def _lists(grades: pd.DataFrame) -> tuple[dict[str, NDArray[np.intp]], list[NDArray[np.float64]]]:
    """Rows by job, and the gains of each list."""
    gains = (2.0 ** grades["score"] - 1).to_numpy(dtype=float)
    lists = {str(job): np.asarray(rows) for job, rows in grades.groupby("job_id").indices.items()}
    return lists, [gains[rows] for rows in lists.values()]
