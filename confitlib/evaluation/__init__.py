"""Evaluation: ranking and classification metrics, bootstrap intervals, paired tests."""

from confitlib.evaluation.metrics import random_baseline, rank_metrics
from confitlib.evaluation.ranking import evaluate_classification, evaluate_graded, evaluate_ranking, graded_baseline
from confitlib.evaluation.statistics import compare, holm, summarise, summarise_runs
