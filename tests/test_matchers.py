"""Neural matchers: reading, batches, losses and forward passes against hand-computed cases, and honest refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from confitlib.market import compose
from confitlib.rankers import APJFNN, BPJFNN, PJFNN, GlobalMatch, InEXIT, MVCoN, PairTraining, Siamese
from confitlib.rankers.base import trained_weights
from confitlib.rankers.matchers import (
    APJFNNetwork,
    BiLSTM,
    BPJFNNetwork,
    InEXITNetwork,
    MVCoNNetwork,
    PairMLP,
    PJFNNetwork,
    RunningNorm,
    SiameseNetwork,
    TokenConvolution,
    TokenVectors,
    contrastive_margin,
    convolution,
    masked_softmax,
    mmd,
    relation_vectors,
    trust,
)
from confitlib.rankers.pair_training import PAD, at, fit_network, pair_batches, static_encoder, token_ids

ONCE = PairTraining(epochs=1)


@pytest.fixture(scope="module")
def small():
    return compose("tiny", seed=1, train_resumes=60, train_jobs=30, valid_resumes=20, valid_jobs=12,
                   test_resumes=20, test_jobs=12).corpus  # fmt: skip


def without_rejections(corpus):
    return replace(corpus, labels=corpus.labels[corpus.labels["label"] == 1].reset_index(drop=True))


# Reading


def test_lines_are_read_whole_and_long_ones_go_on_in_the_next_piece(small):
    wide, _ = token_ids(small, "resume", "lines", PairTraining(max_pieces=40, max_tokens=64))
    narrow, _ = token_ids(small, "resume", "lines", PairTraining(max_pieces=80, max_tokens=5))
    assert narrow.shape[2] == 5
    for whole, parts in zip(wide, narrow, strict=True):
        assert torch.equal(whole[whole != PAD], parts[parts != PAD])


def test_no_more_is_read_than_asked_for(small):
    lines, _ = token_ids(small, "resume", "lines", PairTraining(max_pieces=3, max_tokens=64))
    whole, _ = token_ids(small, "resume", "document", PairTraining(max_pieces=1, max_tokens=8))
    assert lines.shape[1] == 3 and whole.shape[1:] == (1, 8)


def test_fields_keep_their_places(small):
    told = small.with_hypothetical_resumes({small.jobs.index[0]: "Ten years of beekeeping."})
    ids, columns = token_ids(told, "job", "fields", PairTraining(max_pieces=9, max_tokens=64))
    assert columns == [*small.fields("job"), "hypothetical_resume"]
    assert ids[0, -1].any() and not ids[1:, -1].any()
    _, columns = token_ids(told, "job", "fields", PairTraining(max_pieces=9, max_tokens=64, hyre=False))
    assert columns == small.fields("job")


def test_token_vectors_are_the_mapped_table_and_padding_is_zero():
    tokens, ids = TokenVectors(16), torch.tensor([[7, 2000, PAD], [2000, PAD, PAD]])
    expected = tokens.map(tokens.table[ids]) * (ids != PAD).unsqueeze(-1)
    torch.testing.assert_close(tokens(ids), expected)
    assert tokens.map(tokens.table).square().mean().item() == pytest.approx(1, abs=1e-3)
    assert "table" not in tokens.state_dict()


def test_a_convolution_starts_near_the_identity():
    words = torch.randn(2, 8, 9, generator=torch.Generator().manual_seed(0))
    assert (convolution(8, 8, 5)(words) - words).std() < 0.5 * words.std()


@pytest.mark.parametrize("width", [4, 5])
def test_a_convolution_over_tokens_is_the_convolution_of_their_vectors(width):
    torch.manual_seed(0)
    tokens = TokenVectors(8)
    layer, ids = TokenConvolution(tokens, 6, width), torch.randint(1, 9, (3, 7))
    ids[0, 4:] = ids[2, 1:] = PAD
    expected = layer.layer(tokens(ids).transpose(1, 2)).transpose(1, 2) * (ids != PAD).unsqueeze(-1)
    torch.testing.assert_close(layer(ids), expected, atol=1e-5, rtol=1e-5)


# Batches


def test_batches_hold_every_pair_once_and_no_known_positive_as_a_negative(small):
    batches, known = pair_batches(small, "train", PairTraining(batch_size=16, sampled=3)), small.known_positives()
    judged = {(r, j, label) for r, j, label in zip(
        small.positions("resume", small.labelled("train")["resume_id"]),
        small.positions("job", small.labelled("train")["job_id"]),
        small.labelled("train")["label"], strict=True)}  # fmt: skip
    seen = []
    for batch in batches(np.random.default_rng(0)):
        for resume, job, label in zip(batch["resume"], batch["job"], batch["label"], strict=True):
            assert label == bool(known[[resume], [job]][0])
            seen.append((resume, job, label))
    assert judged <= set(seen) and len(seen) > len(judged)


def test_batches_follow_the_seed(small):
    batches = pair_batches(small, "train", PairTraining(batch_size=16))
    first, again, other = (
        np.concatenate([batch["resume"] for batch in batches(np.random.default_rng(seed))]) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_corpus_without_rejections_is_refused_with_the_remedy(small):
    accepted = without_rejections(small)
    with pytest.raises(ValueError, match=r"no rejected pair in split 'train': set rejections=False"):
        PJFNN(config=ONCE).fit(accepted)
    with pytest.raises(ValueError, match="sample at least one"):
        PJFNN(config=replace(ONCE, rejections=False, sampled=0)).fit(accepted)
    with pytest.raises(ValueError, match="no accepted pair in split 'train'"):
        PJFNN(config=ONCE).fit(replace(small, labels=small.labels[:0]))
    assert len(Siamese(config=replace(ONCE, rejections=False)).learn(accepted).history) == 1


def test_without_validation_pairs_the_last_epoch_is_kept_with_a_warning(small):
    training = replace(small, labels=small.labelled("train"))
    with pytest.warns(UserWarning, match="the last epoch is kept"):
        ranker = InEXIT(config=replace(ONCE, epochs=2)).learn(training)
    assert ranker.history["valid_loss"].isna().all() and len(ranker.history) == 2


# Layers


def test_normalised_vectors_have_no_mean_and_unit_variance():
    layer, vectors = RunningNorm(3), 5 + 2 * torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    standard = layer(vectors)
    torch.testing.assert_close(standard.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.var(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(layer.eval()(vectors), standard)


def test_softmax_over_nothing_is_zero():
    weights = masked_softmax(torch.zeros(2, 3), torch.tensor([[True, True, False], [False] * 3]))
    assert weights.tolist() == [[0.5, 0.5, 0], [0, 0, 0]]


def test_lstm_does_not_read_padding():
    torch.manual_seed(0)
    lstm, vectors = BiLSTM(4, 3).eval(), torch.randn(2, 5, 4)
    real = torch.tensor([[True] * 5, [True, True, False, False, False]])
    states = lstm(vectors, real)
    alone = lstm(vectors[1:, :2], real[1:, :2])
    torch.testing.assert_close(states[1:, :2], alone)
    assert not states[1, 2:].any()


def test_the_comparison_starts_as_a_measure_of_nearness():
    compare, jobs = PairMLP(4, dropout=0.5).eval(), torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert (compare(jobs, jobs) > compare(jobs.flip(0), jobs)).all()


def test_bpjfnn_takes_the_mean_over_time_not_over_the_batch(small):
    ranker = BPJFNN(config=replace(ONCE, max_tokens=64))
    network, inputs = ranker.build().eval(), ranker.inputs(small, "resume")
    alone, together = (network.encode("resume", *at(inputs, np.arange(n)))[0][0] for n in (1, 8))
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)


def test_apjfnn_co_attention_is_the_mean_over_requirements():
    torch.manual_seed(0)
    network = APJFNNetwork(dim=8, hidden=2).eval()
    words, needs = torch.randn(1, 2, 3, 4), torch.randn(1, 3, 4)  # the bilinear map of requirements is the identity
    resumes = words, torch.tensor([[[True, True, True], [True, False, False]]])
    jobs = needs / 2, torch.tensor([[True, True, False]]), needs[:, 0]  # the third is no requirement
    vectors = network.experiences(resumes, jobs)
    one_each = [(words[0, 0] @ needs[0, k] / 2).softmax(0) @ words[0, 0] for k in range(2)]
    torch.testing.assert_close(vectors[0, 0], sum(one_each) / 2)
    torch.testing.assert_close(vectors[0, 1], words[0, 1, 0])


# Losses


def test_contrastive_margin_by_hand():
    distances, labels = torch.tensor([0.5, 0.4, 1.3]), torch.tensor([1.0, 0.0, 0.0])
    assert contrastive_margin(distances, labels, margin=1.0).item() == pytest.approx((0.25 + 0.36 + 0) / 3)


def test_mmd_by_hand_and_of_equal_samples():
    one, two = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]])
    near, far = np.exp(-1), np.exp(-4)  # squared distances 1, 1 and 4, whose median is 1
    assert mmd(one, two).item() == pytest.approx((2 + 2 * far) / 4 + 1 - 2 * near, abs=1e-6)
    sample = torch.randn(6, 3)
    assert mmd(sample, sample).item() == pytest.approx(0, abs=1e-6)
    assert mmd(sample, sample + 3) > 0.1 and mmd(sample, sample[:0]) == 0


def co_teaching_loss(text, relation, labels, strength):
    network = MVCoNNetwork(dim=2, strength=strength)
    network.views = lambda resumes, jobs: (text, relation)
    return network.loss((), (), labels)


def released_loss(logits, other_logits, labels):
    """The weight on the label, as in co_teaching_train.py."""
    doubt = F.binary_cross_entropy_with_logits(other_logits, labels, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, (1 + 0.2 * (labels - 1) * doubt) * labels)


def test_released_co_teaching_changes_nothing_and_ours_does():
    torch.manual_seed(0)
    logits, other, labels = torch.randn(8), torch.randn(8), torch.tensor([1.0, 0.0] * 4)
    plain = F.binary_cross_entropy_with_logits(logits, labels)
    assert released_loss(logits, other, labels) == released_loss(logits, -9 * other, labels) == plain
    ours, unweighted = (co_teaching_loss(logits, other, labels, strength) for strength in (0.2, 0.0))
    torch.testing.assert_close(unweighted, plain + F.binary_cross_entropy_with_logits(other, labels))
    assert ours < unweighted


def test_a_doubted_negative_counts_less_and_a_positive_never():
    weights = trust(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([-3.0, 3.0, 40.0]), strength=0.2)
    assert weights.tolist() == pytest.approx([1, 1 - 0.2 * np.log1p(np.exp(3)), 0], abs=1e-5)


# Systems


def test_relations_of_a_document_come_from_others(small):
    vectors = relation_vectors(small, "resume", hyre=True, neighbours=1)
    pool = small.positions("resume", small.pool("resume", "train"))
    own = vectors[:, 0]
    cosine = own @ own[pool].T
    cosine[pool, np.arange(len(pool))] = -1
    nearest = pool[cosine.argmax(1)]
    np.testing.assert_allclose(vectors[:, 1], own[nearest], atol=1e-6)
    row = next(
        r for r in range(len(own)) if small.labelled("train", 1)["resume_id"].eq(small.resumes.index[nearest[r]]).any()
    )
    accepted = small.labelled("train", 1)
    jobs = accepted.loc[accepted["resume_id"] == small.resumes.index[nearest[row]], "job_id"]
    job_vectors = relation_vectors(small, "job", hyre=True, neighbours=1)[:, 0]
    np.testing.assert_allclose(vectors[row, 2], job_vectors[small.positions("job", jobs)].mean(0), atol=1e-5)


def test_inexit_external_layer_sees_both_documents_and_only_filled_fields():
    torch.manual_seed(0)
    network = InEXITNetwork(dim=8, heads=2, feedforward=8).eval()
    resumes = torch.randn(1, 2, 8), torch.tensor([[True, True]])
    jobs = torch.randn(1, 3, 8), torch.tensor([[True, False, True]])
    del network.compare
    network.compare = lambda *vectors: vectors  # what the pair's network is given
    people, posts = network(resumes, jobs)
    kept = torch.cat([resumes[0], jobs[0][:, [0, 2]]], 1)
    seen = network.external(kept)
    torch.testing.assert_close(people, seen[:, :2].mean(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(posts, seen[:, 2:].mean(1), atol=1e-5, rtol=1e-5)


def test_inexit_field_is_its_name_plus_its_value():
    torch.manual_seed(0)
    network = InEXITNetwork(dim=8, heads=2, feedforward=8).eval()
    name, side = (torch.from_numpy(static_encoder().tokenize([text])[0])[None, None] for text in ("skills", "job"))
    value = torch.tensor([[[300, 301]]], dtype=torch.int32)
    encoded, filled = network.encode("job", value, name, side)
    vector = network.tokens(value).mean(2) / (1 + 1e-5) ** 0.5 + network.tokens(name).mean(2)
    torch.testing.assert_close(encoded, network.internal(vector) + network.tokens(side).mean(2), atol=1e-4, rtol=1e-4)
    assert filled.tolist() == [[True]]


def test_inexit_needs_fields(small):
    joined = small.resumes[small.fields("resume")].agg("\n".join, axis=1)
    flat = replace(small, resumes=small.resumes[["split"]].assign(text=joined))
    with pytest.raises(
        ValueError, match=r"resumes of corpus .* have only \['text'\]: read them with one column a field"
    ):
        InEXIT(config=ONCE).fit(flat)


def domains_of(corpus):
    return {job: ("north", "south")[place % 2] for place, job in enumerate(corpus.jobs.index)}


def test_domain_adaptation_ignores_the_labels_of_the_target(small):
    domains, labels = domains_of(small), small.labels.copy()
    ranker = GlobalMatch(domains, ["south"], config=replace(ONCE, sampled=0))
    south = labels["job_id"].map(domains) == "south"
    flipped = replace(small, labels=labels.assign(label=labels["label"].where(~south, 1 - labels["label"])),
                      rankings=small.rankings[:0])  # fmt: skip
    first, second = (ranker.learn(corpus).history["loss"].item() for corpus in (small, flipped))
    assert first == pytest.approx(second, abs=1e-6)


def test_domain_adaptation_draws_the_domains_together(small):
    domains = domains_of(small)
    losses = {
        weight: GlobalMatch(domains, ["south"], (weight,) * 3, config=ONCE).learn(small).history["loss"].item()
        for weight in (0.0, 1.0)
    }
    assert losses[1.0] > losses[0.0]  # the discrepancies are part of the loss


@pytest.mark.parametrize(
    ("domains", "target", "message"),
    [
        ("region", ["south"], "'region' is no column of the jobs"),
        ({}, ["south"], "domains names nothing for job"),
        ("all", ["west"], "holds none of the training pairs: choose some of"),
        ("all", ["north", "south"], "holds all of the training pairs"),
    ],
)
def test_domains_that_divide_nothing_are_refused(small, domains, target, message):
    with pytest.raises(ValueError, match=message):
        GlobalMatch(domains_of(small) if domains == "all" else domains, target, config=ONCE).learn(small)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build", [PJFNN, BPJFNN, APJFNN, Siamese, GlobalMatch, MVCoN, InEXIT], ids=lambda b: b.__name__
)
def test_equal_seeds_give_equal_scores_and_others_do_not(small, build):
    def scores(seed):
        ranker = build(config=replace(build().config, epochs=1, seed=seed)).fit(small)
        return ranker.score(small.pool("resume", "test"), small.pool("job", "test"))

    before = torch.random.get_rng_state()
    first = scores(0)
    assert torch.equal(before, torch.random.get_rng_state()), "other code's draws changed"
    assert np.array_equal(first, scores(0)) and not np.array_equal(first, scores(1))


def test_a_validation_loss_of_nan_is_never_the_best():
    weight, values = torch.nn.Linear(1, 1), iter([0.5, np.nan, 0.9])
    kept = []

    def loss(batch):
        if batch == "train":
            return weight(torch.ones(1)).sum()
        kept.append(weight.weight.item())
        return torch.tensor(next(values))

    fit_network(weight, PairTraining(), loss, lambda rng: ["train"], lambda rng: ["valid"])
    assert weight.weight.item() == kept[0] != kept[2]


@pytest.mark.slow
def test_scores_of_pairs_are_the_cells_of_the_matrix_and_views_differ(small):
    assert len(PJFNN("mlp", config=ONCE).fit(small).history) == 1
    matcher = MVCoN(config=ONCE).fit(small)
    pairs = list(small.pool("resume", "test")[:5]), list(small.pool("job", "test")[:5])
    both = matcher.score_pairs(*pairs)
    np.testing.assert_allclose(both, np.diag(matcher.score(*pairs)), atol=1e-5)
    views = []
    for view in ("text", "relation"):
        matcher.network.view = view
        views.append(matcher.score_pairs(*pairs))
    np.testing.assert_allclose(both, sum(views) / 2, atol=1e-5)


DIM, HIDDEN = 8, 4  # two directions of 4 make 8 again
MAP = 384 * DIM
LSTMS = 2 * (4 * HIDDEN * (DIM + HIDDEN) + 8 * HIDDEN)
PAIR_MLP = 3 * DIM * 2 * DIM + 2 * DIM + 2 * DIM + 1  # [j; r; j - r] to 2 dim to 1
ATTENTION = DIM**2 + 2 * DIM


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (PJFNNetwork(dim=DIM, channels=DIM), MAP + (5 + 3 + 5 + 5) * DIM**2 + 4 * DIM + 2 * 2 * DIM + 2),
        (BPJFNNetwork(DIM, HIDDEN), MAP + LSTMS + PAIR_MLP),
        (APJFNNetwork(DIM, HIDDEN), MAP + 2 * LSTMS + 3 * ATTENTION + 2 * DIM**2 + PAIR_MLP),
        (SiameseNetwork(DIM), MAP + 2 * (5 * DIM**2 + DIM) + DIM**2 + DIM),
    ],
    ids=lambda value: type(value).__name__,
)
def test_trained_weights_are_those_of_the_definition(network, expected):
    assert trained_weights(network) == expected
