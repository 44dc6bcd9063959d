"""Every matching system behind one protocol."""

from __future__ import annotations

import json
from pathlib import Path

from confitlib.corpus import Corpus
from confitlib.rankers.augmented import HyDE, HyQE
from confitlib.rankers.base import Ranker
from confitlib.rankers.dense import ConFitV1, ConFitV2, InBatch, RawEmbed
from confitlib.rankers.lexical import BM25, TfIdf

RANKERS: dict[str, type[Ranker]] = {
    ranker.__name__: ranker for ranker in (BM25, TfIdf, RawEmbed, InBatch, ConFitV1, ConFitV2, HyDE, HyQE)
}

__all__ = [
    "BM25",
    "RANKERS",
    "ConFitV1",
    "ConFitV2",
    "HyDE",
    "HyQE",
    "InBatch",
    "Ranker",
    "RawEmbed",
    "TfIdf",
    "load_ranker",
]


def load_ranker(folder: Path, corpus: Corpus) -> Ranker:
    """Read a saved ranker and make it ready to score the documents of a corpus."""
    saved = json.loads((folder / "ranker.json").read_text())
    ranker = RANKERS[saved["ranker"]](**saved["parameters"])
    ranker._load_learnt(folder)
    return ranker.index(corpus)
