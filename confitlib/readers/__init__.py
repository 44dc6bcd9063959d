"""Readers: the common formats to a Corpus, and a Corpus to the ConFit release layout."""

from confitlib.readers._split import split_documents
from confitlib.readers._tables import ACCEPTABLE
from confitlib.readers.confit import load, save
from confitlib.readers.hub import load_hub
from confitlib.readers.pairs import load_pairs
from confitlib.readers.recbole import load_recbole
from confitlib.readers.tianchi import load_tianchi

__all__ = [
    "ACCEPTABLE",
    "load",
    "load_hub",
    "load_pairs",
    "load_recbole",
    "load_tianchi",
    "save",
    "split_documents",
]
