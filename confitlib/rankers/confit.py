"""ConFit v1: its recipe on the kit's encoder, and the published system, which encodes every field by itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import Embeddings, TextEncoder, load_encoder
from confitlib.mining import Negatives, mine
from confitlib.rankers.base import Rows, VectorRanker, trained_weights
from confitlib.rankers.dense import InBatch
from confitlib.rankers.pair_training import PairTraining, fit_network
from confitlib.text import texts
from confitlib.training import PairCollator, PositivePairs, confit_v1_loss
from confitlib.util import check_range

HEADS, FEEDFORWARD, DROPOUT = 8, 768, 0.1  # of the interaction layer
WARMUP, WEIGHT_DECAY = 0.05, 0.01  # a share of the steps
REJECTIONS_A_BATCH = 8  # of each side
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
    suits frozen vectors better.
    """

    finetune: bool = False
    epochs: int = 10
    batch_size: int = 8
    learning_rate: float = 1e-3
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "epochs", "batch_size", least=1)
        check_range(self, "learning_rate", "temperature", above=0)
        check_range(self, "seed")


class FieldNetwork(nn.Module):
    """Every field of a document encoded by itself, an interaction layer over the fields, and a linear merge.

    Both sides share the layer, which keeps the likeness of their fields, and the merge starts as a mean (our choices).
    """

    def __init__(self, encoder: TextEncoder, fields: Mapping[Side, list[str]]) -> None:
        super().__init__()
        self.encoder = encoder
        self.interaction = nn.TransformerEncoderLayer(encoder.dim, HEADS, FEEDFORWARD, DROPOUT, batch_first=True)
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


@dataclass(eq=False, repr=False)
class ConFitV1(VectorRanker):
    """The published ConFit v1 (arXiv 2401.16349): field vectors, interaction, merge, un-normalised inner product.

    Its loss is `confit_v1_loss` with annotated rejections as hard negatives. `RejectedNegatives` keeps that recipe on
    the one-sequence encoder of v2; this one is the architecture that v2 simplifies. Hypothetical resumes are not read.
    `history`: one row an epoch with `epoch, loss, valid_loss`.
    """

    name = "ConFit v1, per field"

    encoder: str = "static"
    config: FieldConfig = FieldConfig()
    max_length: int | None = None
    trust_remote_code: bool = False

    def learn(self, corpus: Corpus) -> Self:
        """Train on accepted pairs and keep the epoch with the lowest validation loss (the last without such pairs)."""
        config, trust = self.config, self.trust_remote_code
        encoder = load_encoder(self.encoder, max_length=self.max_length, seed=config.seed, trust_remote_code=trust)
        if config.finetune and encoder.sparse_parameters:
            raise ValueError("the static encoder has sparse gradients: use finetune=False, or another encoder")
        if not config.finetune:
            encoder.requires_grad_(False)
        self.fields = {side: corpus.fields(side) for side in SIDES}
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.network = FieldNetwork(encoder, self.fields)
            # 1. accepted pairs with rejections of theirs, drawn anew each epoch; validation has in-batch negatives only
            rejected = {side: mine("rejected", corpus, target=side, seed=config.seed) for side in SIDES}
            pairs = PositivePairs(corpus, "train", rejected, seed=config.seed)
            collate = PairCollator(self._inputs(corpus), corpus, REJECTIONS_A_BATCH)
            batches = DataLoader(pairs, config.batch_size, shuffle=True, collate_fn=collate)
            # 2. the learning rate rises over the first steps, then falls to 0
            optimizer = torch.optim.AdamW(self.network.parameters(), config.learning_rate, weight_decay=WEIGHT_DECAY)
            steps = config.epochs * len(batches)
            schedule = get_linear_schedule_with_warmup(optimizer, int(WARMUP * steps), steps)

            def training(_: np.random.Generator) -> Iterator[dict[str, Any]]:
                """The batches of an epoch; asking for the next one moves the learning rate."""
                for batch in batches:
                    yield batch
                    schedule.step()  # the loop has made its step by now
                pairs.epoch += 1

            # 3. all epochs are run, and the best one is kept
            every = PairTraining(config.epochs, patience=config.epochs, seed=config.seed)
            valid = None if corpus.labelled("valid", 1).empty else PositivePairs(corpus, "valid")
            validation = None if valid is None else lambda _: DataLoader(valid, 32, collate_fn=collate)
            self.history = fit_network(self.network, every, self._loss, training, validation, self.name, optimizer)
        self.n_parameters = trained_weights(self.network)
        return self

    def _loss(self, batch: dict[str, Any]) -> Tensor:
        """The loss of ConFit v1 for a batch of `PairCollator`."""
        pairs = len(batch["masked_jobs"])  # positives come first, then rejections
        resumes, jobs = self.network("resume", batch["resumes"]), self.network("job", batch["jobs"])
        return confit_v1_loss(resumes[:pairs], jobs[:pairs], resumes[pairs:], jobs[pairs:], self.config.temperature)

    def _inputs(self, corpus: Corpus) -> dict[Side, FieldInputs]:
        """What the network reads of a corpus; raises ValueError for other fields than those of training."""
        for side, names in self.fields.items():
            if corpus.fields(side) != names:
                what = f"corpus {corpus.name!r} has {side} fields {corpus.fields(side)}, the ranker learnt from {names}"
                raise ValueError(f"{what}: give both corpora the same fields in the same order")
        return {side: FieldInputs(self.network.encoder, corpus, side, self.config.finetune) for side in SIDES}

    @torch.no_grad()
    def prepare(self, corpus: Corpus) -> None:
        """Vectors of every document."""
        vectors = []
        for side, inputs in self._inputs(corpus).items():
            rows = np.arange(len(corpus.documents(side)))
            blocks = np.array_split(rows, max(1, len(rows) // DOCUMENTS_AT_ONCE))
            parts = [self.network(side, inputs.features(block)).float().cpu() for block in blocks]
            vectors.append(torch.cat(parts).numpy())
        self.embeddings = Embeddings(*vectors)
