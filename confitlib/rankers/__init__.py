"""Every matching system behind one interface."""

from confitlib.rankers.base import BM25, CountTable, Ranker, TfIdf
from confitlib.rankers.confit import ConFitV1, FieldConfig, RejectedNegatives
from confitlib.rankers.cross_encoder import CrossEncoder
from confitlib.rankers.dense import ConFitV2, HyDE, HyQE, InBatch, Mined, OpenAIEmbed, RawEmbed, TwoTowers
from confitlib.rankers.federated import FedPJF
from confitlib.rankers.graph import DPGNN, GraphConfig
from confitlib.rankers.matchers import APJFNN, BPJFNN, PJFNN, GlobalMatch, InEXIT, MVCoN, Siamese
from confitlib.rankers.pair_training import PairMatcher, PairTraining
from confitlib.rankers.rerank import LLMReranker
from confitlib.rankers.trees import Trees

WORDS = (BM25, TfIdf, CountTable, Trees)
ENCODERS = (RawEmbed, TwoTowers, OpenAIEmbed, HyDE, HyQE)
CONFIT = (InBatch, Mined, RejectedNegatives, ConFitV1, ConFitV2)
MATCHERS = (PJFNN, BPJFNN, APJFNN, Siamese, GlobalMatch, MVCoN, InEXIT, DPGNN, FedPJF)
SECOND_STAGES = (CrossEncoder, LLMReranker)

RANKERS: dict[str, type[Ranker]] = {
    ranker.__name__: ranker for ranker in (*WORDS, *ENCODERS, *CONFIT, *MATCHERS, *SECOND_STAGES)
}
