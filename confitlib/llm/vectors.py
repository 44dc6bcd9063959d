"""Vectors of an embeddings endpoint, as it sends them and as a store keeps them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confitlib.llm.replies import MalformedReply


def read_vectors(content: Mapping[str, Any], n: int) -> NDArray[np.float32]:
    """The vectors of an embeddings response in the order of its inputs, [n, d]; raises MalformedReply."""
    try:
        rows = sorted(content["data"], key=lambda row: row["index"])
        vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedReply("malformed reply: no embeddings") from error
    if vectors.ndim != 2 or len(vectors) != n or not np.isfinite(vectors).all():
        raise MalformedReply(f"malformed reply: embeddings of shape {list(vectors.shape)} for {n} texts")
    return vectors


def encode_vector(vector: NDArray[np.float32]) -> str:
    """A vector as base64 of little-endian float32: exact, and a third of its size in decimals."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def decode_vector(text: str) -> NDArray[np.float32]:
    """The vector that `encode_vector` wrote."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)
