"""ConFit v1: its recipe on the kit's encoder, and the published system, which encodes every field by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_linear_schedule_with_warmup

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import TextEncoder, load_encoder
from confitlib.mining import Embeddings, Negatives, mine
from confitlib.rankers.base import Rows, VectorRanker, trained_weights
from confitlib.rankers.dense import InBatch
from confitlib.text import texts
from confitlib.training import PairCollator, PositivePairs, confit_v1_loss
from confitlib.util import check_range

DOCUMENTS_AT_ONCE = 256


class RejectedNegatives(InBatch):
    """The dual encoder trained with labelled rejections as hard negatives: the recipe of ConFit v1.

    The encoder is the one-sequence encoder of ConFit v2, so that a comparison with `ConFitV2` isolates the choice of
    hard negatives. `ConFitV1` is the published system. Source: arXiv 2401.16349.
    """

    name = "ConFit v1"

    def hard_negatives(self, corpus: Corpus) -> dict[Side, Negatives]:
        """The rejections of every training document."""
        return {side: mine("rejected", corpus, target=side, seed=self.config.seed) for side in SIDES}


@dataclass(frozen=True)
class FieldConfig:
    """Settings of ConFit v1; the official values in brackets where ours differ.

    `finetune`: train the encoder too [yes]; without it the fields' vectors are frozen and a CPU is enough, which
    wants a higher `learning_rate` [1e-5]. `temperature`: 1 as published. Layer-normalised vectors have inner products
    in the hundreds, so at 1 the softmax is all but hard and a batch teaches little; about 20, the root of the width,
    suits frozen vectors better. `negatives_per_batch`: cap of each side's rejections in a batch.
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
    negatives_per_batch: int | None = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "epochs", "batch_size", "heads", "feedforward", least=1)
        check_range(self, "learning_rate", "max_grad_norm", "temperature", above=0)
        check_range(self, "warmup", "dropout", most=1)
        check_range(self, "weight_decay", "negatives_per_batch", "seed")


class FieldNetwork(nn.Module):
    """Every field of a document encoded by itself, an interaction layer over the fields, and a linear merge.

    Both sides share the layer, which keeps the likeness of their fields, and the merge starts as a mean (our choices).
    """

    def __init__(self, encoder: TextEncoder, fields: Mapping[Side, list[str]], config: FieldConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.interaction = nn.TransformerEncoderLayer(
            encoder.dim, config.heads, config.feedforward, config.dropout, batch_first=True
        )
        merges: dict[str, nn.Linear] = {side: nn.Linear(len(names), 1) for side, names in fields.items()}
        for merge in merges.values():
            nn.init.constant_(merge.weight, 1 / merge.in_features)
        self.merge = nn.ModuleDict(merges)
        self.to(encoder.device)

    def forward(self, side: Side, features: Mapping[str, Tensor]) -> Tensor:
        """Vectors `[documents, d]`, un-normalised, of what `FieldInputs.features` returns."""
        inputs = {name: tensor.to(self.encoder.device) for name, tensor in features.items()}
        fields = inputs["fields"] if "fields" in inputs else self.encoder(inputs)  # [documents * fields, d]
        mixed = self.interaction(fields.unflatten(0, (-1, self.merge[side].in_features)))  # [documents, fields, d]
        return self.merge[side](mixed.transpose(1, 2)).squeeze(-1)


class FieldInputs:
    """Every field of a side's documents as the model reads it: frozen vectors, or token ids if the encoder trains."""

    def __init__(self, encoder: TextEncoder, corpus: Corpus, side: Side, finetune: bool) -> None:
        columns = [texts(corpus, side, hyre=False, fields=[name]).tolist() for name in corpus.fields(side)]
        self.encoder, self.finetune = encoder, finetune
        if finetune:
            self.tokens = [encoder.tokenize(column) for column in columns]
        else:
            vectors = [encoder.embed_frozen(column, progress=False) for column in columns]
            self.vectors = torch.from_numpy(np.stack(vectors, axis=1))  # [documents, fields, d]

    def features(self, rows: Rows) -> dict[str, Tensor]:
        """Inputs of the documents in these rows, all fields of the first, then all of the next."""
        if self.finetune:
            return self.encoder.collate([column[row] for row in rows for column in self.tokens])
        return {"fields": self.vectors[torch.from_numpy(rows)].flatten(0, 1)}


class ConFitV1(VectorRanker):
    """The published ConFit v1 (arXiv 2401.16349): field vectors, interaction, merge, un-normalised inner product.

    Its loss is `confit_v1_loss` with annotated rejections as hard negatives. `RejectedNegatives` keeps that recipe on
    the one-sequence encoder of v2; this one is the architecture that v2 simplifies. Hypothetical resumes are not read.
    `history`: one row an epoch with `epoch, loss, valid_loss`.
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
        config, trust = self.config, self.trust_remote_code
        encoder = load_encoder(self.encoder, max_length=self.max_length, seed=config.seed, trust_remote_code=trust)
        if config.finetune and encoder.sparse_parameters:
            raise ValueError("the static encoder has sparse gradients: use finetune=False, or another encoder")
        encoder.requires_grad_(False)
        if config.finetune:
            encoder.freeze("all")  # but for what cannot reach the output
        self.fields = {side: corpus.fields(side) for side in SIDES}
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.network = FieldNetwork(encoder, self.fields, config)
            self._train(corpus)
        self.network.eval()
        return self

    def _train(self, corpus: Corpus) -> None:
        config = self.config
        rejected = {side: mine("rejected", corpus, target=side, seed=config.seed) for side in SIDES}
        pairs = PositivePairs(corpus, "train", rejected, seed=config.seed)
        valid = None if corpus.labelled("valid", 1).empty else PositivePairs(corpus, "valid")  # in-batch negatives only
        collate = PairCollator(self._inputs(corpus), corpus, config.negatives_per_batch)
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
        batches = DataLoader(pairs, config.batch_size, shuffle=True, collate_fn=collate)
        steps = config.epochs * len(batches)
        schedule = get_linear_schedule_with_warmup(optimizer, int(config.warmup * steps), steps)
        rows, best = [], np.inf
        for pairs.epoch in tqdm(range(config.epochs), desc=f"{self.name}: train", unit="epoch", delay=2):
            losses = []
            self.network.train()
            for batch in batches:
                optimizer.zero_grad()
                loss = self._loss(batch)
                loss.backward()
                nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            valid_loss = self._evaluate(valid, collate)
            rows.append({"epoch": pairs.epoch + 1, "loss": float(np.mean(losses)), "valid_loss": valid_loss})
            if valid is None or pairs.epoch == 0 or valid_loss < best:  # a loss of NaN is no better than any
                best, weights = np.fmin(best, valid_loss), [parameter.detach().clone() for parameter in trained]
        with torch.no_grad():
            for parameter, value in zip(trained, weights, strict=True):
                parameter.copy_(value)
        self.history = pd.DataFrame(rows)

    def _loss(self, batch: dict[str, Any]) -> Tensor:
        pairs = len(batch["masked_jobs"])  # positives come first, then rejections
        resumes, jobs = self.network("resume", batch["resumes"]), self.network("job", batch["jobs"])
        return confit_v1_loss(resumes[:pairs], jobs[:pairs], resumes[pairs:], jobs[pairs:], self.config.temperature)

    @torch.no_grad()
    def _evaluate(self, valid: PositivePairs | None, collate: PairCollator) -> float:
        """Mean loss over the validation pairs; NaN without any."""
        if valid is None:
            return float("nan")
        self.network.eval()
        return float(np.mean([self._loss(batch).item() for batch in DataLoader(valid, 32, collate_fn=collate)]))

    def _inputs(self, corpus: Corpus) -> dict[Side, FieldInputs]:
        for side, names in self.fields.items():
            if corpus.fields(side) != names:
                what = f"corpus {corpus.name!r} has {side} fields {corpus.fields(side)}, the ranker learnt from {names}"
                raise ValueError(f"{what}: give both corpora the same fields in the same order")
        return {side: FieldInputs(self.network.encoder, corpus, side, self.config.finetune) for side in SIDES}

    @torch.no_grad()
    def index(self, corpus: Corpus) -> Self:
        """Vectors of every document."""
        self.corpus, vectors = corpus, []
        for side, inputs in self._inputs(corpus).items():
            rows = np.arange(len(corpus.documents(side)))
            blocks = np.array_split(rows, max(1, len(rows) // DOCUMENTS_AT_ONCE))
            parts = [self.network(side, inputs.features(block)).float().cpu() for block in blocks]
            vectors.append(torch.cat(parts).numpy())
        self.embeddings = Embeddings(*vectors)
        return self

    @property
    def n_parameters(self) -> int:
        """The weights of the interaction layer and the merges, and of the encoder if it is fine-tuned."""
        return trained_weights(self.network)
