"""Trees, graphs, the published ConFit v1, re-rankers and federated training on a market of a few dozen documents."""

import base64
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from confitlib.corpus import SIDES, Corpus, empty_frame
from confitlib.encoder import load_encoder
from confitlib.evaluation import evaluate_ranking
from confitlib.llm import Store
from confitlib.llm.requests import EmbeddingRequest
from confitlib.market import compose
from confitlib.rankers import (
    DPGNN,
    ConFitV1,
    CrossEncoder,
    FedPJF,
    LLMReranker,
    OpenAIEmbed,
    PairTraining,
    RawEmbed,
    Trees,
    TwoTowers,
)
from confitlib.rankers.confit import FieldConfig, FieldInputs
from confitlib.rankers.federated import FederatedConfig, adapted, correction, private_mean
from confitlib.rankers.graph import GraphConfig, propagate, propagation_matrix, quadruple_bpr
from confitlib.rankers.pair_training import judged_pairs, sampled_pairs
from confitlib.rankers.rerank import parse_order, reassign_top_scores, window_starts
from confitlib.text import texts
from confitlib.training import TrainingConfig, confit_v1_loss

FEW = GraphConfig(dim=16, text_dim=16, epochs=20, batch_size=512)
QUICK_FIELDS = FieldConfig(epochs=10, batch_size=16, learning_rate=1e-3)
SYSTEMS = {
    "trees": lambda: Trees(rounds=40, dim=32),
    "tree ranker": lambda: Trees(objective="lambdarank", rounds=40, dim=32),
    "trees on counts": lambda: Trees("bow", rounds=40, dim=32),
    "graph": lambda: DPGNN(FEW),
    "text-only graph": lambda: DPGNN(replace(FEW, dim=0, layers=0)),
    "fields": lambda: ConFitV1(config=QUICK_FIELDS),
    "federated": lambda: FedPJF(config=FederatedConfig(rounds=4)),
}
every_system = pytest.mark.parametrize("name", SYSTEMS)


@pytest.fixture(scope="module")
def small() -> Corpus:
    return compose("tiny", train_resumes=160, train_jobs=70, valid_resumes=30, valid_jobs=15, test_jobs=40).corpus


@pytest.fixture(scope="module")
def fitted(small):
    return {name: build().fit(small) for name, build in SYSTEMS.items()}


@every_system
@pytest.mark.parametrize("target", SIDES)
def test_a_system_beats_a_random_order(fitted, small, name, target):
    result = evaluate_ranking(fitted[name], small, target)
    assert result.means()["map"] > 1.2 * result.random()["map"]


@pytest.mark.slow
@every_system
def test_the_same_seed_gives_the_same_system(fitted, small, name):
    resumes, jobs = small.pool("resume", "test")[:7], small.pool("job", "test")[:5]
    again = SYSTEMS[name]().fit(small).score(resumes, jobs)
    np.testing.assert_allclose(again, fitted[name].score(resumes, jobs), atol=1e-6)


@every_system
def test_scores_of_pairs_are_the_cells_of_the_matrix(fitted, small, name):
    resumes, jobs = list(small.pool("resume", "test")[:4]), list(small.pool("job", "test")[:4])
    matrix = fitted[name].score(resumes, jobs)
    assert matrix.shape == (4, 4) and matrix.dtype == np.float32
    np.testing.assert_allclose(fitted[name].score_pairs(resumes, jobs), np.diag(matrix), rtol=1e-5, atol=1e-5)


@every_system
def test_a_corpus_without_accepted_pairs_is_refused(small, name):
    rejected = replace(small, labels=small.labels.assign(label=0), rankings=empty_frame(list(small.rankings.columns)))
    with pytest.raises(ValueError, match="accepted"):
        SYSTEMS[name]().learn(rejected)


# sampling


def test_sampled_negatives_are_no_known_positives(small):
    pairs = sampled_pairs(small, "train", random=7, hard=1, seed=3)
    known = small.known_positives()
    positive = np.array([known[r, j] for r, j in zip(pairs["resume"], pairs["job"], strict=True)])
    assert np.array_equal(positive, pairs["label"] == 1)
    accepted = len(small.labelled("train", 1))
    assert pairs["label"].sum() == accepted and 6 * accepted < (pairs["label"] == 0).sum() <= 8 * accepted
    assert set(small.resumes.index[pairs["resume"]]) <= set(small.pool("resume", "train"))


def test_hard_negatives_are_rejections_of_the_same_job_or_resume(small):
    hard = sampled_pairs(small, "train", random=0, hard=1)
    negative, judged = hard[hard["label"] == 0], judged_pairs(small, "train", 0)
    rejected = set(zip(judged["resume"], judged["job"], strict=True))
    assert set(zip(negative["resume"], negative["job"], strict=True)) <= rejected


# DPGNN


def pair_of_each() -> Corpus:
    """Two resumes and one job: the first resume was accepted, the second rejected."""
    resumes = pd.DataFrame({"text": ["a", "b"], "split": "train"}, index=["r0", "r1"])
    jobs = pd.DataFrame({"text": ["c"], "split": "train"}, index=["j0"])
    labels = pd.DataFrame({"resume_id": ["r0", "r1"], "job_id": "j0", "label": [1, 0], "split": "train"})
    return Corpus(resumes, jobs, labels)


def graph_of(corpus):
    return propagation_matrix(corpus.labels, {side: corpus.documents(side).index for side in SIDES})


def test_the_graph_links_what_the_definition_links():
    graph = graph_of(pair_of_each()).to_dense().numpy()
    r0a, r1a, r0p, r1p, ja, jp = range(6)
    links = np.zeros((6, 6))
    for first, second in [(r0a, r0p), (r1a, r1p), (ja, jp), (r0a, jp), (r1a, jp), (r0p, ja)]:
        links[first, second] = links[second, first] = 1
    degree = links.sum(1)  # 2, 2, 2, 1, 2, 3
    np.testing.assert_allclose(graph, links / np.sqrt(np.outer(degree, degree)), atol=1e-6)


def test_propagation_is_the_mean_of_all_steps():
    graph = graph_of(pair_of_each())
    initial = {"resume": torch.arange(8.0).reshape(2, 2, 2), "job": torch.tensor([[[1.0, -1.0]], [[0.5, 2.0]]])}
    start = torch.cat([initial["resume"].flatten(0, 1), initial["job"].flatten(0, 1)]).numpy()
    dense = graph.to_dense().numpy()
    expected = (start + dense @ start + dense @ dense @ start) / 3
    views = propagate(initial, graph, 2)
    found = np.concatenate([views["resume"][0], views["resume"][1], views["job"][0], views["job"][1]])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_quadruple_bpr_by_hand():
    def views(active, passive):
        return torch.tensor([[active], [passive]])

    loss = quadruple_bpr(
        views([1.0, 0.0], [0.0, 1.0]),  # resume
        views([0.5, 1.0], [2.0, 0.0]),  # job: r+ = 2, s+ = 1
        views([0.0, 1.0], [1.0, 0.0]),  # other resume: r- = 0, s- = 0.5
        views([1.0, 1.0], [-1.0, 3.0]),  # other job: r- = -1, s- = 1
    )
    assert loss.item() == pytest.approx(np.log1p(np.exp(-(2 * 2 + 2 * 1 - (-1 + 1 + 0 + 0.5)))), rel=1e-5)


def test_a_graph_has_free_vectors_for_seen_documents_alone(fitted, small):
    seen = small.labelled("train")[["resume_id", "job_id"]].nunique().sum()
    assert fitted["graph"].n_parameters == 2 * 16 * seen + 2 * 16 * 384


def test_the_nodes_of_trees_are_counted(fitted):
    lines = fitted["trees"].model.model_to_string().splitlines()
    leaves = [len(line.split("=")[1].split()) for line in lines if line.startswith("leaf_value=")]
    assert len(leaves) == 40 and fitted["trees"].n_parameters == sum(leaves) + sum(count - 1 for count in leaves)


def test_unseen_documents_score_zero_without_text_and_neighbours(small):
    blind = DPGNN(GraphConfig(dim=8, text_dim=0, neighbours=0, epochs=1)).fit(small)
    resumes, jobs = small.pool("resume", "test"), small.pool("job", "test")
    assert not blind.score(resumes, jobs).any()
    seen = small.labelled("train")
    assert blind.score(seen["resume_id"][:5], seen["job_id"][:5]).any()


def test_a_graph_without_any_vector_is_refused():
    with pytest.raises(ValueError, match="without a vector"):
        GraphConfig(dim=0, text_dim=0)


@pytest.mark.parametrize("config", [TrainingConfig, PairTraining, FieldConfig, GraphConfig, FederatedConfig])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        *[("learning_rate", [0, -1, np.nan, np.inf]), ("temperature", [0]), ("epochs", [0, -1]), ("batch_size", [0])],
        *[("gradient_accumulation", [0]), ("negatives_per_batch", [-1]), ("chunk", [0]), ("warmup", [1.5])],
        *[("rounds", [0]), ("noise", [0, np.nan]), ("share", [0, 2]), ("patience", [-1]), ("seed", [-1])],
    ],
)
def test_settings_out_of_their_range_are_named(config, name, values):
    for value in values if hasattr(config, name) else ():
        with pytest.raises(ValueError, match=f"{name}={value}"):
            config(**{name: value})


# the warm regime


def test_in_the_warm_market_documents_recur_and_labels_are_split():
    warm = compose("tiny", regime="warm").corpus
    assert warm.regime == "warm" and set(warm.resumes["split"]) == {"any"} and warm.rankings.empty
    shares = warm.labels["split"].value_counts(normalize=True)
    assert shares[["train", "valid", "test"]].tolist() == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    assert not warm.labels.duplicated(["resume_id", "job_id"]).any()
    again = compose("tiny", regime="warm").corpus
    assert again == warm
    with pytest.raises(ValueError, match="regime='hot' is unknown"):
        compose("tiny", regime="hot")


# ConFit v1


def test_confit_v1_loss_takes_the_sides_that_have_negatives():
    rng = torch.Generator().manual_seed(0)
    resumes, jobs, bad_resumes, bad_jobs = (torch.randn(n, 3, generator=rng) for n in (4, 4, 2, 1))
    diagonal, none = torch.arange(4), torch.empty(0, 3)
    plain = F.cross_entropy(resumes @ jobs.T, diagonal)
    picks_job = F.cross_entropy(resumes @ torch.cat([jobs, bad_jobs]).T, diagonal)
    picks_resume = F.cross_entropy(jobs @ torch.cat([resumes, bad_resumes]).T, diagonal)
    for negatives, expected in [
        ((None, None), plain),
        ((none, none), plain),
        ((none, bad_jobs), picks_job),
        ((bad_resumes, none), picks_resume),
        ((bad_resumes, bad_jobs), picks_job + picks_resume),
    ]:
        torch.testing.assert_close(confit_v1_loss(resumes, jobs, *negatives), expected)


def test_fields_must_be_those_learnt(fitted, small):
    other_fields = replace(small, jobs=small.jobs.drop(columns="about"))
    ranker = ConFitV1(config=QUICK_FIELDS)
    ranker.network, ranker.fields = fitted["fields"].network, fitted["fields"].fields
    with pytest.raises(ValueError, match="same fields in the same order"):
        ranker.index(other_fields)


def test_fields_are_read_alike_from_tokens_and_from_frozen_vectors(fitted, small):
    network, rows = fitted["fields"].network, np.array([3, 0])
    inputs = [FieldInputs(network.encoder, small, "job", finetune) for finetune in (False, True)]
    with torch.no_grad():
        frozen, tokens = (network("job", one.features(rows)) for one in inputs)
    torch.testing.assert_close(frozen, tokens)


def test_the_static_encoder_is_not_trained_field_by_field(small):
    with pytest.raises(ValueError, match="finetune=False"):
        ConFitV1(config=replace(QUICK_FIELDS, finetune=True)).learn(small)


# zero-shot


def test_two_towers_of_one_encoder_are_that_encoder(small):
    resumes, jobs = small.pool("resume", "test")[:5], small.pool("job", "test")[:5]
    towers = TwoTowers("static", "static", prefix=None, job_prefix=None).fit(small)
    np.testing.assert_allclose(towers.score(resumes, jobs), RawEmbed("static").fit(small).score(resumes, jobs))


def test_each_tower_reads_its_own_prefix(small):
    encoder, resumes, jobs = load_encoder("static"), small.pool("resume", "test")[:5], small.pool("job", "test")[:5]
    towers = TwoTowers("static", "static", prefix="passage: ", job_prefix="query: ").fit(small)
    passages = encoder.encode(("passage: " + texts(small, "resume")[resumes]).tolist(), progress=False)
    queries = encoder.encode(("query: " + texts(small, "job")[jobs]).tolist(), progress=False)
    np.testing.assert_allclose(towers.score(resumes, jobs), passages @ queries.T, atol=1e-6)


def test_openai_embeddings_are_replayed(small, tmp_path, monkeypatch):
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    ranker = OpenAIEmbed("some-model", str(tmp_path / "store.jsonl"))
    with pytest.raises(LookupError, match="are not recorded"):
        ranker.fit(small)
    store, rng = Store(tmp_path / "store.jsonl"), np.random.default_rng(0)
    vectors = {}
    for text in [*texts(small, "resume"), *texts(small, "job")]:
        vectors[text] = rng.normal(size=3).astype(np.float32)
        store.add(EmbeddingRequest("some-model", text), vector=encoded(vectors[text]))
    ranker.fit(small)
    resume, job = small.resumes.index[0], small.jobs.index[0]
    first, second = vectors[texts(small, "resume")[resume]], vectors[texts(small, "job")[job]]
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert ranker.score([resume], [job])[0, 0] == pytest.approx(cosine, abs=1e-5)


def encoded(vector):
    return base64.b64encode(vector.tobytes()).decode()


# re-rankers


@given(st.data())
def test_reassigned_scores_keep_the_cut_and_make_the_order_strict(data):
    scores = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
    row = np.array(scores, dtype=np.float32)
    size = data.draw(st.integers(1, len(row)))
    top = np.argsort(-row, kind="stable")[:size]
    order = data.draw(st.permutations(range(size)))
    changed = row.copy()
    reassign_top_scores(changed, top, order)
    below = np.setdiff1d(np.arange(len(row)), top)
    assert (np.diff(changed[top[list(order)]]) < 0).all()
    assert np.array_equal(changed[below], row[below])
    assert not len(below) or changed[top].min() > row[below].max()
    np.testing.assert_allclose(np.sort(changed), np.sort(row), atol=1e-5)


@pytest.mark.parametrize(
    ("reply", "order", "faults"),
    [
        ("[2] > [1] > [3]", [1, 0, 2], {}),
        ("2, 3, 1", [1, 2, 0], {}),
        ("Of 20 years: [3] > [1]", [2, 0, 1], {"forgotten"}),
        ("[3] > [3] > [1] > [2]", [2, 0, 1], {"repeated"}),
        ("[9] > [0] > [2] > [1] > [3]", [1, 0, 2], {"unknown"}),
        ("I cannot help", [0, 1, 2], {"forgotten"}),
        ("[7] > [2] > [2]", [1, 0, 2], {"unknown", "repeated", "forgotten"}),
    ],
)
def test_a_malformed_order_is_repaired_and_counted(reply, order, faults):
    assert parse_order(reply, 3) == (order, Counter(faults))


@given(st.text(alphabet="[]0123456789 >,", max_size=40), st.integers(1, 12))
def test_no_reply_loses_a_candidate(reply, count):
    assert sorted(parse_order(reply, count)[0]) == list(range(count))


def test_the_language_model_orders_the_top(small, tmp_path, monkeypatch):
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    retriever, path = RawEmbed("static"), tmp_path / "replies.jsonl"
    ranker = LLMReranker(retriever, str(path), model="m", top=3).fit(small)
    assert ranker.name == "RawEmbed + m" and ranker.n_parameters == 0
    resumes, jobs = list(small.pool("resume", "test")), list(small.pool("job", "test")[:2])
    before = retriever.score(resumes, jobs)
    np.testing.assert_allclose(ranker.score(resumes, jobs), before, atol=1e-6)
    assert ranker.faults == {"unanswered": 2}
    tops = np.argsort(-before[:, 0], kind="stable")[:3]
    [request] = ranker.requests(small, "resume", [(jobs[0], [resumes[place] for place in tops])])
    assert "[3]" in request.messages[-1]["content"]
    Store(path).add(request, text="[3] > [1] > [2]", finish_reason="stop")
    after = ranker.score(resumes, jobs)
    assert np.argsort(-after[:, 0], kind="stable")[:3].tolist() == tops[[2, 0, 1]].tolist()
    np.testing.assert_allclose(after[:, 1], before[:, 1], atol=1e-6)


def test_windows_go_from_the_end_to_the_top_and_never_skip_it():
    assert window_starts(20, 4, 2) == [16, 14, 12, 10, 8, 6, 4, 2, 0]  # the nine calls of ConFit v3
    assert window_starts(7, 4, 2) == [3, 1, 0] and window_starts(3, 4, 2) == [0]
    order = list(range(20, 0, -1))
    for passes in (1, 2):
        for start in window_starts(20, 4, 2):
            order[start : start + 4] = sorted(order[start : start + 4])
        assert order[: 2 * passes] == list(range(1, 2 * passes + 1)), "a pass settles two places"


def test_a_window_carries_the_last_to_the_top(small, tmp_path, monkeypatch):
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    retriever, path = RawEmbed("static"), tmp_path / "replies.jsonl"
    ranker = LLMReranker(retriever, str(path), model="m", top=3, window=2, stride=1).fit(small)
    resumes, jobs = list(small.pool("resume", "test")), list(small.pool("job", "test")[:1])
    before = retriever.score(resumes, jobs)[:, 0]
    first, second, third = np.argsort(-before, kind="stable")[:3]
    for shown in ([second, third], [first, third]):
        [request] = ranker.requests(small, "resume", [(jobs[0], [resumes[place] for place in shown])])
        Store(path).add(request, text="[2] > [1]", finish_reason="stop")
    after = ranker.score(resumes, jobs)[:, 0]
    assert np.argsort(-after, kind="stable")[:3].tolist() == [third, first, second] and not ranker.faults
    with pytest.raises(ValueError, match="window=1"):
        LLMReranker(retriever, window=1)
    with pytest.raises(ValueError, match="stride=4 must be less than window=4"):
        LLMReranker(retriever, window=4, stride=4)


@pytest.mark.slow
def test_a_cross_encoder_orders_the_top(small):
    retriever = RawEmbed("static")
    ranker = CrossEncoder(retriever, top=3, pairs=16, layers=1, max_length=48, batch_size=8).fit(small)
    resumes, jobs = list(small.pool("resume", "test")[:8]), list(small.pool("job", "test")[:2])
    before, after = retriever.score(resumes, jobs), ranker.score(resumes, jobs)
    np.testing.assert_allclose(np.sort(after, axis=0), np.sort(before, axis=0), atol=1e-5)
    top = np.argsort(-before, axis=0)[:3]
    assert (np.sort(np.argsort(-after, axis=0)[:3], axis=0) == np.sort(top, axis=0)).all()
    assert len(ranker.history) == 2
    top_layer = 4 * (384**2 + 384) + 2 * 384 * 1536 + 1536 + 384 + 2 * 2 * 384
    head = 384**2 + 384 + 384 + 1
    assert ranker.n_parameters == top_layer + head


# federated training


def test_uploads_are_averaged_by_pairs(small, monkeypatch):
    ranker = FedPJF(dict(zip(small.jobs.index, "aab" * len(small.jobs), strict=False)), FederatedConfig(1, share=1.0))
    clients = ranker.local_clients(small)
    sizes = [len(client.jobs) for client in clients.values()]
    changes = iter([torch.ones(2, 16, 384), torch.full((2, 16, 384), 5.0)])
    monkeypatch.setattr("confitlib.rankers.federated.Client.fit", lambda *_: (next(changes), 0.25))
    up = ranker.learn(small).weights[1]  # 0 at first
    assert list(clients) == ["a", "b"] and sizes[0] != sizes[1]
    torch.testing.assert_close(up, torch.full((16, 384), (sizes[0] + 5 * sizes[1]) / sum(sizes)))
    assert ranker.epsilon == np.inf and ranker.n_parameters == 2 * 16 * 384
    assert ranker.history.to_dict("records") == [
        {"round": 1, "clients": 2, "loss": 0.25, "clip": 0.3, "epsilon": np.inf}
    ]


def test_the_model_that_travels_is_a_residual_map():
    vectors, weights = torch.tensor([[1.0, 2.0]]), torch.tensor([[[3.0, 4.0]], [[0.5, -1.0]]])
    torch.testing.assert_close(adapted(vectors, weights), torch.tensor([[1 + 11 * 0.5, 2 - 11.0]]))


def test_the_correction_pulls_to_the_global_model():
    near, far = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    expected = np.log1p(np.exp(-1 / 0.5))
    assert correction(near, near, far).item() == pytest.approx(expected, rel=1e-5)
    assert correction(near, near, near).item() == pytest.approx(np.log(2), rel=1e-5)


def test_epsilon_is_that_of_the_accountant(small):
    opacus = pytest.importorskip("opacus.accountants")
    config = FederatedConfig(rounds=5, noise=1.3, share=0.4, delta=1e-4, local_epochs=1)
    ranker, theirs = FedPJF(config=config).learn(small), opacus.RDPAccountant()
    for _ in range(5):
        theirs.step(noise_multiplier=1.3, sample_rate=0.4)
    assert ranker.epsilon == pytest.approx(theirs.get_epsilon(1e-4), rel=1e-12) and 0 < ranker.epsilon < 100


def test_long_uploads_are_clipped():
    rng, changes = np.random.default_rng(0), [torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4]), torch.zeros(2)]
    mean, clip = private_mean(changes, torch.Size([2]), expected=3.0, clip=1.0, noise=1e-6, rng=rng)
    torch.testing.assert_close(mean, torch.tensor([0.9, 1.2]) / 3, rtol=0, atol=1e-4)
    assert clip < 1  # two of three were short: the bound tightens


def test_noise_has_the_promised_size_and_the_clip_follows_the_uploads():
    uploads, shape, rng = [torch.zeros(20_000)] * 400, torch.Size([20_000]), np.random.default_rng(0)
    mean, clip = private_mean(uploads, shape, expected=400, clip=0.5, noise=1.0, rng=rng)
    on_count = 400 / 20
    assert mean.std().item() == pytest.approx((1 - (2 * on_count) ** -2) ** -0.5 * 0.5 / 400, rel=0.03)
    assert clip == pytest.approx(0.5 * np.exp(-0.2 * 0.5), rel=0.05)  # all were short: the bound tightens
    assert private_mean([], shape, expected=400, clip=0.5, noise=1.0, rng=rng)[0].std() > 0  # a round without clients


def test_clients_are_groups_of_jobs(small):
    clients = FedPJF().local_clients(small)
    accepted = small.labelled("train", 1)
    owners = accepted["job_id"].map(small.jobs["location"]).value_counts()
    assert {name: len(client.jobs) for name, client in clients.items()} == owners.to_dict()
    with pytest.raises(ValueError, match="clients='employer' is no column of the jobs"):
        FedPJF("employer").learn(small)
    with pytest.raises(ValueError, match="clients names nothing for job"):
        FedPJF({small.jobs.index[0]: "a"}).learn(small)
    nowhere = small.jobs["location"].where(small.jobs.index != small.jobs.index[3])
    with pytest.raises(ValueError, match=f"clients names nothing for job '{small.jobs.index[3]}'"):
        FedPJF().learn(replace(small, jobs=small.jobs.assign(location=nowhere)))
    with pytest.raises(ValueError, match="of 1 clients"):
        FedPJF(dict.fromkeys(small.jobs.index, "one")).learn(small)
