"""Every matching system behind one protocol."""

from __future__ import annotations

import json
from pathlib import Path

from confitlib.corpus import Corpus
from confitlib.rankers.apjfnn import APJFNN, BPJFNN
from confitlib.rankers.augmented import HyDE, HyQE
from confitlib.rankers.base import Ranker
from confitlib.rankers.dense import ConFitV1, ConFitV2, InBatch, Mined, RawEmbed
from confitlib.rankers.global_match import GlobalMatch
from confitlib.rankers.inexit import InEXIT
from confitlib.rankers.lexical import BM25, TfIdf
from confitlib.rankers.mvcon import MVCoN
from confitlib.rankers.neural import PairMatcher, PairTraining
from confitlib.rankers.pjfnn import PJFNN
from confitlib.rankers.siamese import Siamese

_LEXICAL = (BM25, TfIdf)
_DENSE = (RawEmbed, InBatch, Mined, ConFitV1, ConFitV2)
_AUGMENTED = (HyDE, HyQE)
_MATCHERS = (PJFNN, BPJFNN, APJFNN, Siamese, GlobalMatch, MVCoN, InEXIT)

RANKERS: dict[str, type[Ranker]] = {ranker.__name__: ranker for ranker in (*_LEXICAL, *_DENSE, *_AUGMENTED, *_MATCHERS)}

__all__ = [
    "APJFNN",
    "BM25",
    "BPJFNN",
    "PJFNN",
    "RANKERS",
    "ConFitV1",
    "ConFitV2",
    "GlobalMatch",
    "HyDE",
    "HyQE",
    "InBatch",
    "InEXIT",
    "MVCoN",
    "Mined",
    "PairMatcher",
    "PairTraining",
    "Ranker",
    "RawEmbed",
    "Siamese",
    "TfIdf",
    "load_ranker",
]


def load_ranker(folder: Path, corpus: Corpus) -> Ranker:
    """Read a saved ranker and make it ready to score the documents of a corpus."""
    saved = json.loads((folder / "ranker.json").read_text())
    ranker = RANKERS[saved["ranker"]](**saved["parameters"])
    ranker._load_learnt(folder)
    return ranker.index(corpus)
