"""Training at full size: gradients in chunks, batches of similar length, checkpointing, random sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, TrainerCallback

from confitlib.corpus import SIDES
from confitlib.encoder import load_encoder, loading
from confitlib.mining import mine
from confitlib.training import (
    DocumentStore,
    DualEncoder,
    LengthGroupedSampler,
    PairCollator,
    PositivePairs,
    TrainingConfig,
    contrastive_loss,
    train,
    trainer,
)

SMALL = BertConfig(vocab_size=30_522, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)


@pytest.fixture
def transformer(monkeypatch):
    """A two-layer encoder with random weights and dropout."""
    monkeypatch.setitem(loading.SIZES, "small", SMALL)
    return load_encoder("random:small", max_length=48, device="cpu")


def gradients(encoder, corpus, chunk, seed=0):
    """Loss and gradients of one batch of 12 pairs with hard negatives, after the given seed."""
    negatives = {side: mine("random", corpus, target=side, n=5, seed=0) for side in SIDES}
    stores = {side: DocumentStore(encoder, corpus, side, frozen=False) for side in SIDES}
    pairs = PositivePairs(corpus, "train", negatives)
    batch = PairCollator(stores, corpus, None, chunk)([pairs[row] for row in range(12)])
    torch.manual_seed(seed)
    resumes, jobs = DualEncoder(encoder)(batch["resumes"], batch["jobs"])
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
        torch.testing.assert_close(gradient, other[1][name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 5, 100])
@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_gradients_in_chunks_are_those_of_the_whole_batch(tiny, transformer, kind, chunk):
    encoder = load_encoder("static") if kind == "static" else transformer
    assert_close(gradients(encoder, tiny, chunk), gradients(encoder, tiny, None))


def test_dropout_is_the_same_in_both_passes_over_a_chunk(tiny, transformer, monkeypatch):
    """One checkpointed forward equals the same parts embedded with their graphs kept, dropout on."""
    transformer.train()
    in_chunks = gradients(transformer, tiny, 5)
    monkeypatch.setattr(trainer, "checkpoint", lambda function, part, use_reentrant: function(part))
    assert_close(in_chunks, gradients(transformer, tiny, 5))
    other = gradients(transformer, tiny, 5, seed=1)
    assert abs(in_chunks[0] - other[0]) > 1e-4  # dropout is on: another seed, another loss


def saved_elements(encoder, corpus, chunk):
    """Elements of all tensors that the forward pass of a batch saves for the backward pass."""
    stores = {side: DocumentStore(encoder, corpus, side, frozen=False) for side in SIDES}
    pairs = PositivePairs(corpus, "train")
    batch = PairCollator(stores, corpus, None, chunk)([pairs[row] for row in range(12)])
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda t: t):
        DualEncoder(encoder)(batch["resumes"], batch["jobs"])
    return sum(sizes)


def test_the_forward_pass_keeps_no_activations_of_a_chunk(tiny, transformer):
    assert saved_elements(transformer, tiny, 4) < saved_elements(transformer, tiny, None) / 100


def test_length_grouping_covers_every_pair_once_and_is_seeded(tiny):
    pairs = PositivePairs(tiny, "train", seed=3)
    lengths = np.random.default_rng(0).integers(1, 500, len(pairs))
    sampler = LengthGroupedSampler(pairs, lengths, batch_size=7, window=10)
    first = list(sampler)
    assert sorted(first) == list(range(len(pairs))) and first == list(sampler)
    pairs.epoch = 1
    assert list(sampler) != first
    spread = np.ptp(lengths[np.array(first[: len(first) // 7 * 7]).reshape(-1, 7)], axis=1)
    assert spread.mean() < 0.3 * np.ptp(lengths)


def test_fewer_pairs_than_a_batch_are_all_sampled(tiny):
    pairs = PositivePairs(tiny, "train")
    sampler = LengthGroupedSampler(pairs, np.ones(len(pairs), dtype=int), batch_size=len(pairs) + 1)
    assert sorted(sampler) == list(range(len(pairs)))


class Killer(TrainerCallback):
    """Ends a run abruptly in the middle of its second epoch."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.epoch > 1.5:
            raise KeyboardInterrupt


def test_a_killed_run_with_grouped_lengths_and_chunks_resumes_to_the_same_weights(tiny, tmp_path, monkeypatch):
    config = TrainingConfig(epochs=3, batch_size=32, chunk=8, group_by_length=True, seed=3)
    whole = train(load_encoder("static"), tiny, config, progress=False)
    original = trainer._EpochCallback.on_step_end
    with monkeypatch.context() as patch:
        patch.setattr(trainer._EpochCallback, "on_step_end", Killer.on_step_end)
        with pytest.raises(KeyboardInterrupt):
            train(load_encoder("static"), tiny, config, output_dir=tmp_path, progress=False)
    assert trainer._EpochCallback.on_step_end is original and list(tmp_path.glob("checkpoint-*"))
    again = train(load_encoder("static"), tiny, config, output_dir=tmp_path, progress=False)
    assert again.encoder.weight_hash() == whole.encoder.weight_hash()


def test_checkpointing_reaches_the_layers_and_is_switched_off_again(transformer):
    with trainer._checkpointing(transformer, True):
        assert transformer.backbone.model.is_gradient_checkpointing
    assert not transformer.backbone.model.is_gradient_checkpointing


def test_checkpointing_of_a_static_encoder_is_refused(tiny):
    with pytest.raises(ValueError, match="needs a transformer"):
        train(load_encoder("static"), tiny, TrainingConfig(gradient_checkpointing=True), progress=False)


def test_random_encoders_are_seeded_and_named_so(monkeypatch):
    monkeypatch.setitem(loading.SIZES, "small", SMALL)
    one, same = (load_encoder("random:small", seed=1) for _ in range(2))
    assert one.name == "random:small" and one.weight_hash() == same.weight_hash()
    assert load_encoder("random:small", seed=2).weight_hash() != one.weight_hash()
    with pytest.raises(ValueError, match="random:e5-base"):
        load_encoder("random:giant")


def test_chunk_must_be_positive():
    with pytest.raises(ValueError, match="chunk=0"):
        replace(TrainingConfig(), chunk=0)
