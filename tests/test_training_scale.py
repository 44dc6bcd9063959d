"""Training at full size: gradients in chunks and batches of similar length."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import CachedMultipleNegativesSymmetricRankingLoss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_worker import small_encoder
from transformers import BertConfig, TrainerCallback

from confitlib.corpus import SIDES
from confitlib.encoder import load_encoder, model
from confitlib.mining import mine
from confitlib.text import texts
from confitlib.training import PairCollator, PositivePairs, TrainingConfig, contrastive_loss, train, trainer
from confitlib.training.pairs import FILLER, DocumentStore, PairSampler
from confitlib.training.trainer import DualEncoder

SMALL = BertConfig(vocab_size=30_522, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)


@pytest.fixture
def transformer(tmp_path):
    """A two-layer encoder with random weights and dropout."""
    return small_encoder(tmp_path / "model", SMALL)


def batch_of(encoder, corpus, pairs, chunk, negatives=None):
    """The first pairs of the training split as one batch."""
    stores = {side: DocumentStore(encoder, texts(corpus, side), chunk=chunk) for side in SIDES}
    data = PositivePairs(corpus, "train", negatives)
    return PairCollator(stores, corpus, None)([data[row] for row in range(pairs)])


def gradients(encoder, corpus, chunk, seed=0):
    """Loss and gradients of one batch of 12 pairs with hard negatives, after the given seed."""
    negatives = {side: mine("random", corpus, target=side, n=5, seed=0) for side in SIDES}
    batch = batch_of(encoder, corpus, 12, chunk, negatives)
    torch.manual_seed(seed)
    resumes, jobs = DualEncoder(encoder, again=chunk is not None)(batch["resumes"], batch["jobs"])
    masks = {name: batch[name] for name in ("masked_jobs", "masked_resumes")}
    loss = contrastive_loss(resumes[:12], jobs[:12], resumes[12:], jobs[12:], **masks)
    encoder.zero_grad()
    loss.backward()
    found = {name: p.grad.to_dense().clone() for name, p in encoder.named_parameters() if p.grad is not None}
    return loss.item(), found


def assert_close(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    assert one[1].keys() == other[1].keys() and one[1]
    for name, gradient in one[1].items():
        difference = (gradient - other[1][name]).norm()
        assert difference <= 1e-4 * other[1][name].norm() + 1e-6, name


@pytest.mark.parametrize("chunk", [1, 5, 100, None])
@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_gradients_in_chunks_are_those_of_the_whole_batch(tiny, transformer, monkeypatch, kind, chunk):
    encoder = load_encoder("static") if kind == "static" else transformer
    names = ("TOKENS_AT_ONCE", "TOKENS_AT_ONCE_ON_CPU")
    for name in names:
        monkeypatch.setattr(model, name, 10**9)
    whole = gradients(encoder, tiny, None)
    for name in names:
        monkeypatch.setattr(model, name, 200)
    assert_close(gradients(encoder, tiny, chunk), whole)


def test_dropout_is_the_same_in_both_passes_over_a_chunk(tiny, transformer, monkeypatch):
    """One checkpointed forward equals the same parts embedded with their graphs kept, dropout on."""
    transformer.train()
    in_chunks = gradients(transformer, tiny, 5)
    monkeypatch.setattr(trainer, "checkpoint", lambda function, part, use_reentrant: function(part))
    assert_close(in_chunks, gradients(transformer, tiny, 5))
    other = gradients(transformer, tiny, 5, seed=1)
    assert abs(in_chunks[0] - other[0]) > 1e-4  # dropout is on: another seed, another loss


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are still held, and their peak."""

    def __init__(self):
        super().__init__()
        self.held, self.now, self.peak = set(), 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        results = operation(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor) and result.untyped_storage()._cdata not in self.held:
                self._hold(result.untyped_storage())
        return results

    def _hold(self, storage):
        self.held.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())

    def _release(self, key, size):
        self.held.discard(key)
        self.now -= size


def peak_bytes(encoder, corpus, pairs, chunk):
    """Peak of the tensors alive in forward and backward pass of one batch."""
    batch = batch_of(encoder, corpus, pairs, chunk)
    encoder.zero_grad()
    with LiveBytes() as live:
        resumes, jobs = DualEncoder(encoder, again=chunk is not None)(batch["resumes"], batch["jobs"])
        contrastive_loss(resumes, jobs).backward()
    return live.peak


@pytest.mark.slow
def test_memory_in_chunks_hardly_grows_with_the_batch(tiny, transformer):
    transformer.backbone.model.embeddings.requires_grad_(False)  # a gradient of the whole table would hide the rest
    growth = {
        chunk: peak_bytes(transformer, tiny, 24, chunk) - peak_bytes(transformer, tiny, 8, chunk) for chunk in (4, None)
    }
    assert growth[4] < growth[None] / 20


def test_loss_in_chunks_is_that_of_sentence_transformers(tiny, transformer, tmp_path):
    """Its cached symmetric loss defines the same thing without hard negatives and mask."""
    peer = SentenceTransformer(str(transformer.save(tmp_path / "saved")), device="cpu").eval()
    pairs = tiny.labelled("train", 1).head(12)
    features = [peer.preprocess(list(texts(tiny, side).loc[pairs[f"{side}_id"]])) for side in SIDES]
    cached = CachedMultipleNegativesSymmetricRankingLoss(peer, scale=20.0, mini_batch_size=5)
    theirs = cached(features, None)
    batch = batch_of(transformer, tiny, 12, 5)
    ours = contrastive_loss(*DualEncoder(transformer)(batch["resumes"], batch["jobs"]), temperature=1 / 20)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    ours.backward(), theirs.backward()
    table = "embeddings.word_embeddings.weight"
    found = [dict(one.named_parameters())[table].grad for one in (transformer.backbone.model, peer[0].model)]
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)


def test_length_grouping_covers_every_pair_once_and_is_seeded(tiny):
    pairs = PositivePairs(tiny, "train", seed=3)
    lengths = np.random.default_rng(0).integers(1, 500, len(pairs))
    sampler = PairSampler(pairs, 7, lengths=lengths)
    first = list(sampler)
    assert sorted(first) == list(range(len(pairs))) and first == list(sampler)
    pairs.epoch = 1
    assert list(sampler) != first
    spread = np.ptp(lengths[np.array(first[: len(first) // 7 * 7]).reshape(-1, 7)], axis=1)
    assert spread.mean() < 0.3 * np.ptp(lengths)


def test_fewer_pairs_than_a_batch_are_all_sampled(tiny):
    pairs = PositivePairs(tiny, "train")
    lengths = np.ones(len(pairs), dtype=int)
    for sampler in (PairSampler(pairs, len(pairs) + 1, lengths=lengths), PairSampler(pairs, len(pairs) + 1)):
        assert sorted(sampler) == list(range(len(pairs)))
    shared = list(PairSampler(pairs, len(pairs) + 1, processes=2))
    assert len(shared) == len(pairs) + 1 and shared[-1] == FILLER


class Killer(TrainerCallback):
    """Ends a run abruptly in the middle of its second epoch."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.epoch > 1.5:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_killed_run_with_grouped_lengths_and_chunks_resumes_to_the_same_weights(tiny, tmp_path, monkeypatch):
    config = TrainingConfig(epochs=3, batch_size=32, chunk=8, group_by_length=True, seed=3)
    whole = train(load_encoder("static"), tiny, config, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.EpochCallback, "on_step_end", Killer.on_step_end)
        with pytest.raises(KeyboardInterrupt):
            train(load_encoder("static"), tiny, config, output_dir=tmp_path, progress=False)
    assert list(tmp_path.glob("checkpoint-*"))
    again = train(load_encoder("static"), tiny, config, output_dir=tmp_path, progress=False)
    assert again.encoder.weight_hash() == whole.encoder.weight_hash()


def test_chunk_must_be_positive():
    with pytest.raises(ValueError, match="chunk=0"):
        replace(TrainingConfig(), chunk=0)
