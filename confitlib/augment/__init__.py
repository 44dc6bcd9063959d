"""Augmentation with and without an LLM: hypothetical documents, copies, synthetic negatives."""

from confitlib.augment.documents import (
    Generator,
    generate,
    hyjob,
    hyre,
    paraphrase,
    recorded_answers,
    synthetic_negatives,
)
from confitlib.augment.edits import eda
from confitlib.augment.offline import hypothetical_offline
from confitlib.augment.tasks import TASKS

__all__ = [
    "TASKS",
    "Generator",
    "eda",
    "generate",
    "hyjob",
    "hypothetical_offline",
    "hyre",
    "paraphrase",
    "recorded_answers",
    "synthetic_negatives",
]
