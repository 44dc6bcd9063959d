"""Rankers that compare embeddings: an encoder as it is, and ConFit v1 and v2 trained on the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import HYPOTHETICAL, SIDES, Corpus, Side
from confitlib.encoder import TextEncoder, load_encoder
from confitlib.mining import Embeddings, Negatives, check_mining, mine
from confitlib.rankers.base import VectorRanker, trained_weights
from confitlib.training import Refresh, TrainingConfig, TrainingResult, train, train_once

HyRe = bool | Literal["average"]
Vectors = NDArray[np.float32]


class RawEmbed(VectorRanker):
    """Cosine of the embeddings of an encoder that has not seen the corpus.

    `encoder`: "static", "minilm", a hub name or a local folder; `max_length`: tokens read of a document, or
    None for the encoder's own. `hyre`: append hypothetical texts (HyRe to jobs, HyJob to resumes) where the corpus
    has them; "average": embed them by themselves and average both vectors. `cache`: folder for embeddings
    and for encoders trained without mined negatives, which all mining starts from. `trust_remote_code`: run the code
    that a hub model brings along, which Jina v2 needs.
    """

    name = "RawEmbed"

    def __init__(
        self,
        encoder: str = "minilm",
        max_length: int | None = None,
        hyre: HyRe = True,
        cache: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.encoder, self.max_length, self.hyre, self.cache = encoder, max_length, hyre, cache
        self.trust_remote_code = trust_remote_code

    def index(self, corpus: Corpus) -> Self:
        """Embed every document of the corpus."""
        self.corpus = corpus
        self.embeddings = self._embed(self._model(), corpus)
        return self

    def _embed(self, model: TextEncoder, corpus: Corpus) -> Embeddings:
        cache = self._cache(model)
        plain = Embeddings.of_corpus(model, corpus, hyre=self.hyre is True, cache=cache)
        if self.hyre != "average":
            return plain
        hypotheses = {side: _hypotheses(model, corpus, side, cache) for side in SIDES}
        return Embeddings(*(averaged(plain.of(side), *hypotheses[side]) for side in SIDES))

    def _cache(self, model: TextEncoder) -> Path | None:
        slow = not model.sparse_parameters  # a mean of token vectors is computed faster than it is read
        return Path(self.cache) / "embeddings" if self.cache and slow else None

    def _model(self) -> TextEncoder:
        return self._load()

    def _load(self, seed: int = 0) -> TextEncoder:
        """The encoder as it is before any training."""
        trust = self.trust_remote_code
        return load_encoder(self.encoder, max_length=self.max_length, seed=seed, trust_remote_code=trust)


def _hypotheses(model: TextEncoder, corpus: Corpus, side: Side, cache: Path | None) -> tuple[NDArray[np.intp], Vectors]:
    """Rows of the documents of a side that carry a hypothetical text, and the unit vectors of these texts."""
    frame = corpus.documents(side)
    carried = frame.get(HYPOTHETICAL[side], pd.Series("", index=frame.index)).fillna("").astype(str)
    rows = np.flatnonzero(carried != "")
    return rows, model.encode(carried.iloc[rows].tolist(), progress=False, cache=cache)


def averaged(vectors: Vectors, rows: NDArray[np.intp], more: Vectors) -> Vectors:
    """Unit vectors of the mean of each row and of all that `more` holds for it (`rows[i]` for `more[i]`)."""
    sums = vectors.copy()
    np.add.at(sums, rows, more)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float32).tiny)


class InBatch(RawEmbed):
    """The dual encoder trained with in-batch negatives only: ConFit v2 before runner-up mining.

    With `hyre="average"` training and mining read plain documents; hypothetical texts join when documents are indexed.
    `saved_seconds`: what `learn` would have taken in addition without its cache.
    """

    name = "in-batch"

    def __init__(
        self,
        encoder: str = "static",
        config: TrainingConfig = TrainingConfig(),
        max_length: int | None = None,
        hyre: HyRe = True,
        cache: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(encoder, max_length, hyre, cache, trust_remote_code)
        self.config = config

    def learn(self, corpus: Corpus) -> Self:
        """Train the encoder on the accepted training pairs, with this ranker's hard negatives."""
        corpus = corpus if self.hyre is True else corpus.without_hypothetical()
        self.saved_seconds = 0.0
        self.negatives = self._negatives(corpus)
        self.result = self._train(corpus, self.negatives)
        return self

    @property
    def history(self) -> pd.DataFrame:
        """The training log, one row a logged step."""
        return self.result.history

    @property
    def n_parameters(self) -> int:
        """The weights of the encoder or adapter that are trained."""
        return trained_weights(self.result.encoder)

    def _negatives(self, corpus: Corpus) -> dict[Side, Negatives]:
        return {}

    def _train(self, corpus: Corpus, negatives: Mapping[Side, Negatives] | None = None) -> TrainingResult:
        encoder, trust = self._load(self.config.seed), self.trust_remote_code
        if self.cache and not negatives:
            ask: dict[str, Any] = {"cache": self.cache, "trust_remote_code": trust, "progress": False}
            result = train_once(encoder, corpus, self.config, **ask)
            self.saved_seconds += result.seconds if result.reused else 0.0
            return result
        embeddings = Path(self.cache) / "embeddings" if self.cache else None
        refresh = self._refresh() if negatives else None
        return train(encoder, corpus, self.config, negatives, refresh=refresh, cache=embeddings, progress=False)

    def _refresh(self) -> Refresh | None:
        return None

    def _model(self) -> TextEncoder:
        return self.result.encoder

    def _save_learnt(self, folder: Path) -> None:
        self.result.save(folder / "encoder")

    def _load_learnt(self, folder: Path) -> None:
        self.result = TrainingResult.load(folder / "encoder", self.trust_remote_code)


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
    and `hi` of a band; `refresh`: mine again every so many epochs of the second stage (ANCE), 0 for never.
    Source of the two stages: ConFit v2, README and hard_negative_mining.py.
    """

    name = "mined"

    def __init__(
        self,
        strategy: str = "band",
        parameters: Mapping[str, Any] | None = None,
        encoder: str = "static",
        config: TrainingConfig = TrainingConfig(),
        max_length: int | None = None,
        hyre: HyRe = True,
        cache: str | None = None,
        refresh: int = 0,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(encoder, config, max_length, hyre, cache, trust_remote_code)
        self.strategy, self.parameters, self.refresh = strategy, parameters, refresh

    def learn(self, corpus: Corpus) -> Self:
        """Both stages; what mining would refuse is refused before the first."""
        check_mining(**self._mining())
        return super().learn(corpus)

    def _negatives(self, corpus: Corpus) -> dict[Side, Negatives]:
        embeddings = self._embed(self._train(corpus).encoder, corpus)
        ask: dict[str, Any] = {"embeddings": embeddings, "seed": self.config.seed, **self._mining()}
        return {side: mine(corpus=corpus, target=side, **ask) for side in SIDES}

    def _mining(self) -> dict[str, Any]:
        return {"strategy": self.strategy, **(self.parameters or {})}

    def _refresh(self) -> Refresh | None:
        return Refresh(self.strategy, self.parameters or {}, self.refresh) if self.refresh else None


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
        hyre: HyRe = True,
        cache: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        InBatch.__init__(self, encoder, config, max_length, hyre, cache, trust_remote_code)
        self.band, self.refresh = band, 0

    def _mining(self) -> dict[str, Any]:
        return {"strategy": "band", "lo": self.band[0], "hi": self.band[1]}
