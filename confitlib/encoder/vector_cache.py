"""A folder of embeddings, one file a key, that never returns vectors of other weights, texts or settings."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from confitlib.util import atomic

Vectors = NDArray[np.float32]
logger = logging.getLogger(__name__)


class CacheError(ValueError):
    """A cache file that does not hold what its name promises."""


def key_of(weight_hash: str, precision: str, texts: Sequence[str]) -> str:
    """The sha256 of everything the vectors depend on: weights with settings, precision, texts and their order."""
    digest = hashlib.sha256(f"{weight_hash}:{precision}".encode())
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def load_or_compute(folder: Path, key: str, shape: tuple[int, int], compute: Callable[[], Vectors]) -> Vectors:
    """Vectors from `folder/<key>.safetensors`, else computed and stored; a damaged file warns and is replaced."""
    path = Path(folder) / f"{key}.safetensors"
    if path.exists():
        try:
            return read(path, key, shape)
        except (CacheError, SafetensorError, OSError) as error:
            logger.warning("embedding cache %s is unusable (%s); computing it anew", path, error)
    vectors = compute()
    write(path, key, vectors)
    return vectors


def read(path: Path, key: str, shape: tuple[int, int]) -> Vectors:
    """The vectors of a cache file; raises CacheError if key, shape or checksum differ from what they should be."""
    with safe_open(path, framework="numpy") as file:
        header = file.metadata() or {}
        if header.get("key") != key or "vectors" not in file.keys():  # noqa: SIM118 - not a dict
            raise CacheError("written for another key or by another program")
        vectors = file.get_tensor("vectors")
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise CacheError(f"holds {vectors.dtype}{list(vectors.shape)} instead of float32{list(shape)}")
    if header.get("checksum") != checksum(vectors):
        raise CacheError("checksum differs")
    return vectors


def write(path: Path, key: str, vectors: Vectors) -> None:
    """Store vectors under a temporary name, then rename: a reader sees a whole file or none."""
    with atomic(path) as partial:
        save_file({"vectors": vectors}, partial, metadata={"key": key, "checksum": checksum(vectors)})


def checksum(vectors: Vectors) -> str:
    """The digest that tells whether the numbers are the ones that were stored."""
    return hashlib.blake2b(np.ascontiguousarray(vectors).reshape(-1).view(np.uint8).data, digest_size=16).hexdigest()
