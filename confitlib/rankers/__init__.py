"""Every matching system behind one protocol."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from confitlib.corpus import Corpus
from confitlib.rankers.augmented import HyDE, HyQE
from confitlib.rankers.base import Ranker, from_json
from confitlib.rankers.confit_v1 import FieldConFitV1
from confitlib.rankers.cross_encoder import CrossEncoder
from confitlib.rankers.dense import ConFitV1, ConFitV2, InBatch, Mined, RawEmbed
from confitlib.rankers.federated import FedPJF
from confitlib.rankers.graph import DPGNN
from confitlib.rankers.lexical import BM25, TfIdf
from confitlib.rankers.llm_rerank import LLMReranker
from confitlib.rankers.matchers import APJFNN, BPJFNN, PJFNN, GlobalMatch, InEXIT, MVCoN, Siamese
from confitlib.rankers.pair_training import PairMatcher, PairTraining
from confitlib.rankers.rerank import FIRST, Reranker
from confitlib.rankers.trees import Trees
from confitlib.rankers.zero_shot import OpenAIEmbed, TwoTowers

_WORDS = (BM25, TfIdf, Trees)
_ENCODERS = (RawEmbed, TwoTowers, OpenAIEmbed, HyDE, HyQE)
_CONFIT = (InBatch, Mined, ConFitV1, FieldConFitV1, ConFitV2)
_MATCHERS = (PJFNN, BPJFNN, APJFNN, Siamese, GlobalMatch, MVCoN, InEXIT, DPGNN, FedPJF)
_SECOND_STAGES = (CrossEncoder, LLMReranker)

RANKERS: dict[str, type[Ranker]] = {
    ranker.__name__: ranker for ranker in (*_WORDS, *_ENCODERS, *_CONFIT, *_MATCHERS, *_SECOND_STAGES)
}

__all__ = [
    "APJFNN",
    "BM25",
    "BPJFNN",
    "DPGNN",
    "PJFNN",
    "RANKERS",
    "ConFitV1",
    "ConFitV2",
    "CrossEncoder",
    "FedPJF",
    "FieldConFitV1",
    "GlobalMatch",
    "HyDE",
    "HyQE",
    "InBatch",
    "InEXIT",
    "LLMReranker",
    "MVCoN",
    "Mined",
    "OpenAIEmbed",
    "PairMatcher",
    "PairTraining",
    "Ranker",
    "RawEmbed",
    "Siamese",
    "TfIdf",
    "Trees",
    "TwoTowers",
    "load_ranker",
]


def load_ranker(folder: str | Path, corpus: Corpus) -> Ranker:
    """Read a saved ranker and make it ready to score the documents of a corpus."""
    return _read(Path(folder)).index(corpus)


def _read(folder: Path) -> Ranker:
    saved = json.loads((folder / "ranker.json").read_text())
    kind = RANKERS[saved["ranker"]]
    defaults = inspect.signature(kind).parameters
    ranker = kind(**{name: from_json(defaults[name].default, value) for name, value in saved["parameters"].items()})
    if isinstance(ranker, Reranker):
        ranker.first = _read(folder / FIRST)
    ranker._load_learnt(folder)
    return ranker
