"""Vectors of the documents of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.mining.ranking import FloatArray
from confitlib.text import texts

if TYPE_CHECKING:
    from confitlib.encoder import TextEncoder


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of all documents, `[n, dim]` float32 in the order of `corpus.resumes` and `corpus.jobs`.

    Scores are inner products, so rows of length one give the cosine.
    """

    resumes: FloatArray
    jobs: FloatArray

    @classmethod
    def of_corpus(
        cls,
        encoder: TextEncoder,
        corpus: Corpus,
        *,
        hyre: bool = True,
        cache: Path | None = None,
        progress: bool = False,
    ) -> Embeddings:
        """Unit vectors of every document; `hyre` appends hypothetical resumes to jobs, `cache` is a folder."""
        documents = {side: list(texts(corpus, side, hyre=hyre)) for side in SIDES}
        return cls(*(encoder.encode(documents[side], progress=progress, cache=cache) for side in SIDES))

    def of(self, side: Side) -> FloatArray:
        """The vectors of one side."""
        return self.resumes if side == "resume" else self.jobs

    def check(self, corpus: Corpus) -> None:
        """Raise ValueError if shapes do not fit the corpus or a row is not finite, naming side, row and id."""
        for side in SIDES:
            vectors, ids = self.of(side), corpus.documents(side).index
            if vectors.ndim != 2 or len(vectors) != len(ids):
                expected = f"[{len(ids)}, dim], one row for each {side} of corpus {corpus.name!r}"
                raise ValueError(f"{side} embeddings have shape {list(vectors.shape)}, expected {expected}")
            # finite squared lengths bound every inner product, so no score can be NaN either
            rows = vectors.astype(np.float32, copy=False)
            bad = np.flatnonzero(~np.isfinite(np.einsum("ij,ij->i", rows, rows)))
            if len(bad):
                what = f"{len(bad)} rows with NaN, infinite or overflowing values, first row {bad[0]} ({ids[bad[0]]!r})"
                raise ValueError(f"{side} embeddings hold {what}. Encode these documents again.")
        if self.resumes.shape[1] != self.jobs.shape[1]:
            dims = f"{self.resumes.shape[1]} and {self.jobs.shape[1]}"
            raise ValueError(f"resume and job embeddings have {dims} dimensions; use one encoder for both sides")
