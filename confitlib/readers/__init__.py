"""Readers: the common formats to a Corpus, and a Corpus to the ConFit release layout."""

from confitlib.readers.adapters import load_hub, load_recbole, load_tianchi
from confitlib.readers.release import load, save
from confitlib.readers.repairs import ACCEPTABLE
from confitlib.readers.tables import load_pairs, split_documents
