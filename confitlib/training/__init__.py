"""Contrastive training of the dual encoder: the two-sided loss, its batches, and a Trainer that resumes."""

from confitlib.training.batches import DocumentStore, LengthGroupedSampler, PairCollator, PositivePairs
from confitlib.training.config import TrainingConfig
from confitlib.training.loss import confit_v1_loss, contrastive_loss, info_nce
from confitlib.training.optimizer import RowAdam
from confitlib.training.refresh import Refresh
from confitlib.training.runs import TrainingResult, train, train_once
from confitlib.training.trainer import ContrastiveTrainer, DualEncoder

__all__ = [
    "ContrastiveTrainer",
    "DocumentStore",
    "DualEncoder",
    "LengthGroupedSampler",
    "PairCollator",
    "PositivePairs",
    "Refresh",
    "RowAdam",
    "TrainingConfig",
    "TrainingResult",
    "confit_v1_loss",
    "contrastive_loss",
    "info_nce",
    "train",
    "train_once",
]
