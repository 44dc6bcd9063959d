"""Contrastive training of the dual encoder: the two-sided loss, its batches, and a Trainer that resumes."""

from confitlib.training.loss import confit_v1_loss, contrastive_loss, info_nce
from confitlib.training.pairs import PairCollator, PositivePairs
from confitlib.training.trainer import Refresh, TrainingConfig, TrainingResult, train, train_once
