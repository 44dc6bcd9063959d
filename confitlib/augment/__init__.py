"""Augmentation with and without an LLM: hypothetical documents, copies, synthetic negatives."""

from confitlib.augment.documents import Generator, generate, hyjob, hyre, paraphrase, recorded_answers
from confitlib.augment.documents import shared_words, synthetic_negatives, vocabulary_gap
from confitlib.augment.edits import eda
from confitlib.augment.offline import hypothetical_offline
from confitlib.augment.tasks import TASKS, official_clean, requests_of
from confitlib.corpus import COPY_OF, HYJOB, HYRE, NEGATIVE_FOR
