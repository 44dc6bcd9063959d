"""Augmentation with and without an LLM: hypothetical documents, copies, synthetic negatives."""

from confitlib.augment.documents import Generator, generate, hyjob, hypothetical_documents, hyre, paraphrase
from confitlib.augment.documents import recorded_answers, shared_words, synthetic_negatives, vocabulary_gap
from confitlib.augment.edits import eda
from confitlib.augment.offline import hypothetical_offline
from confitlib.augment.tasks import TASKS, official_clean, requests_of
from confitlib.corpus import COPY_OF, HYJOB, HYRE, NEGATIVE_FOR
