"""Strategies that draw from the top of a ranking by weights: ANCE, SimANS and TriSampler."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from confitlib.mining.head import depth, head, weighted_draw
from confitlib.mining.kernel import FloatArray, IntArray, concatenate
from confitlib.mining.task import Selection, Task
from confitlib.mining.window import ranked

Distribution = Literal["triangle", "gap"]


def ance(task: Task, k: int | None = None) -> Selection:
    """`n` documents uniformly from the `k` highest-ranked of each query.

    One refresh of ANCE; `confitlib.training.Refresh` repeats it with the encoder as it learns. `k`: see `depth`.
    Source: Xiong et al. 2020, arXiv 2007.00808; the released code takes 200 and keeps them undenoised.
    """
    task.quota()
    stop = depth(task, k)
    start = np.zeros_like(stop)
    return task.from_pool(concatenate(ranked(task, start, stop, task.draw_ranks(start, stop))))


def simans(task: Task, a: float = 0.5, b: float = 0.0, temperature: float = 0.05, k: int | None = None) -> Selection:
    """`n` documents of the `k` highest-ranked, with p ∝ exp(-a ((s - s⁺) / temperature - b)²): as hard as a positive.

    s⁺ is the mean score of the query's training positives; without any, all weigh the same. A negative `b` moves
    the peak below the positive. The released code adds `b` where the paper's formula subtracts it: pass its values
    with the other sign. Its scores are dot products with a spread of several units; `temperature` brings cosines to
    that scale (our choice: that of the loss). Source: Zhou et al. 2022, arXiv 2210.11773; a = 0.5, b = 0 there.
    """
    if not (a >= 0 and temperature > 0):
        raise ValueError(
            f"a must not be negative and temperature must be positive, got a={a}, temperature={temperature}"
        )
    picks = head(task, k)
    gap = (picks.score - task.mean_positive_scores()[picks.query]) / temperature
    return task.from_pool(weighted_draw(task, picks, np.nan_to_num(-a * (gap - b) ** 2, nan=0.0)))


def trisampler(
    task: Task,
    distribution: Distribution = "triangle",
    max_angle: float = 60.0,
    temperature: float = 0.05,
    k: int | None = None,
) -> Selection:
    """`n` documents of the `k` highest-ranked that form a near-triangle with the query and its positive.

    Kept are documents whose angle to the query differs from the positive's by at most `max_angle` degrees. Their
    weights are ReLU(s(d⁺, d⁻) - s(q, d⁻)) ("triangle": closer to the positive than to the query) or
    exp(-((s⁻ - s⁺) / temperature)² / 4) ("gap"). How the paper joins both is not known to us: choose one. d⁺ is the
    mean of the query's positives; without any, all weigh the same. Where no document is closer to the positive
    than to the query, "triangle" gives nothing. Source: Yang et al. 2024, arXiv 2402.11855.
    """
    if distribution not in get_args(Distribution):
        raise ValueError(f"distribution={distribution!r} is unknown; use one of {list(get_args(Distribution))}")
    if not (max_angle >= 0 and temperature > 0):
        raise ValueError(f"max_angle={max_angle} must not be negative and temperature={temperature} must be positive")
    picks, positive = head(task, k), task.mean_positive_scores()
    known = positive[picks.query]
    if distribution == "gap":
        log_weights = -(((picks.score - known) / temperature) ** 2) / 4
    else:
        with np.errstate(divide="ignore"):
            log_weights = np.log(np.maximum(_to_positives(task, picks.query, picks.item) - picks.score, 0.0))
    turn = np.abs(np.arccos(np.clip(known, -1, 1)) - np.arccos(np.clip(picks.score, -1, 1)))
    log_weights = np.where(turn > np.deg2rad(max_angle), -np.inf, log_weights)
    return task.from_pool(weighted_draw(task, picks, np.where(np.isnan(known), 0.0, log_weights)))


def _to_positives(task: Task, query: IntArray, item: IntArray) -> FloatArray:
    """Mean inner product of documents with the positives of a query, for flat pairs."""
    _, pool = task.vectors
    rows, columns = task.labelled(1)
    sums, counts = np.zeros((len(task.query_ids), pool.shape[1]), dtype=np.float32), np.zeros(len(task.query_ids))
    np.add.at(sums, rows, pool[columns])
    np.add.at(counts, rows, 1)
    centres = sums / np.maximum(counts, 1)[:, None]
    return np.einsum("nd,nd->n", centres[query], pool[item])
