"""Dense zero-shot rankers beyond one shared encoder: two towers, and embeddings from an endpoint."""

from __future__ import annotations

from typing import Self

import numpy as np
from sklearn.preprocessing import normalize

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import Pooling, load_encoder
from confitlib.llm import Client
from confitlib.mining import Embeddings
from confitlib.rankers.dense import RawEmbed
from confitlib.text import texts


class TwoTowers(RawEmbed):
    """An encoder, a prefix or both for each side, as E5 and DPR tell queries from passages; nothing is trained.

    `encoder` and `prefix` read resumes, the passages; `job_encoder` and `job_prefix` read jobs, which ask. `pooling`,
    and a prefix that is None, are each model's own. By default E5 with its two prefixes (ConFit puts "query: " on both
    sides: `RawEmbed`). DPR has two encoders, pools by "cls" and compares inner products; here vectors have unit length,
    as everywhere in the kit (our choice). Sources: Wang et al. 2022 (arXiv 2212.03533); Karpukhin et al. 2020.
    """

    name = "two towers"

    def __init__(
        self,
        encoder: str = "intfloat/e5-base-v2",
        job_encoder: str = "intfloat/e5-base-v2",
        prefix: str | None = "passage: ",
        job_prefix: str | None = "query: ",
        pooling: Pooling | None = None,
        max_length: int | None = None,
        hyre: bool = True,
        cache: str | None = None,
    ) -> None:
        super().__init__(encoder, max_length, hyre, cache)
        self.job_encoder, self.prefix, self.job_prefix, self.pooling = job_encoder, prefix, job_prefix, pooling

    def index(self, corpus: Corpus) -> Self:
        """Embed every document with the encoder of its side; raises ValueError for towers of different widths."""
        self.corpus = corpus
        vectors = {
            "resume": self._tower(self.encoder, self.prefix, corpus, "resume"),
            "job": self._tower(self.job_encoder, self.job_prefix, corpus, "job"),
        }
        widths = [vectors[side].shape[1] for side in SIDES]
        if widths[0] != widths[1]:
            towers = f"{self.encoder!r} and {self.job_encoder!r}"
            raise ValueError(f"{towers} give vectors of {widths} dimensions: choose encoders of one family")
        self.embeddings = Embeddings(vectors["resume"], vectors["job"])
        return self

    def _tower(self, name: str, prefix: str | None, corpus: Corpus, side: Side) -> np.ndarray:
        encoder = load_encoder(name, pooling=self.pooling, prefix=prefix, max_length=self.max_length)
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
