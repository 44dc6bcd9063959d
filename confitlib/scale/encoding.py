"""Encoding a corpus of Parquet files into files of vectors, one task a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from confitlib.corpus import Side
from confitlib.encoder import TextEncoder, load_encoder
from confitlib.scale.engine import Engine, LocalEngine
from confitlib.scale.shards import DocumentShards, VectorShards, write_vectors


@dataclass(frozen=True)
class EncodingTask:
    """One file to encode: everything its result depends on."""

    documents: Path
    side: Side
    encoder: str
    folder: Path


def encode_shards(
    documents: DocumentShards, encoder: str | Path, folder: str | Path, engine: Engine | None = None
) -> VectorShards:
    """Unit vectors of every document, a `.npy` file in `folder` for each Parquet file, in the same order.

    encoder: a name or folder that `load_encoder` takes. A file is named by what it was made of (texts, weights and
    precision), so a finished one is not made again, also after an interruption, and no stale one is used.
    """
    folder, name = Path(folder).resolve(), str(Path(encoder).resolve() if Path(encoder).is_dir() else encoder)
    tasks = [EncodingTask(path.resolve(), documents.side, name, folder) for path in documents.paths]
    return VectorShards(tuple((engine or LocalEngine()).map(encode_file, tasks, f"encoding {documents.side}s")))


def encode_file(task: EncodingTask) -> Path:
    """Encode one file unless it is done; returns where its vectors are."""
    encoder, key = _encoder(task.encoder)
    shard = DocumentShards((task.documents,), task.side)
    digest = hashlib.sha256(key.encode() + task.documents.read_bytes()).hexdigest()[:16]
    target = task.folder / f"{task.side}-{task.documents.stem}-{digest}.npy"
    if not target.is_file():
        batches = (encoder.encode(texts, progress=False) for texts in shard.texts(task.documents))
        write_vectors(target, (len(shard), encoder.dim), batches)
    return target


@lru_cache(maxsize=1)
def _encoder(name: str) -> tuple[TextEncoder, str]:
    """One encoder a process, loaded once, and what its vectors depend on."""
    encoder = load_encoder(name)
    return encoder, f"{encoder.weight_hash()}:{encoder.precision}"
