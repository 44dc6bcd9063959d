"""Documents and vectors in many files, read a block at a time: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from confitlib.corpus import RESERVED, Side, blank_documents
from confitlib.mining.ranking import FloatArray, IntArray
from confitlib.readers._tables import as_text
from confitlib.text import serialise
from confitlib.util import atomic

ROWS_A_BATCH = 4096


@dataclass(frozen=True)
class DocumentShards:
    """One side of a corpus as Parquet files with a column `resume_id` or `job_id` and text fields.

    Rows count through the files in the order of their names. What reads a file raises ValueError naming it, and the
    row, where it holds something else.
    """

    paths: tuple[Path, ...]
    side: Side

    @classmethod
    def of_folder(cls, folder: str | Path, side: Side) -> DocumentShards:
        """The files of `folder/resumes` or `folder/jobs`; raises FileNotFoundError if there are none."""
        paths = tuple(sorted((Path(folder).resolve() / f"{side}s").glob("*.parquet")))
        if not paths:
            raise FileNotFoundError(
                f"{folder} holds no {side}s/*.parquet: write them, or compose a market with "
                f"`python -m confitlib.market laptop --parquet {folder}`"
            )
        return cls(paths, side)

    @cached_property
    def sizes(self) -> list[int]:
        """Documents of each file, from its footer."""
        return [_reading(pq.read_metadata, path).num_rows for path in self.paths]

    def __len__(self) -> int:
        return sum(self.sizes)

    def ids(self, path: Path) -> NDArray[np.object_]:
        """The ids of one file, in row order: text, each once."""
        self.fields(path)
        column = _reading(pq.read_table, path, columns=[f"{self.side}_id"]).column(0)
        ids = pd.Index(column.to_pylist(), dtype=object)
        blank = np.array([not isinstance(name, str) or not name.strip() for name in ids], dtype=bool)
        self._refuse(path, blank, "without an id of text. Give every document one")
        self._refuse(path, np.asarray(ids.duplicated()), "whose id stands in an earlier row. Keep one row per id")
        return np.asarray(ids, dtype=object)

    def fields(self, path: Path) -> list[str]:
        """The text fields of one file."""
        names, key = _reading(pq.read_schema, path).names, f"{self.side}_id"
        if key not in names:
            raise ValueError(f"{path} has no column {key!r} (there are: {', '.join(names)}): name the ids so")
        fields = [name for name in names if name not in (*RESERVED, key)]
        if not fields:
            raise ValueError(f"{path} has no text field besides its id")
        return fields

    def texts(self, path: Path, rows: int = ROWS_A_BATCH) -> Iterator[list[str]]:
        """The texts of one file in batches of at most `rows`, serialised as `confitlib.text.texts` does."""
        fields, first = self.fields(path), 0
        with _reading(pq.ParquetFile, path) as file:
            for batch in file.iter_batches(rows, columns=fields):
                frame: pd.DataFrame = pa.Table.from_batches([batch]).to_pandas().map(as_text)
                self._refuse(path, blank_documents(frame, fields), "without text. Supply it or drop the row", first)
                first += len(frame)
                yield serialise(frame[fields], self.side).tolist()

    def _refuse(self, path: Path, rows: NDArray[np.bool_], what: str, first: int = 0) -> None:
        if rows.any():
            raise ValueError(f"{path}, row {first + int(rows.argmax()) + 1}: {self.side} {what}.")


def _reading(read: Callable[..., Any], path: Path, **options: Any) -> Any:
    """What a function of pyarrow reads from a file; its errors name none."""
    try:
        return read(path, **options)
    except pa.ArrowException as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}). Write it again.") from error


@dataclass(frozen=True)
class VectorShards:
    """Float32 vectors as `.npy` files `[n, dim]`; a file is mapped only while one of its blocks is copied out."""

    paths: tuple[Path, ...]

    @cached_property
    def sizes(self) -> list[int]:
        """Vectors of each file, from its header."""
        shapes = [np.load(path, mmap_mode="r").shape for path in self.paths]
        if len({shape[1:] for shape in shapes}) > 1 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"the files beside {self.paths[0]} have shapes {sorted(set(shapes))}: one encoder, please")
        return [shape[0] for shape in shapes]

    @cached_property
    def dim(self) -> int:
        """Length of a vector."""
        return int(np.load(self.paths[0], mmap_mode="r").shape[1])

    def __len__(self) -> int:
        return sum(self.sizes)

    def blocks(self, rows: int = ROWS_A_BATCH) -> Iterator[tuple[int, FloatArray]]:
        """Every vector once, in blocks of at most `rows` of one file, each with the position of its first row."""
        first = 0
        for path, size in zip(self.paths, self.sizes, strict=True):
            for start in range(0, size, rows):
                yield first + start, _read(path, slice(start, start + rows))
            first += size

    def take(self, positions: IntArray) -> FloatArray:
        """The vectors at rising positions, `[len(positions), dim]`."""
        stops = np.cumsum([0, *self.sizes])
        bounds = np.searchsorted(positions, stops)
        parts = [
            _read(path, positions[first:last] - start)
            for path, start, first, last in zip(self.paths, stops, bounds, bounds[1:], strict=False)
            if first < last
        ]
        return np.concatenate([np.zeros((0, self.dim), dtype=np.float32), *parts])

    def sample(self, n: int) -> FloatArray:
        """At most `n` vectors, evenly spaced over all positions."""
        return self.take(np.unique(np.linspace(0, len(self) - 1, min(n, len(self))).astype(np.intp)))


def _read(path: Path, rows: slice | IntArray) -> FloatArray:
    """A copy of some rows: the mapping, whose pages count as this process's memory, ends here."""
    return np.array(np.load(path, mmap_mode="r")[rows], dtype=np.float32)


def write_vectors(path: Path, shape: tuple[int, int], batches: Iterator[FloatArray]) -> Path:
    """Write a `.npy` file batch by batch; it is whole or not there.

    Raises ValueError, and leaves no file, if the batches do not fill the shape.
    """
    with atomic(path) as partial:
        vectors, written = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape), 0
        for batch in batches:
            vectors[written : written + len(batch)] = batch
            written += len(batch)
        vectors.flush()
        if written != shape[0]:
            raise ValueError(f"{path.name} expects {shape[0]} vectors, got {written}")
    return path


def split_vectors(vectors: FloatArray, folder: Path, shards: int) -> VectorShards:
    """Write vectors `[n, dim]` into `shards` files of about equal size (fewer if there are fewer rows)."""
    parts = [part for part in np.array_split(vectors, max(1, shards)) if len(part)]
    shape = (vectors.shape[1],)
    return VectorShards(
        tuple(write_vectors(folder / f"{i:05d}.npy", (len(part), *shape), iter([part])) for i, part in enumerate(parts))
    )


def known_positives(folder: str | Path, resumes: DocumentShards, jobs: DocumentShards) -> csr_array:
    """Accepted pairs of a composed market, booleans `[n_resumes, n_jobs]`, whose labels stay inside a shard."""
    if len(resumes.paths) != len(jobs.paths):
        counts = f"{len(resumes.paths)} files of resumes and {len(jobs.paths)} of jobs"
        raise ValueError(f"{folder} holds {counts}: a shard has one of each, so compose what is missing")
    rows, columns, first = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)], np.zeros(2, np.intp)
    for resume_path, job_path in zip(resumes.paths, jobs.paths, strict=True):
        labels = pd.read_parquet(Path(folder) / "labels" / resume_path.name)
        accepted = labels[labels["label"] == 1]
        people, posts = pd.Index(resumes.ids(resume_path)), pd.Index(jobs.ids(job_path))
        rows.append(first[0] + _positions(people, accepted["resume_id"]))
        columns.append(first[1] + _positions(posts, accepted["job_id"]))
        first += len(people), len(posts)
    pairs = np.concatenate(rows), np.concatenate(columns)
    return csr_array((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(len(resumes), len(jobs)))


def _positions(ids: pd.Index, wanted: Sequence[str] | pd.Series) -> IntArray:
    found = ids.get_indexer(pd.Index(wanted))
    if (found < 0).any():
        raise KeyError(f"label names {pd.Index(wanted)[found < 0][0]!r}, which is not in the shard of its labels")
    return found
