"""What every ranker says about how much it learns, against counts by hand."""

import pytest

from confitlib.market import compose
from confitlib.rankers import RANKERS, InBatch, LLMReranker, PairTraining, RawEmbed, Trees
from confitlib.rankers.confit_v1 import FieldConfig
from confitlib.rankers.dpgnn import GraphConfig
from confitlib.rankers.federation import FederatedConfig
from confitlib.training import TrainingConfig

WIDTH, VOCABULARY = 384, 30_522  # of the offline token vectors
DIM, HIDDEN = 8, 4  # two directions of 4 make 8 again
ONCE = {"config": PairTraining(epochs=1)}
DENSE = {"config": TrainingConfig(epochs=1, batch_size=8)}
GRAPH = {"config": GraphConfig(dim=3, text_dim=2, epochs=1)}
FIELDS = {"config": FieldConfig(epochs=1, batch_size=16, feedforward=64)}

MAP = WIDTH * DIM
LSTMS = 2 * (4 * HIDDEN * (DIM + HIDDEN) + 8 * HIDDEN)
ATTENTION = DIM**2 + DIM + DIM
COMPARE = 3 * DIM * 2 * DIM + 2 * DIM + 2 * DIM + 1  # [j; r; j - r] to 2 dim to 1
NEARNESS = 2


def convolution(width, norm=0):
    return DIM * DIM * width + DIM + norm


def transformer(dim, feedforward):
    return 4 * (dim**2 + dim) + 2 * dim * feedforward + feedforward + dim + 2 * 2 * dim


PJFNN = MAP + convolution(5) + convolution(3, 2 * DIM) + convolution(5) + convolution(5, 2 * DIM) + NEARNESS
UNTRAINED = ("BM25", "TfIdf", "RawEmbed", "TwoTowers", "OpenAIEmbed", "HyDE", "HyQE")
TRAINED = {
    **dict.fromkeys(("InBatch", "Mined", "ConFitV1", "ConFitV2"), (DENSE, (WIDTH + 1) * VOCABULARY)),
    "FieldConFitV1": (FIELDS, transformer(WIDTH, 64) + 12 + 2),  # two merges of 12 fields together
    "PJFNN": ({"dim": DIM, "channels": DIM, **ONCE}, PJFNN),
    "BPJFNN": ({"dim": DIM, "hidden": HIDDEN, **ONCE}, MAP + LSTMS + COMPARE),
    "APJFNN": ({"dim": DIM, "hidden": HIDDEN, **ONCE}, MAP + 2 * LSTMS + 3 * ATTENTION + 2 * DIM**2 + COMPARE),
    "Siamese": ({"dim": DIM, **ONCE}, MAP + 2 * convolution(5) + DIM**2 + DIM),
    "GlobalMatch": (
        {"dim": DIM, "hidden": HIDDEN, **ONCE},
        MAP + convolution(3) + ATTENTION + LSTMS + 3 * DIM**2 + DIM + DIM + DIM + DIM + 1,
    ),
    "MVCoN": ({"dim": DIM, **ONCE}, PJFNN + 2 * (3 * WIDTH * DIM + DIM) + NEARNESS),
    "InEXIT": ({"dim": DIM, "heads": 2, "feedforward": DIM, **ONCE}, MAP + 2 * transformer(DIM, DIM) + COMPARE),
    "FedPJF": ({"config": FederatedConfig(rounds=1, share=1.0, rank=2)}, 2 * 2 * WIDTH),
}
ELSEWHERE = ("Trees", "DPGNN", "LLMReranker", "CrossEncoder")  # the last one in test_systems.py


@pytest.fixture(scope="module")
def small():
    return compose("tiny", seed=1, train_resumes=60, train_jobs=30, valid_resumes=20, valid_jobs=12,
                   test_resumes=20, test_jobs=12).corpus  # fmt: skip


def test_every_ranker_is_counted_here():
    assert {*UNTRAINED, *TRAINED, *ELSEWHERE} == set(RANKERS)


@pytest.mark.parametrize("name", UNTRAINED)
def test_what_is_not_trained_has_no_parameters(small, name):
    assert RANKERS[name]().learn(small).n_parameters == 0


@pytest.mark.parametrize("name", TRAINED)
def test_trained_weights_are_those_of_the_definition(small, name):
    arguments, expected = TRAINED[name]
    assert RANKERS[name](**arguments).learn(small).n_parameters == expected


def test_an_adapter_is_counted_without_what_it_stands_on(small, tmp_path):
    config = TrainingConfig(mode="adapter", epochs=1, batch_size=8)
    for cache in (None, str(tmp_path)):  # as trained, and as read from the cache
        ranker = InBatch("static", config, cache=cache).learn(small)
        assert ranker.n_parameters == WIDTH**2 + WIDTH


def test_the_nodes_of_trees_are_counted(small):
    trees = Trees(rounds=5, leaves=4, dim=8).learn(small)
    text = trees.model.model_to_string()
    leaves = [len(line.split("=")[1].split()) for line in text.splitlines() if line.startswith("leaf_value=")]
    assert len(leaves) == 5 and trees.n_parameters == sum(leaves) + sum(count - 1 for count in leaves)


def test_a_graph_has_vectors_for_known_documents_alone(small):
    seen = small.labelled("train")[["resume_id", "job_id"]].nunique().sum()
    ranker = RANKERS["DPGNN"](**GRAPH).learn(small)
    assert ranker.n_parameters == 2 * 3 * seen + 2 * 2 * WIDTH


def test_a_second_stage_adds_to_the_first(small):
    first = InBatch("static", TrainingConfig(mode="adapter", epochs=1, batch_size=8))
    assert LLMReranker(first).learn(small).n_parameters == WIDTH**2 + WIDTH
    assert LLMReranker(RawEmbed("static")).learn(small).n_parameters == 0
