"""The vectors of a corpus, and a folder that keeps vectors by what they were computed from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.text import texts
from confitlib.util import atomic, checked, content_key

if TYPE_CHECKING:
    from confitlib.encoder.model import TextEncoder

Vectors = NDArray[np.float32]
Activations = NDArray[np.float16]
logger = logging.getLogger(__name__)


@checked
@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of all documents, `[n, dim]` float32 in the order of `corpus.resumes` and `corpus.jobs`.

    Scores are inner products, so rows of length one give the cosine.

    >>> from confitlib import Embeddings, compose, load_encoder
    >>> embeddings = Embeddings.of_corpus(load_encoder("static"), compose("tiny").corpus)
    >>> embeddings.resumes.shape, embeddings.jobs.shape
    ((440, 384), (200, 384))
    """

    resumes: Vectors
    jobs: Vectors

    @classmethod
    def of_corpus(
        cls, encoder: TextEncoder, corpus: Corpus, hyre: bool = True, cache: Path | None = None, progress: bool = False
    ) -> Embeddings:
        """Unit vectors of every document; `hyre` appends hypothetical resumes to jobs, `cache` is a folder."""
        documents = {side: list(texts(corpus, side, hyre=hyre)) for side in SIDES}
        return cls(*(encoder.encode(documents[side], progress=progress, cache=cache) for side in SIDES))

    def of(self, side: Side) -> Vectors:
        """The vectors of one side."""
        return self.resumes if side == "resume" else self.jobs

    def check(self, corpus: Corpus) -> None:
        """Raise ValueError if shapes do not fit the corpus or a row is not finite, naming side, row and id."""
        for side in SIDES:
            vectors, ids = self.of(side), corpus.documents(side).index
            if vectors.dtype.kind not in "fiu" or isinstance(vectors, np.ma.MaskedArray):
                kind = f"{type(vectors).__name__} of {vectors.dtype}"
                raise ValueError(f"{side} embeddings are a {kind}: give a plain array of real numbers")
            if vectors.ndim != 2 or len(vectors) != len(ids) or not vectors.shape[1]:
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


def cached_vectors(
    folder: str | Path, depends: str, texts: Sequence[str], dim: int, compute: Callable[[], Vectors]
) -> Vectors:
    """Vectors `[len(texts), dim]` from a file of `folder` if one was made of the same, else computed and stored.

    `depends` names all that decides the vectors besides the texts and their order: weights, settings and precision.
    A damaged file is reported and replaced. A file appears whole or not at all.
    """
    path = Path(folder) / f"{content_key(depends=depends, texts=list(texts))}.safetensors"
    # 1. the file, if it is there and whole
    if path.exists():
        try:
            with safe_open(path, framework="numpy") as file:
                header, vectors = file.metadata() or {}, file.get_tensor("vectors")
            if header != _header(path.stem, vectors) or vectors.shape != (len(texts), dim):
                raise ValueError("key, checksum or shape differ")
            return vectors
        except (SafetensorError, ValueError, OSError) as error:
            logger.warning("embedding cache %s is unusable (%s); computing it anew", path, error)
    # 2. else the vectors are computed and kept
    vectors = compute()
    with atomic(path) as partial:
        save_file({"vectors": vectors}, partial, metadata=_header(path.stem, vectors))
    return vectors


def _header(key: str, vectors: Vectors) -> dict[str, str]:
    """What a cache file says about itself: its key, and a digest of the numbers."""
    numbers = np.ascontiguousarray(vectors).reshape(-1).view(np.uint8).data
    return {"key": key, "checksum": hashlib.blake2b(numbers, digest_size=16).hexdigest()}
