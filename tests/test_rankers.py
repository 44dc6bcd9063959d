"""Every ranker beats chance on a tiny market, keeps its scores through save and load, and names what is unknown."""

from dataclasses import replace

import numpy as np
import pytest

from confitlib.corpus import SIDES
from confitlib.evaluation import evaluate_ranking
from confitlib.rankers import BM25, RANKERS, ConFitV2, InBatch, PairMatcher, RawEmbed, load_ranker
from confitlib.training import TrainingConfig

QUICK = TrainingConfig(epochs=1, batch_size=8)


@pytest.fixture(scope="module")
def fitted(tiny):
    return {name: build(name).fit(tiny) for name in RANKERS}


def build(name):
    if name == "RawEmbed":
        return RawEmbed("static")
    if issubclass(RANKERS[name], PairMatcher):
        return RANKERS[name](config=replace(RANKERS[name]().config, epochs=1))
    return RANKERS[name](config=QUICK) if issubclass(RANKERS[name], InBatch) else RANKERS[name]()


@pytest.mark.parametrize("name", RANKERS)
@pytest.mark.parametrize("target", SIDES)
def test_ranker_beats_a_random_order(fitted, tiny, name, target):
    result = evaluate_ranking(fitted[name], tiny, target)
    assert result.means()["ndcg@10"] > 1.5 * result.random()["ndcg@10"]


@pytest.mark.parametrize("name", RANKERS)
def test_ranker_round_trip(fitted, tiny, tmp_path, name):
    fitted[name].save(tmp_path)
    loaded = load_ranker(tmp_path, tiny)
    resumes, jobs = tiny.pool("resume", "test")[:7], tiny.pool("job", "test")[:5]
    for target in SIDES:
        ours, theirs = (ranker.score(resumes, jobs, target=target) for ranker in (fitted[name], loaded))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert loaded.get_params() == fitted[name].get_params()


@pytest.mark.parametrize("name", RANKERS)
def test_scores_of_pairs_are_the_cells_of_the_matrix(fitted, tiny, name):
    resumes, jobs = list(tiny.pool("resume", "test")[:6]), list(tiny.pool("job", "test")[:6])
    matrix = fitted[name].score(resumes, jobs)
    assert matrix.shape == (6, 6) and matrix.dtype == np.float32
    order = [3, 0, 5, 1]
    pairs = fitted[name].score_pairs([resumes[i] for i in order], [jobs[-i] for i in order])
    np.testing.assert_allclose(pairs, [matrix[i, -i] for i in order], atol=1e-5)


def test_unknown_ids_are_named(fitted):
    with pytest.raises(KeyError, match="'nobody' is not in corpus"):
        fitted["BM25"].score(["nobody"], [])


def test_bm25_directions_differ_and_variants_differ(fitted, tiny):
    resumes, jobs = tiny.pool("resume", "test")[:5], tiny.pool("job", "test")[:5]
    okapi = fitted["BM25"]
    assert not np.allclose(okapi.score(resumes, jobs, "resume"), okapi.score(resumes, jobs, "job"))
    longer = RANKERS["BM25"]("bm25l").fit(tiny)
    assert not np.allclose(okapi.score(resumes, jobs), longer.score(resumes, jobs))


def test_bm25_can_count_every_word_of_the_query_once(tiny):
    twice = replace(tiny, jobs=tiny.jobs.assign(about=tiny.jobs["about"] + " " + tiny.jobs["about"]))
    resumes, jobs = tiny.pool("resume", "test")[:5], tiny.pool("job", "test")[:5]
    for unique in (True, False):
        once, repeated = (BM25(unique=unique).fit(corpus).score(resumes, jobs) for corpus in (tiny, twice))
        assert np.allclose(once, repeated) == unique


def test_hyre_text_changes_job_vectors_only(tiny):
    job = tiny.jobs.index[0]
    told = tiny.with_hypothetical_resumes({job: "Ten years of beekeeping."})
    plain, hyre = RawEmbed("static").fit(tiny).embeddings, RawEmbed("static").fit(told).embeddings
    ignored = RawEmbed("static", hyre=False).fit(told).embeddings
    assert np.array_equal(plain.resumes, hyre.resumes) and np.array_equal(plain.jobs, ignored.jobs)
    assert not np.array_equal(plain.jobs[0], hyre.jobs[0]) and np.array_equal(plain.jobs[1:], hyre.jobs[1:])


def test_confit_v2_trains_on_its_own_runner_ups(fitted):
    negatives = fitted["ConFitV2"].negatives
    assert {side: negatives[side].parameters["strategy"] for side in SIDES} == dict.fromkeys(SIDES, "band")
    assert all(negatives[side].statistics["queries_without_negatives"] == 0 for side in SIDES)


def test_cached_training_gives_the_same_ranker(tiny, tmp_path):
    fresh = ConFitV2(config=QUICK).fit(tiny)
    for _ in range(2):  # computed, then read
        cached = ConFitV2(config=QUICK, cache=str(tmp_path)).fit(tiny)
        np.testing.assert_allclose(cached.embeddings.jobs, fresh.embeddings.jobs, atol=1e-6)
