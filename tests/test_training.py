"""The loss against hand-written references, its masks, and training that learns, resumes and repeats."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from confitlib.corpus import SIDES, Corpus
from confitlib.encoder import load_encoder
from confitlib.mining import Embeddings, mine
from confitlib.text import texts
from confitlib.training import (
    PairCollator,
    PositivePairs,
    Refresh,
    TrainingConfig,
    TrainingResult,
    contrastive_loss,
    train,
    train_once,
    trainer,
)
from confitlib.training.optimizer import RowAdam
from confitlib.training.pairs import DocumentStore
from confitlib.training.trainer import trainer_arguments

QUICK = TrainingConfig(epochs=2, batch_size=8, seed=3)


def released_loss(resumes, jobs, negative_resumes, negative_jobs, temperature=0.05):
    """The released objective written out with plain sums, one anchor at a time."""

    def unit(matrix):
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    resumes, jobs, negative_resumes, negative_jobs = map(unit, (resumes, jobs, negative_resumes, negative_jobs))
    total = 0.0
    for anchors, positives, negatives in ((resumes, jobs, negative_jobs), (jobs, resumes, negative_resumes)):
        for i, anchor in enumerate(anchors):
            denominator = sum(np.exp(anchor @ other / temperature) for other in [*positives, *negatives])
            total -= 0.5 * np.log(np.exp(anchor @ positives[i] / temperature) / denominator) / len(anchors)
    return total


@pytest.mark.parametrize("hard", [0, 3])
def test_official_loss_equals_the_hand_written_reference(hard):
    rng = np.random.default_rng(hard)
    parts = [rng.normal(size=(size, 8)) for size in (5, 5, hard, hard)]
    tensors = [torch.tensor(part) for part in parts]
    ours = contrastive_loss(*tensors, official=True)
    assert ours.item() == pytest.approx(released_loss(*parts), abs=1e-6)


def test_mask_removes_a_known_positive_from_the_denominator():
    generator = torch.Generator().manual_seed(0)
    resumes, jobs = torch.randn(2, 3, 4, generator=generator).unbind()
    masked = torch.zeros(3, 3, dtype=torch.bool)
    masked[0, 1] = True
    loss = contrastive_loss(resumes, jobs, masked_jobs=masked, lambda_=1.0, temperature=1.0)
    scores = torch.nn.functional.normalize(resumes) @ torch.nn.functional.normalize(jobs).T
    first = scores[0, [0, 2]].logsumexp(0) - scores[0, 0]
    rest = (scores[1:].logsumexp(1) - scores.diagonal()[1:]).sum()
    assert loss.item() == pytest.approx(((first + rest) / 3).item(), rel=1e-5)
    unmasked = contrastive_loss(resumes, jobs, masked_jobs=masked, lambda_=1.0, temperature=1.0, official=True)
    assert unmasked > loss


def corpus_of_pairs(pairs):
    """A corpus of single-field texts; the last resume repeats the text of the first."""
    frames = {}
    for side in SIDES:
        ids = [f"{side[0]}{i}" for i in range(4)]
        values = [f"{side} number {i}" for i in range(3)] + [f"{side} number 0"]
        index = pd.Index(ids, name=f"{side}_id")
        frames[side] = pd.DataFrame({"text": values, "split": "train"}, index=index)
    labels = pd.DataFrame([(f"r{r}", f"j{j}", 1, "train") for r, j in pairs])
    labels.columns = ["resume_id", "job_id", "label", "split"]
    return Corpus(frames["resume"], frames["job"], labels)


def test_collator_masks_known_positives_and_equal_texts_but_never_the_own_positive():
    corpus = corpus_of_pairs([(0, 0), (1, 1), (0, 1), (2, 2)])
    encoder = load_encoder("static")
    stores = {side: DocumentStore(encoder, texts(corpus, side)) for side in SIDES}
    collate = PairCollator(stores, corpus, negatives_per_batch=None)
    none = np.empty(0, dtype=int)
    items = [
        {"resume": 0, "job": 0, "negative_resumes": np.array([3]), "negative_jobs": none},
        {"resume": 1, "job": 1, "negative_resumes": none, "negative_jobs": none},
    ]
    batch = collate(items)
    assert batch["masked_jobs"].tolist() == [[False, True], [False, False]]  # r0 also fits j1
    # job 0 must not push away resume 3 (the text of resume 0); job 1 fits resume 0, hence resume 3 too
    assert batch["masked_resumes"].tolist() == [[False, False, True], [True, False, True]]


def test_negatives_per_batch_caps_each_side():
    corpus = corpus_of_pairs([(0, 0), (1, 1)])
    stores = {side: DocumentStore(load_encoder("static"), texts(corpus, side)) for side in SIDES}
    item = {"resume": 0, "job": 0, "negative_resumes": np.array([1, 2]), "negative_jobs": np.array([1, 2])}
    batch = PairCollator(stores, corpus, negatives_per_batch=1)([item])
    assert batch["masked_jobs"].shape == batch["masked_resumes"].shape == (1, 2)


def test_hard_negatives_depend_on_seed_epoch_and_pair_only(tiny):
    negatives = {side: mine("random", tiny, target=side, n=20, seed=0) for side in SIDES}
    pairs = PositivePairs(tiny, "train", negatives, per_pair=3, seed=1)
    late = pairs[5]["negative_jobs"].tolist()
    pairs[0], pairs[9]
    assert pairs[5]["negative_jobs"].tolist() == late
    pairs.epoch = 1
    assert pairs[5]["negative_jobs"].tolist() != late
    drawn = {tiny.jobs.index[row] for row in pairs[5]["negative_jobs"]}
    assert drawn <= set(negatives["job"].of(tiny.resumes.index[pairs[5]["resume"]]))


def test_negatives_under_the_wrong_side_are_refused(tiny):
    negatives = mine("random", tiny, target="job", n=2, seed=0)
    with pytest.raises(ValueError, match="pass them under 'job'"):
        PositivePairs(tiny, "train", {"resume": negatives})


def test_corpus_without_positives_is_refused(tiny):
    empty = replace(tiny, labels=tiny.labels[tiny.labels["label"] == 0])
    with pytest.raises(ValueError, match="nothing to learn from"):
        PositivePairs(empty, "train")


def mean_rank(encoder, corpus):
    """Mean position of test positives among all test resumes."""
    embedded = Embeddings.of_corpus(encoder, corpus)
    test = corpus.labelled("test", 1)
    resumes = embedded.resumes[corpus.positions("resume", corpus.pool("resume", "test"))]
    own = embedded.resumes[corpus.positions("resume", test["resume_id"])]
    jobs = embedded.jobs[corpus.positions("job", test["job_id"])]
    return ((jobs @ resumes.T) > (jobs * own).sum(1, keepdims=True)).sum(1).mean()


@pytest.mark.slow
def test_training_improves_the_ranking_of_unseen_documents(tiny):
    encoder = load_encoder("static")
    before = mean_rank(encoder, tiny)
    result = train(encoder, tiny, replace(QUICK, epochs=4), progress=False)
    assert mean_rank(result.encoder, tiny) < 0.9 * before
    assert {"loss", "eval_loss", "epoch"} <= set(result.history.columns)
    assert result.history[["loss", "eval_loss"]].notna().any(axis=1).all()


@pytest.mark.parametrize(("pairs", "accumulation", "expected"), [(18, 1, 10), (18, 2, 6), (16, 1, 8), (3, 4, 2)])
def test_the_warm_up_counts_steps_as_the_trainer_does(pairs, accumulation, expected):
    settings = TrainingConfig(epochs=2, batch_size=4, gradient_accumulation=accumulation, warmup=1.0)
    arguments = trainer_arguments(settings, load_encoder("static"), pairs, False, 1, output_dir="unused")
    assert arguments.warmup_steps == expected


@pytest.mark.slow
def test_same_seed_same_weights_other_seed_other_weights(tiny):
    hashes = [
        train(load_encoder("static"), tiny, replace(QUICK, seed=seed), progress=False).encoder.weight_hash()
        for seed in (0, 0, 1)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


class Killer(TrainerCallback):
    """Ends a run abruptly at a point of its epochs."""

    def __init__(self, when):
        self.when = when

    def on_step_end(self, args, state, control, **kwargs):
        if state.epoch > self.when:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "refresh", "killed"),
    [
        ("full", None, 1.5),
        ("adapter", None, 1.5),
        ("full", Refresh("ance", {"n": 3}, every=1), 1.5),  # mines again with the weights it went on with
        ("full", Refresh("ance", {"n": 3}, every=2), 3.5),  # reads what it mined an epoch before
    ],
)
def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(
    tiny, tmp_path, monkeypatch, mode, refresh, killed
):
    negatives = {side: mine("random", tiny, target=side, n=10, seed=0) for side in SIDES}
    config = replace(QUICK, mode=mode, epochs=4 if killed > 2 else 3, gradient_accumulation=2)
    killer = Killer(killed)

    def run(**options):
        return train(load_encoder("static"), tiny, config, negatives, refresh=refresh, progress=False, **options)

    whole = run()
    original = trainer.ContrastiveTrainer.__init__
    with monkeypatch.context() as patch:
        patch.setattr(
            trainer.ContrastiveTrainer,
            "__init__",
            lambda self, *args, callbacks, **kwargs: original(self, *args, callbacks=[*callbacks, killer], **kwargs),
        )
        with pytest.raises(KeyboardInterrupt):
            run(output_dir=tmp_path)
    (last,) = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)[-1:]
    broken = tmp_path / "checkpoint-999"  # of another kill, during a checkpoint
    shutil.copytree(last, broken, ignore=shutil.ignore_patterns("trainer_state.json"))
    (broken / "model.safetensors").write_bytes(b"half")
    (tmp_path / "run.txt").write_text("")  # and one in the moment of marking the folder
    assert run(output_dir=str(tmp_path)).encoder.weight_hash() == whole.encoder.weight_hash()
    config = replace(config, seed=4)
    with pytest.raises(ValueError, match="another run"):
        run(output_dir=tmp_path)


@pytest.mark.slow
def test_refreshed_negatives_are_mined_with_the_weights_of_the_moment(tiny, monkeypatch):
    seen, drawn = [], {}
    refresh = Refresh("top", {"n": 3}, every=2)
    original, item = Refresh.mine, PositivePairs.__getitem__

    def mined(self, encoder, corpus, seed, epoch):
        negatives = original(self, encoder, corpus, seed, epoch)
        again = Embeddings.of_corpus(encoder, corpus)
        for side in SIDES:
            direct = mine("top", corpus, target=side, embeddings=again, n=3)
            assert negatives[side].fingerprint() == direct.fingerprint()
        seen.append((epoch, encoder.weight_hash(), negatives))
        return negatives

    def watched(self, pair):
        found = item(self, pair)
        if self.negatives["job"]:
            drawn.setdefault(self.epoch, []).append((found["resume"], found["negative_jobs"]))
        return found

    monkeypatch.setattr(Refresh, "mine", mined)
    monkeypatch.setattr(PositivePairs, "__getitem__", watched)
    train(load_encoder("static"), tiny, replace(QUICK, epochs=5), refresh=refresh, progress=False)
    assert [epoch for epoch, *_ in seen] == [2, 4] and seen[0][1] != seen[1][1]
    assert sorted(drawn) == [2, 3, 4]  # before the first refresh this run has in-batch negatives only
    for epoch, pairs in drawn.items():
        table = seen[0 if epoch < 4 else 1][2]["job"]
        for resume, jobs in pairs:
            assert {tiny.jobs.index[job] for job in jobs} <= set(table.of(tiny.resumes.index[resume]))


def test_refreshes_of_different_epochs_draw_differently(tiny):
    encoder, refresh = load_encoder("static"), Refresh("ance", {"n": 2, "k": 20})
    prints = [refresh.mine(encoder, tiny, seed=1, epoch=epoch)["job"].fingerprint() for epoch in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]
    for wrong, message in (({"every": 0}, "every=0"), ({"strategy": "bandd"}, "'bandd' is unknown")):
        with pytest.raises(ValueError, match=message):
            Refresh(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_last_epoch_or_that_with_the_lowest_validation_loss_is_kept(tiny, monkeypatch, keep):
    seen, evaluate = [], trainer.ContrastiveTrainer.evaluate

    def watched(self, *args, **kwargs):
        metrics = evaluate(self, *args, **kwargs)
        seen.append((metrics["eval_loss"], self.model.encoder.weight_hash()))
        return metrics

    monkeypatch.setattr(trainer.ContrastiveTrainer, "evaluate", watched)
    config = replace(QUICK, epochs=3, learning_rate=0.3, keep=keep)  # so high a rate that the loss rises again
    result = train(load_encoder("static"), tiny, config, progress=False)
    assert len(seen) == 3 and min(seen) != seen[-1]
    assert result.encoder.weight_hash() == (min(seen) if keep == "best" else seen[-1])[1]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_settings(tiny, monkeypatch):
    monkeypatch.setattr(trainer, "contrastive_loss", lambda *args, **kwargs: args[0].sum() * float("nan"))
    with pytest.raises(FloatingPointError, match=r"nan at step 1 \(learning_rate=0.001, temperature=0.2\)"):
        train(load_encoder("static"), tiny, QUICK, progress=False)


def test_a_pair_alone_is_refused_unless_it_has_mined_negatives(tiny):
    with pytest.raises(ValueError, match="batch_size=1: a pair alone has no negatives"):
        train(load_encoder("static"), tiny, TrainingConfig(batch_size=1), progress=False)


@pytest.mark.slow
def test_top_layers_train_and_lower_layers_stay():
    corpus = corpus_of_pairs([(0, 0), (1, 1), (2, 2)])
    encoder = load_encoder("minilm", max_length=16)
    before = [layer.attention.output.dense.weight.detach().clone() for layer in encoder.layers()]
    config = replace(QUICK, mode=2, epochs=1, batch_size=3)
    with pytest.raises(ValueError, match="no accepted validation pair: choose keep='last'"):
        train(encoder, corpus, replace(config, keep="best"), progress=False)
    train(encoder, corpus, config, progress=False)
    moved = [
        not torch.equal(layer.attention.output.dense.weight, old)
        for layer, old in zip(encoder.layers(), before, strict=True)
    ]
    assert moved == [False] * 4 + [True] * 2


@pytest.mark.parametrize("top", [1, 2, 6])
def test_top_layers_on_kept_activations_give_the_vectors_of_the_whole_encoder(top, tmp_path):
    encoder = load_encoder("minilm", max_length=16)
    encoder.freeze(top)
    documents = ["nurse", "baker who bakes bread for many people every day and every night of the week", "", "a nurse"]
    below = encoder.embed_lower(documents, tmp_path, progress=False)
    assert [len(row) for row in below] == [3, 16, 2, 4] and below[0].dtype == np.float16
    kept = DocumentStore(encoder, documents, activations=below).features(np.array([2, 1, 0, 3]))
    vectors = torch.cat([encoder(part) for part in kept["parts"]])[kept["places"]]
    expected = encoder.encode(documents, progress=False)[[2, 1, 0, 3]]
    np.testing.assert_allclose(torch.nn.functional.normalize(vectors).detach().numpy(), expected, atol=1e-3)


def test_kept_activations_are_computed_once_and_replaced_when_damaged(tmp_path, monkeypatch, caplog):
    encoder = load_encoder("minilm", max_length=16)
    encoder.freeze(2)
    first = [row.copy() for row in encoder.embed_lower(["nurse", "baker"], tmp_path, progress=False)]
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    again = encoder.embed_lower(["nurse", "baker"], tmp_path, progress=False)
    assert "unusable" in caplog.text and [file] == [*tmp_path.iterdir()]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    monkeypatch.setattr(encoder, "_in_batches", None)  # no third time
    encoder.embed_lower(["nurse", "baker"], tmp_path, progress=False)


@pytest.mark.slow
def test_adapter_training_leaves_the_encoder_untouched(tiny):
    encoder = load_encoder("static")
    frozen = encoder.backbone.token_vectors.detach().clone()
    trained = train(encoder, tiny, replace(QUICK, mode="adapter"), progress=False).encoder
    assert torch.equal(trained.backbone.token_vectors, frozen)
    assert not torch.equal(trained.adapter.weight, torch.eye(encoder.dim))


def test_result_round_trip(tiny, tmp_path):
    result = train(load_encoder("static"), tiny, replace(QUICK, epochs=1), progress=False)
    result.save(tmp_path, metrics={"ndcg@10": 0.25})
    loaded = TrainingResult.load(tmp_path)
    assert loaded.config == result.config
    card = (tmp_path / "README.md").read_text()
    for part in ("license: mit", f"| corpus | {tiny.name} |", "| learning_rate | 0.001 |", "| ndcg@10 | 0.25 |"):
        assert part in card
    assert loaded.encoder.card == card
    peer = SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    sample = list(tiny.jobs.iloc[:3, 0])
    np.testing.assert_allclose(loaded.encoder.encode(sample), result.encoder.encode(sample), atol=1e-6)
    np.testing.assert_allclose(peer.encode(sample), result.encoder.encode(sample), atol=1e-6)


def test_row_adam_makes_the_steps_of_sparse_adam():
    start, drawn = torch.randn(9, 4, generator=torch.manual_seed(0)), np.random.default_rng(0)
    tables = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [RowAdam([tables[0]], lr=0.1), torch.optim.SparseAdam([tables[1]], lr=0.1)]
    for _ in range(5):
        rows = torch.from_numpy(drawn.integers(0, 9, 4))  # some rows twice, some never
        for table, adam in zip(tables, optimizers, strict=True):
            adam.zero_grad()
            torch.nn.functional.embedding(rows, table, sparse=True).pow(2).sum().backward()
            adam.step()
        torch.testing.assert_close(*tables)
    assert not torch.equal(tables[0], start)


@pytest.mark.slow
def test_train_once_trains_once(tiny, tmp_path, monkeypatch):
    first = train_once(load_encoder("static"), tiny, QUICK, cache=str(tmp_path), progress=False)
    monkeypatch.setattr(trainer, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    again = train_once(load_encoder("static"), tiny, QUICK, cache=tmp_path, progress=False)
    assert again.encoder.weight_hash() == first.encoder.weight_hash()
