"""Every ranker beats chance on a tiny market, scores pairs as it scores the matrix, and names what is unknown."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from confitlib.augment import generate
from confitlib.corpus import SIDES
from confitlib.encoder import load_encoder
from confitlib.evaluation import evaluate_ranking
from confitlib.rankers import (
    BM25,
    MATCHERS,
    RANKERS,
    SECOND_STAGES,
    ConFitV1,
    ConFitV2,
    HyDE,
    HyQE,
    InBatch,
    Mined,
    OpenAIEmbed,
    Ranker,
    RawEmbed,
    Trees,
    TwoTowers,
    confit,
    dense,
)
from confitlib.rankers.confit import FieldConfig
from confitlib.rankers.dense import rescored
from confitlib.text import texts
from confitlib.training import TrainingConfig

QUICK = TrainingConfig(epochs=1, batch_size=8)
ELSEWHERE = {kind.__name__ for kind in (*MATCHERS, *SECOND_STAGES, Trees, TwoTowers, OpenAIEmbed, ConFitV1)}
HERE = [name for name in RANKERS if name not in ELSEWHERE]  # a new ranker is checked as soon as it is in RANKERS


@pytest.fixture(scope="module")
def fitted(tiny):
    return {name: build(name).fit(tiny) for name in HERE}


def build(name):
    if name in ("RawEmbed", "HyDE", "HyQE"):
        return RANKERS[name]("static")
    return RANKERS[name](config=QUICK) if issubclass(RANKERS[name], InBatch) else RANKERS[name]()


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("target", SIDES)
def test_ranker_beats_a_random_order(fitted, tiny, name, target):
    result = evaluate_ranking(fitted[name], tiny, target)
    assert result.means()["ndcg@10"] > 1.5 * result.random()["ndcg@10"]


@pytest.mark.parametrize("name", RANKERS)
def test_a_ranker_without_documents_says_what_to_call(name):
    with pytest.raises(RuntimeError, match=r"no documents to score yet: call fit\(corpus\)"):
        RANKERS[name]().score(["r1"], ["j1"])


def test_a_ranker_of_ones_own_needs_a_score_alone(tiny):
    class Length(Ranker):
        """Prefers long resumes to short ones, whatever the job."""

        name = "length"

        def score(self, resume_ids, job_ids, target="resume"):
            rows = self.rows(resume_ids, job_ids)
            lengths = texts(self.corpus, "resume").str.len().to_numpy(dtype=np.float32)[rows["resume"]]
            return np.repeat(lengths[:, None], len(rows["job"]), axis=1)

    result = evaluate_ranking(Length().fit(tiny), tiny, "resume")
    assert result.ranker == "length" and 0 < result.means()["ndcg@10"] < 1


@pytest.mark.parametrize("name", HERE)
def test_scores_of_pairs_are_the_cells_of_the_matrix(fitted, tiny, name):
    resumes, jobs = list(tiny.pool("resume", "test")[:6]), list(tiny.pool("job", "test")[:6])
    matrix = fitted[name].score(resumes, jobs)
    assert matrix.shape == (6, 6) and matrix.dtype == np.float32
    order = [3, 0, 5, 1]
    pairs = fitted[name].score_pairs([resumes[i] for i in order], [jobs[-i] for i in order])
    np.testing.assert_allclose(pairs, [matrix[i, -i] for i in order], atol=1e-5)


def test_no_document_gives_no_score(fitted, tiny):
    for target in SIDES:
        assert fitted["BM25"].score([], [], target).shape == (0, 0)
        assert fitted["BM25"].score(tiny.resumes.index[:2], [], target).shape == (2, 0)


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match=r"variant='foo' is unknown; use one of \['okapi', 'bm25l'\]"):
        BM25("foo")


@pytest.mark.parametrize("name", ["InBatch", "ConFitV2", "ConFitV1"])
def test_a_models_own_code_is_trusted_by_every_load(tiny, monkeypatch, name):
    asked = []

    def load(folder, trust_remote_code=False, **options):
        asked.append(trust_remote_code)
        return load_encoder("static", seed=0)

    for module in (dense, confit):
        monkeypatch.setattr(module, "load_encoder", load)
    config = FieldConfig(epochs=1) if name == "ConFitV1" else QUICK
    RANKERS[name](config=config, trust_remote_code=True).fit(tiny)
    assert asked and all(asked)


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


def test_averaged_hyre_is_the_mean_of_both_vectors(tiny):
    job = tiny.jobs.index[0]
    told = tiny.with_hypothetical_resumes({job: "Ten years of beekeeping."})
    plain, mixed = RawEmbed("static").fit(tiny), RawEmbed("static", hyre="average").fit(told)
    alone = plain.load().encode(["Ten years of beekeeping."], progress=False)[0]
    mean = plain.embeddings.jobs[0] + alone
    np.testing.assert_allclose(mixed.embeddings.jobs[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(mixed.embeddings.jobs[1:], plain.embeddings.jobs[1:], atol=1e-6)
    np.testing.assert_allclose(mixed.embeddings.resumes, plain.embeddings.resumes, atol=1e-6)


def test_hyde_averages_hypothetical_documents_into_the_query(tiny):
    ranker, job = HyDE("static", writer="offline", n=2).fit(tiny), tiny.pool("job", "test")[0]
    written = generate("hyde", tiny, "job", [job], generator="offline", variants=2).texts[job]
    vectors = ranker.load().encode([texts(tiny, "job")[job], *written], progress=False)
    resumes = list(tiny.pool("resume", "test")[:6])
    plain = RawEmbed("static").fit(tiny).embeddings.resumes[tiny.positions("resume", resumes)]
    mean = vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0))
    np.testing.assert_allclose(ranker.score(resumes, [job])[:, 0], plain @ mean, atol=1e-5)
    assert not np.allclose(ranker.score(resumes, [job]), ranker.score(resumes, [job], target="job"))
    assert "offline" in ranker.reports["job"]


@given(
    arrays(np.float32, (7, 2), elements=st.floats(-1, 1, width=16)),
    arrays(np.float32, (7, 2), elements=st.floats(-1, 1, width=16)),
    st.integers(1, 9),
)
def test_rescoring_reorders_the_first_and_leaves_the_rest_below(scores, bonus, first_n):
    changed = rescored(scores, bonus, first_n, 0.5)
    for query in range(2):
        order = sorted(range(7), key=lambda row: -scores[row, query])  # stable, as the ranker's
        top, rest = order[:first_n], order[first_n:]
        for row in top:
            assert changed[row, query] == pytest.approx(scores[row, query] + 0.5 * bonus[row, query], abs=1e-6)
        assert all(changed[low, query] <= changed[high, query] + 1e-6 for low in rest for high in top)
        assert [changed[row, query] for row in rest] == sorted([changed[row, query] for row in rest], reverse=True)


def test_hyqe_adds_the_best_hypothetical_query(tiny):
    ranker = HyQE("static", writer="offline", n=2, weight=2.0, first_n=1000).fit(tiny)
    job, resume = tiny.pool("job", "test")[0], tiny.pool("resume", "test")[0]
    written = generate("hyqe", tiny, "resume", [resume], generator="offline", variants=2).texts[resume]
    encoded = ranker.load().encode([texts(tiny, "job")[job], texts(tiny, "resume")[resume], *written], progress=False)
    query, own, *queries = encoded
    expected = own @ query + 2 * max(other @ query for other in queries)
    np.testing.assert_allclose(ranker.score([resume], [job]), [[expected]], atol=1e-5)
    np.testing.assert_allclose(ranker.score_pairs([resume], [job]), [expected], atol=1e-5)


def test_confit_v2_trains_on_its_own_runner_ups(fitted):
    negatives = fitted["ConFitV2"].negatives
    assert {side: negatives[side].parameters["strategy"] for side in SIDES} == dict.fromkeys(SIDES, "band")
    assert all(negatives[side].statistics["queries_without_negatives"] == 0 for side in SIDES)


def test_rejections_are_the_hard_negatives_of_v1(fitted, tiny):
    rejected = tiny.labelled("train", 0)
    pairs = set(zip(rejected["resume_id"], rejected["job_id"], strict=True))
    table = fitted["RejectedNegatives"].negatives["job"].table
    assert len(table) and set(zip(table["query_id"], table["negative_id"], strict=True)) <= pairs


@pytest.mark.parametrize(
    "ranker",
    [Mined(strategy="bandd"), Mined(strategy="ance"), Mined(parameters={"low": 0}), ConFitV2(band=(0.04, 0.03))],
    ids=str,
)
def test_mining_that_cannot_be_done_is_refused_before_any_training(tiny, monkeypatch, ranker):
    monkeypatch.setattr(InBatch, "train", lambda *_: pytest.fail("trained first"))
    with pytest.raises(ValueError, match=r"'bandd' is unknown|needs n|not \['low'\]|lo < hi"):
        ranker.learn(tiny)


@pytest.mark.slow
def test_cached_training_gives_the_same_ranker(tiny, tmp_path):
    fresh = ConFitV2(config=QUICK).fit(tiny)
    for _ in range(2):  # computed, then read
        cached = ConFitV2(config=QUICK, cache=str(tmp_path)).fit(tiny)
        np.testing.assert_allclose(cached.embeddings.jobs, fresh.embeddings.jobs, atol=1e-6)


@pytest.mark.slow
def test_refreshed_negatives_change_the_training(tiny):
    two = replace(QUICK, epochs=2)
    fixed, fresh = (Mined("static", two, "ance", {"n": 5}, every).fit(tiny) for every in (0, 1))
    assert fixed.negatives["job"].fingerprint() == fresh.negatives["job"].fingerprint()  # the first epoch's
    assert not np.array_equal(fixed.embeddings.jobs, fresh.embeddings.jobs)


@pytest.mark.slow
def test_training_shows_its_progress_unless_told_not_to(tiny, monkeypatch):
    shown = []

    def trained(*_, progress, **others):
        shown.append(progress)
        return SimpleNamespace(history=None, encoder=nn.Identity())

    monkeypatch.setattr(dense, "train", trained)
    for progress in (True, False):
        ranker = InBatch(config=QUICK)
        ranker.progress = progress
        ranker.learn(tiny)
    assert InBatch.progress and shown == [True, False]


def test_an_adapter_is_counted_without_what_it_stands_on(tiny, tmp_path):
    config = TrainingConfig(mode="adapter", epochs=1, batch_size=8)
    for cache in (None, str(tmp_path)):  # as trained, and as read from the cache
        assert InBatch("static", config, cache=cache).learn(tiny).n_parameters == 384**2 + 384
    assert BM25().n_parameters == 0
