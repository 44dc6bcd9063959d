"""Rankers that compare embeddings: an encoder as it is, and ConFit v1 and v2 trained on the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import TextEncoder, load_encoder
from confitlib.mining import Embeddings, Negatives, mine
from confitlib.rankers.base import Ranker, Scores
from confitlib.training import TrainingConfig, TrainingResult, train, train_once


class RawEmbed(Ranker):
    """Cosine of the embeddings of an encoder that has not seen the corpus.

    `encoder`: "static", "minilm", a hub name or a local folder; `max_length`: tokens read of a document, or
    None for the encoder's own. `hyre`: append hypothetical resumes to jobs. `cache`: folder for embeddings and
    for encoders trained without mined negatives, which all mining starts from.
    """

    name = "RawEmbed"

    def __init__(
        self, encoder: str = "minilm", max_length: int | None = None, hyre: bool = True, cache: str | None = None
    ) -> None:
        self.encoder, self.max_length, self.hyre, self.cache = encoder, max_length, hyre, cache

    def index(self, corpus: Corpus) -> Self:
        """Embed every document of the corpus."""
        self.corpus = corpus
        self.embeddings = self._embed(self._model(), corpus)
        return self

    @property
    def n_parameters(self) -> int:
        """The weights of the encoder."""
        return sum(weight.numel() for weight in self._model().parameters())

    def _embed(self, model: TextEncoder, corpus: Corpus) -> Embeddings:
        slow = not model.sparse_parameters  # a mean of token vectors is computed faster than it is read
        cache = Path(self.cache) / "embeddings" if self.cache and slow else None
        return Embeddings.of_corpus(model, corpus, hyre=self.hyre, cache=cache)

    def _model(self) -> TextEncoder:
        return load_encoder(self.encoder, max_length=self.max_length)

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Cosine of every pair."""
        resumes = self.embeddings.resumes[self.corpus.positions("resume", resume_ids)]
        jobs = self.embeddings.jobs[self.corpus.positions("job", job_ids)]
        return np.asarray(resumes @ jobs.T, dtype=np.float32)

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """Cosine of the given pairs."""
        resumes = self.embeddings.resumes[self.corpus.positions("resume", resume_ids)]
        jobs = self.embeddings.jobs[self.corpus.positions("job", job_ids)]
        return np.einsum("nd,nd->n", resumes, jobs)


class InBatch(RawEmbed):
    """The dual encoder trained with in-batch negatives only: ConFit v2 before runner-up mining."""

    name = "in-batch"

    def __init__(
        self,
        encoder: str = "static",
        config: TrainingConfig = TrainingConfig(),
        max_length: int | None = None,
        hyre: bool = True,
        cache: str | None = None,
    ) -> None:
        super().__init__(encoder, max_length, hyre, cache)
        self.config = config

    def learn(self, corpus: Corpus) -> Self:
        """Train the encoder on the accepted training pairs, with this ranker's hard negatives."""
        corpus = corpus if self.hyre else corpus.with_hypothetical_resumes({})
        self.negatives = self._negatives(corpus)
        self.result = self._train(corpus, self.negatives)
        return self

    @property
    def history(self) -> pd.DataFrame:
        """The training log, one row a logged step."""
        return self.result.history

    def _negatives(self, corpus: Corpus) -> dict[Side, Negatives]:
        return {}

    def _train(self, corpus: Corpus, negatives: Mapping[Side, Negatives] | None = None) -> TrainingResult:
        cache, limit = Path(self.cache) if self.cache else None, self.max_length
        if cache and not negatives:
            return train_once(self.encoder, corpus, self.config, cache=cache, max_length=limit, progress=False)
        encoder = load_encoder(self.encoder, max_length=limit, seed=self.config.seed)
        embeddings = cache and cache / "embeddings"
        return train(encoder, corpus, self.config, negatives, cache=embeddings, progress=False)

    def _model(self) -> TextEncoder:
        return self.result.encoder

    def _parameters(self) -> dict[str, Any]:
        return {**super()._parameters(), "config": asdict(self.config)}

    def _save_learnt(self, folder: Path) -> None:
        self.result.save(folder / "encoder")

    def _load_learnt(self, folder: Path) -> None:
        self.result = TrainingResult.load(folder / "encoder")
        self.config = self.result.config


class ConFitV1(InBatch):
    """Training with annotated rejections as hard negatives, on the simplified one-sequence encoder.

    The recipe of ConFit v1 (arXiv 2401.16349) without its per-field layers, so that the comparison with
    ConFit v2 isolates the choice of hard negatives.
    """

    name = "ConFit v1"

    def _negatives(self, corpus: Corpus) -> dict[Side, Negatives]:
        return {side: mine("rejected", corpus, target=side, seed=self.config.seed) for side in SIDES}


class Mined(InBatch):
    """Two stages: in-batch training, mining with its encoder by any strategy, training afresh with both.

    `strategy`: one of `confitlib.mining.STRATEGIES`; `parameters`: what `mine` takes for it, such as `n`, or `lo`
    and `hi` of a band. Source of the two stages: ConFit v2, README and hard_negative_mining.py.
    """

    name = "mined"

    def __init__(
        self,
        strategy: str = "band",
        parameters: Mapping[str, Any] | None = None,
        encoder: str = "static",
        config: TrainingConfig = TrainingConfig(),
        max_length: int | None = None,
        hyre: bool = True,
        cache: str | None = None,
    ) -> None:
        super().__init__(encoder, config, max_length, hyre, cache)
        self.strategy, self.parameters = strategy, parameters

    def _negatives(self, corpus: Corpus) -> dict[Side, Negatives]:
        embeddings = self._embed(self._train(corpus).encoder, corpus)
        ask: dict[str, Any] = {"embeddings": embeddings, "seed": self.config.seed, **self._mining()}
        return {side: mine(corpus=corpus, target=side, **ask) for side in SIDES}

    def _mining(self) -> dict[str, Any]:
        return {"strategy": self.strategy, **(self.parameters or {})}


class ConFitV2(Mined):
    """The two stages of ConFit v2: in-batch training, runner-up mining with its encoder, training with both.

    `band`: percentiles `[lo, hi)` of the negatives (paper: 3-4 %). HyRe texts are used when the corpus
    has them and `hyre` is true. Source: arXiv 2502.12361; hard_negative_mining.py.
    """

    name = "ConFit v2"

    def __init__(
        self,
        encoder: str = "static",
        config: TrainingConfig = TrainingConfig(),
        band: tuple[float, float] = (0.03, 0.04),
        max_length: int | None = None,
        hyre: bool = True,
        cache: str | None = None,
    ) -> None:
        InBatch.__init__(self, encoder, config, max_length, hyre, cache)
        self.band = band

    def _mining(self) -> dict[str, Any]:
        return {"strategy": "band", "lo": self.band[0], "hi": self.band[1]}

    def _load_learnt(self, folder: Path) -> None:
        super()._load_learnt(folder)
        self.band = (self.band[0], self.band[1])  # JSON made it a list
