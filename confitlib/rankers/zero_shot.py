"""Dense zero-shot rankers beyond one shared encoder: two towers, and embeddings from an endpoint."""

from __future__ import annotations

from typing import Self

import numpy as np
from sklearn.preprocessing import normalize

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import Pooling, TextEncoder, load_encoder
from confitlib.llm import Client
from confitlib.mining import Embeddings
from confitlib.rankers.dense import RawEmbed
from confitlib.text import texts


class TwoTowers(RawEmbed):
    """One encoder a side, as DPR has one for questions and one for passages; nothing is trained.

    `encoder` reads resumes and `job_encoder` jobs, both pooled by `pooling` (DPR: "cls"; None: each model's own). DPR
    compares inner products; here vectors have unit length, as everywhere in the kit (our choice).
    Source: Karpukhin et al. 2020.
    """

    name = "two towers"

    def __init__(
        self,
        encoder: str = "facebook/dpr-ctx_encoder-single-nq-base",
        job_encoder: str = "facebook/dpr-question_encoder-single-nq-base",
        pooling: Pooling | None = "cls",
        max_length: int | None = None,
        hyre: bool = True,
        cache: str | None = None,
    ) -> None:
        super().__init__(encoder, max_length, hyre, cache)
        self.job_encoder, self.pooling = job_encoder, pooling

    def index(self, corpus: Corpus) -> Self:
        """Embed every document with the encoder of its side; raises ValueError for towers of different widths."""
        self.corpus = corpus
        towers: dict[Side, str] = {"resume": self.encoder, "job": self.job_encoder}
        vectors = {side: self._tower(towers[side], corpus, side) for side in SIDES}
        widths = {side: vectors[side].shape[1] for side in SIDES}
        if widths["resume"] != widths["job"]:
            raise ValueError(f"{towers} give vectors of {widths} dimensions: choose encoders of one family")
        self.embeddings = Embeddings(vectors["resume"], vectors["job"])
        return self

    def _tower(self, name: str, corpus: Corpus, side: Side) -> np.ndarray:
        encoder: TextEncoder = load_encoder(name, pooling=self.pooling, max_length=self.max_length)
        documents = texts(corpus, side, hyre=bool(self.hyre)).tolist()
        return encoder.encode(documents, progress=False, cache=self._cache(encoder))


class OpenAIEmbed(RawEmbed):
    """Cosine of embeddings by an OpenAI model, recorded in a store and replayed from it.

    `store`: the file of recorded vectors; what it lacks is asked of the endpoint in the environment (`Client`).
    Indexing raises LookupError if some are missing and there is no endpoint.
    """

    name = "OpenAI embeddings"

    def __init__(
        self, model: str = "text-embedding-3-large", store: str = "embeddings.jsonl", hyre: bool = True
    ) -> None:
        self.model, self.store, self.hyre = model, store, hyre

    def index(self, corpus: Corpus) -> Self:
        """Embed every document of the corpus."""
        self.corpus, client = corpus, Client(self.store)
        documents = {side: texts(corpus, side, hyre=bool(self.hyre)).tolist() for side in SIDES}
        vectors = (normalize(client.embed(documents[side], model=self.model, progress=True)) for side in SIDES)
        self.embeddings = Embeddings(*vectors)
        return self
