"""ConFit v1 as published: every field encoded by itself, one interaction layer, a linear merge, τ = 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_linear_schedule_with_warmup

from confitlib.corpus import SIDES, Corpus, Side, Split
from confitlib.encoder import TextEncoder, load_encoder
from confitlib.mining import Embeddings, mine
from confitlib.rankers.base import VectorRanker, trained_weights
from confitlib.text import texts
from confitlib.training import PairCollator, PositivePairs, confit_v1_loss
from confitlib.util import check_range

WEIGHTS, ENCODER, HISTORY = "fields.safetensors", "encoder", "history.jsonl"
ENCODED_AT_ONCE = 256  # documents


@dataclass(frozen=True)
class FieldConfig:
    """Settings of ConFit v1; the official values in brackets where ours differ.

    `finetune`: train the encoder too [yes]; without it the fields' vectors are frozen and a CPU is enough, which
    wants a higher `learning_rate` [1e-5]. `temperature`: 1 as published. Layer-normalised vectors have inner products
    in the hundreds, so at 1 the softmax is all but hard and a batch teaches little; about 20, the root of the width,
    suits frozen vectors better. `shared_layer`: one interaction layer for both sides, which keeps the likeness of
    their fields (our choice, like the merge that starts as a mean). `negatives_per_batch`: cap of each side's
    rejections in a batch.
    """

    finetune: bool = False
    epochs: int = 10
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 10.0
    temperature: float = 1.0
    heads: int = 8
    feedforward: int = 768
    dropout: float = 0.1
    shared_layer: bool = True
    negatives_per_batch: int | None = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "epochs", "batch_size", "heads", "feedforward", least=1)
        check_range(self, "learning_rate", "max_grad_norm", "temperature", above=0)
        check_range(self, "warmup", "dropout", most=1)
        check_range(self, "weight_decay", "negatives_per_batch", "seed")


class FieldNetwork(nn.Module):
    """Field vectors `[documents, fields, d]` to one vector a document: an interaction layer and a linear merge."""

    def __init__(self, fields: Mapping[Side, int], dim: int, config: FieldConfig) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {side: self._layer(dim, config) for side in SIDES}
        if config.shared_layer:
            layers["job"] = layers["resume"]
        self.layers = nn.ModuleDict(layers)
        self.merge = nn.ModuleDict({side: self._mean(fields[side]) for side in SIDES})

    @staticmethod
    def _layer(dim: int, config: FieldConfig) -> nn.Module:
        return nn.TransformerEncoderLayer(dim, config.heads, config.feedforward, config.dropout, batch_first=True)

    @staticmethod
    def _mean(fields: int) -> nn.Module:
        merge = nn.Linear(fields, 1)
        nn.init.constant_(merge.weight, 1 / fields)
        return merge

    def forward(self, side: Side, fields: Tensor) -> Tensor:
        """Vectors `[documents, d]`, un-normalised."""
        mixed = self.layers[side](fields)
        return self.merge[side](mixed.transpose(1, 2)).squeeze(-1)


class FieldStore:
    """What is known of every field of a side's documents: frozen vectors, or token ids if the encoder trains."""

    def __init__(self, encoder: TextEncoder, corpus: Corpus, side: Side, finetune: bool) -> None:
        self.encoder, self.fields = encoder, corpus.fields(side)
        columns = [texts(corpus, side, hyre=False, fields=[name]).tolist() for name in self.fields]
        self.tokens = [encoder.tokenize(column) for column in columns] if finetune else None
        if not finetune:
            vectors = [encoder.embed_frozen(column, progress=False) for column in columns]
            self.vectors = torch.from_numpy(np.stack(vectors, axis=1))

    def features(self, rows: NDArray[np.intp]) -> dict[str, Tensor]:
        """Inputs of the documents in these rows."""
        if self.tokens is None:
            return {"fields": self.vectors[torch.from_numpy(rows)]}
        return self.encoder.collate([column[row] for row in rows for column in self.tokens])


class FieldConFitV1(VectorRanker):
    """ConFit v1 (arXiv 2401.16349): field vectors, interaction, merge, un-normalised inner product.

    Its loss is `confit_v1_loss` with annotated rejections as hard negatives. `ConFitV1` keeps that recipe on the
    one-sequence encoder of v2; this one is the architecture that v2 simplifies. Hypothetical resumes are not read.
    """

    name = "ConFit v1, per field"

    def __init__(
        self,
        encoder: str = "static",
        config: FieldConfig = FieldConfig(),
        max_length: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.encoder, self.config, self.max_length = encoder, config, max_length
        self.trust_remote_code = trust_remote_code

    def learn(self, corpus: Corpus) -> Self:
        """Train on accepted pairs and keep the epoch with the lowest validation loss (the last without such pairs)."""
        encoder = self._load_encoder(self.encoder)
        if encoder.sparse_parameters:
            raise ValueError("the static encoder has sparse gradients: use finetune=False, or another encoder")
        self.fields = {side: corpus.fields(side) for side in SIDES}
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            network = FieldNetwork({side: len(self.fields[side]) for side in SIDES}, encoder.dim, self.config)
            self.model = nn.ModuleDict({"encoder": encoder, "network": network.to(encoder.device)})
            self._train(corpus)
        self.model.eval()
        return self

    def _load_encoder(self, name: str) -> TextEncoder:
        trust = self.trust_remote_code
        encoder = load_encoder(name, max_length=self.max_length, seed=self.config.seed, trust_remote_code=trust)
        if self.config.finetune:
            encoder.freeze("all")  # but for what cannot reach the output
            return encoder
        return encoder.requires_grad_(False)

    def _train(self, corpus: Corpus) -> None:
        config, stores = self.config, self._stores(corpus)
        pairs = self._pairs(corpus, "train")
        valid = None if corpus.labelled("valid", 1).empty else self._pairs(corpus, "valid")
        collate = PairCollator(stores, corpus, config.negatives_per_batch)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
        steps = config.epochs * -(-len(pairs) // config.batch_size)
        schedule = get_linear_schedule_with_warmup(optimizer, int(config.warmup * steps), steps)
        rows, best = [], np.inf
        bar = tqdm(range(config.epochs), desc=f"{self.name}: train", unit="epoch", delay=2)
        for pairs.epoch in bar:
            batches = DataLoader(pairs, config.batch_size, shuffle=True, collate_fn=collate)
            loss = float(
                np.mean([self._step(batch, trained, optimizer, schedule) for batch in self._train_mode(batches)])
            )
            valid_loss = self._evaluate(valid, collate)
            rows.append({"epoch": pairs.epoch + 1, "loss": loss, "valid_loss": valid_loss})
            if valid is None or pairs.epoch == 0 or valid_loss < best:  # a loss of NaN is no better than any
                best, weights = np.fmin(best, valid_loss), {name: one.clone() for name, one in self._learnt().items()}
        self.model.load_state_dict(weights, strict=False)
        self.history = pd.DataFrame(rows)

    def _train_mode(self, batches: DataLoader) -> Iterator[dict[str, Any]]:
        self.model.train()
        yield from batches

    def _step(
        self, batch: dict[str, Any], trained: list[nn.Parameter], optimizer: torch.optim.Optimizer, schedule: Any
    ) -> float:
        optimizer.zero_grad()
        loss = self._loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, self.config.max_grad_norm)
        optimizer.step()
        schedule.step()
        return loss.item()

    def _pairs(self, corpus: Corpus, split: Split) -> PositivePairs:
        """Pairs with the rejections of their own; validation has in-batch negatives only, as `train` has."""
        if split != "train":
            return PositivePairs(corpus, split)
        rejected = {side: mine("rejected", corpus, target=side, seed=self.config.seed) for side in SIDES}
        return PositivePairs(corpus, split, rejected, seed=self.config.seed)

    def _loss(self, batch: dict[str, Any]) -> Tensor:
        pairs = len(batch["masked_jobs"])
        resumes, jobs = (self._vectors(side, batch[f"{side}s"]) for side in SIDES)
        return confit_v1_loss(resumes[:pairs], jobs[:pairs], resumes[pairs:], jobs[pairs:], self.config.temperature)

    def _vectors(self, side: Side, features: dict[str, Tensor]) -> Tensor:
        encoder: Any = self.model["encoder"]
        inputs = {name: tensor.to(encoder.device) for name, tensor in features.items()}
        fields = inputs["fields"] if "fields" in inputs else encoder(inputs)
        return self.model["network"](side, fields.reshape(-1, len(self.fields[side]), fields.shape[-1]))

    @torch.no_grad()
    def _evaluate(self, valid: PositivePairs | None, collate: PairCollator) -> float:
        """Mean loss over the validation pairs; NaN without any."""
        if valid is None:
            return float("nan")
        self.model.eval()
        return float(np.mean([self._loss(batch).item() for batch in DataLoader(valid, 32, collate_fn=collate)]))

    def _stores(self, corpus: Corpus) -> dict[Side, FieldStore]:
        for side in SIDES:
            if corpus.fields(side) != self.fields[side]:
                raise ValueError(
                    f"corpus {corpus.name!r} has {side} fields {corpus.fields(side)}, the ranker learnt from "
                    f"{self.fields[side]}: give both corpora the same fields in the same order"
                )
        encoder: Any = self.model["encoder"]
        return {side: FieldStore(encoder, corpus, side, self.config.finetune) for side in SIDES}

    @torch.no_grad()
    def index(self, corpus: Corpus) -> Self:
        """Vectors of every document."""
        self.corpus, stores = corpus, self._stores(corpus)
        vectors = []
        for side in SIDES:
            rows = np.arange(len(corpus.documents(side)))
            blocks = np.array_split(rows, max(1, len(rows) // ENCODED_AT_ONCE))
            parts = [self._vectors(side, stores[side].features(block)).float().cpu() for block in blocks]
            vectors.append(torch.cat(parts).numpy())
        self.embeddings = Embeddings(*vectors)
        return self

    @property
    def n_parameters(self) -> int:
        """The weights of the interaction layer and the merges, and of the encoder if it is fine-tuned."""
        return trained_weights(self.model)

    def _learnt(self) -> dict[str, Tensor]:
        """Weights that training changes: all of them, or those of the network."""
        state = self.model.state_dict()
        return {name: one for name, one in state.items() if self.config.finetune or name.startswith("network.")}

    def _save_learnt(self, folder: Path) -> None:
        network: Any = self.model["network"]
        fields = {side: "\n".join(self.fields[side]) for side in SIDES}
        save_file(
            {name: one.contiguous().clone() for name, one in network.state_dict().items()}, folder / WEIGHTS, fields
        )
        if self.config.finetune:
            encoder: Any = self.model["encoder"]
            encoder.save(folder / ENCODER)
        self.history.to_json(folder / HISTORY, orient="records", lines=True)

    def _load_learnt(self, folder: Path) -> None:
        self.fields = _field_names(folder / WEIGHTS)
        encoder = self._load_encoder(str(folder / ENCODER) if self.config.finetune else self.encoder)
        network = FieldNetwork({side: len(self.fields[side]) for side in SIDES}, encoder.dim, self.config)
        network.load_state_dict(load_file(folder / WEIGHTS))
        self.model = nn.ModuleDict({"encoder": encoder, "network": network.to(encoder.device)}).eval()
        self.history = pd.read_json(folder / HISTORY, lines=True)


def _field_names(weights: Path) -> dict[Side, list[str]]:
    with safe_open(weights, framework="pt") as file:
        return {side: file.metadata()[side].split("\n") for side in SIDES}
