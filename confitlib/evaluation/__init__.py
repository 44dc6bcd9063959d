"""Evaluation: ranking and classification metrics, bootstrap intervals, paired tests."""

from confitlib.evaluation.classification import ClassificationResult, evaluate_classification, tune_threshold
from confitlib.evaluation.graded import evaluate_graded, graded_baseline
from confitlib.evaluation.intervals import Comparison, bootstrap_interval, compare, holm, summarise, summarise_runs
from confitlib.evaluation.metrics import random_baseline, rank_metrics
from confitlib.evaluation.ranking import RankingResult, evaluate_ranking
from confitlib.evaluation.scorer import Scorer

__all__ = [
    "ClassificationResult",
    "Comparison",
    "RankingResult",
    "Scorer",
    "bootstrap_interval",
    "compare",
    "evaluate_classification",
    "evaluate_graded",
    "evaluate_ranking",
    "graded_baseline",
    "holm",
    "random_baseline",
    "rank_metrics",
    "summarise",
    "summarise_runs",
    "tune_threshold",
]
