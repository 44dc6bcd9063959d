"""Augmentation with and without an LLM: hypothetical documents, copies, synthetic negatives."""

from confitlib.augment.documents import hyjob, hyre, paraphrase, synthetic_negatives
from confitlib.augment.edits import eda
from confitlib.augment.offline import OfflineWriter
from confitlib.augment.tasks import TASKS
from confitlib.augment.writing import AnyWriter, write
from confitlib.augment.written import Written

__all__ = [
    "TASKS",
    "AnyWriter",
    "OfflineWriter",
    "Written",
    "eda",
    "hyjob",
    "hyre",
    "paraphrase",
    "synthetic_negatives",
    "write",
]
