"""A FAISS index over document vectors: built, measured against exact search, saved, loaded, searched by text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import faiss
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from confitlib import readers
from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import load_encoder
from confitlib.market import PRESETS, compose
from confitlib.mining.ranking import FloatArray
from confitlib.scale.encoding import encode_shards
from confitlib.scale.engine import Engine
from confitlib.scale.shards import DocumentShards, VectorShards, split_vectors
from confitlib.text import TEXT, serialise, texts
from confitlib.util import atomic

IndexKind = Literal["flat", "ivf", "hnsw"]

LINKS = 32  # neighbours of a vector in the HNSW graph
BUILD_EFFORT = 80  # candidates while the graph is built
TRAINING = 64  # vectors a cell that place the cells of IVF
ABOUT, VECTORS, DOCUMENTS = "index.json", "index.faiss", "documents.parquet"
AGAIN = "make it again by `confit index`"
TITLE = 80  # characters that stand for a document


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """Vectors of one side that can be searched by inner product, with what to show of their documents.

    kind: "flat" compares with every vector and is exact; "ivf" looks into the nearest cells only; "hnsw" walks a
    graph of neighbours. encoder, weights: the encoder's name or folder, and the hash of its weights. documents: `id`
    and `title` in vector order.
    """

    kind: IndexKind
    side: Side
    encoder: str
    weights: str
    documents: pd.DataFrame
    index: Any

    def __len__(self) -> int:
        return len(self.documents)

    def search(self, vectors: FloatArray, k: int, effort: int | None = None) -> tuple[NDArray[np.intp], FloatArray]:
        """Positions and scores of the best `k` for each of `[q, dim]` vectors, `[q, k]`; -1 where none was found.

        effort: cells looked into (ivf), candidates kept (hnsw); the default of `default_effort`.
        """
        tune(self.index, self.kind, effort or default_effort(self.kind, len(self)))
        scores, positions = self.index.search(np.ascontiguousarray(vectors, dtype=np.float32), min(k, len(self)))
        return positions, scores

    def save(self, folder: str | Path) -> Path:
        """Write vectors, documents and, last, `index.json`, which marks the folder complete."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / ABOUT).unlink(missing_ok=True)
        faiss.write_index(self.index, str(path / VECTORS))
        self.documents.to_parquet(path / DOCUMENTS)
        about = {"kind": self.kind, "side": self.side, "encoder": self.encoder, "weights": self.weights}
        with atomic(path / ABOUT) as partial:
            partial.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return path

    @staticmethod
    def load(folder: str | Path) -> VectorIndex:
        """Read what `save` wrote; raises FileNotFoundError for an incomplete folder, ValueError for a damaged one."""
        path = Path(folder)
        if not (path / ABOUT).is_file():
            raise FileNotFoundError(f"{path} holds no complete index ({ABOUT} is missing): make it by `confit index`")
        try:
            about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
            documents, index = pd.read_parquet(path / DOCUMENTS), faiss.read_index(str(path / VECTORS))
            found = VectorIndex(documents=documents, index=index, **about)
        except (ValueError, TypeError, OSError, RuntimeError) as error:  # RuntimeError: faiss
            raise ValueError(f"the index in {path} is damaged: {AGAIN}") from error
        if index.ntotal != len(documents):
            raise ValueError(f"the index in {path} holds {index.ntotal} vectors of {len(documents)} documents: {AGAIN}")
        return found


def build_index(vectors: VectorShards, kind: IndexKind = "flat") -> Any:
    """A FAISS inner-product index over vectors that are read a block at a time.

    IVF has about `4 sqrt(n)` cells, placed by k-means (seeded by FAISS itself) on an evenly spaced sample. Source of
    these sizes: FAISS wiki, "Guidelines to choose an index". Raises ValueError for an unknown kind.
    """
    _check_kind(kind)
    index = _empty(vectors, kind)
    for _, block in vectors.blocks():
        index.add(block)
    return index


def _check_kind(kind: str) -> None:
    if kind not in get_args(IndexKind):
        raise ValueError(f"index kind {kind!r} is unknown: choose one of {', '.join(get_args(IndexKind))}")


def _empty(vectors: VectorShards, kind: IndexKind) -> Any:
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(vectors.dim, LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = BUILD_EFFORT
        return graph
    flat = faiss.IndexFlatIP(vectors.dim)
    if kind == "flat":
        return flat
    cells = number_of_cells(len(vectors))
    index = faiss.IndexIVFFlat(flat, vectors.dim, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # a small pool is no reason for a warning
    index.train(vectors.sample(TRAINING * cells))
    return index


def number_of_cells(n: int) -> int:
    """Cells of an IVF index over `n` vectors."""
    return max(1, min(n, round(4 * n**0.5)))


def default_effort(kind: IndexKind, n: int) -> int:
    """A sixteenth of the cells (ivf), 128 candidates (hnsw): our choice, measured in `benchmarks/scale.py`."""
    return max(1, number_of_cells(n) // 16) if kind == "ivf" else 128


def tune(index: Any, kind: IndexKind, effort: int) -> None:
    """Set how much of an approximate index is searched."""
    if kind == "ivf":
        index.nprobe = effort
    elif kind == "hnsw":
        index.hnsw.efSearch = effort


def recall(found: NDArray[np.intp], exact: NDArray[np.intp]) -> float:
    """Mean share of the exact neighbours `[q, k]` that were found, in any order."""
    return float(np.mean([np.isin(e, f).mean() for f, e in zip(found, exact, strict=True)]))


def open_documents(source: str, side: Side, seed: int = 0) -> Corpus | DocumentShards:
    """A corpus by the name of a market preset, a folder of Parquet shards, or a folder in the released layout.

    Raises ValueError for an unknown side, FileNotFoundError for what is none of these.
    """
    if side not in SIDES:
        raise ValueError(f"side {side!r} is unknown: choose job or resume")
    if source in PRESETS:
        return compose(source, seed).corpus
    if not Path(source).is_dir():
        raise FileNotFoundError(f"{source!r} is neither a folder nor one of the markets {', '.join(PRESETS)}")
    has_shards = any((Path(source) / f"{side}s").glob("*.parquet"))
    return DocumentShards.of_folder(source, side) if has_shards else readers.load(source)


def index_documents(
    source: Corpus | DocumentShards,
    side: Side,
    encoder: str | Path,
    kind: IndexKind,
    folder: str | Path,
    engine: Engine | None = None,
) -> VectorIndex:
    """Encode one side of a corpus, in memory or in files, index it and save the index in `folder`.

    encoder: a name or folder that `load_encoder` takes. The vectors stay in `folder/vectors`. Raises ValueError for
    an unknown kind, and for files without documents, or with ones that have no text, no id or another's.
    """
    _check_kind(kind)
    model, store = load_encoder(encoder), Path(folder) / "vectors"
    if isinstance(source, Corpus):
        listed = texts(source, side)
        titles = source.documents(side).get("title")
        documents = _documents(listed.index, listed.tolist(), None if titles is None else titles.tolist())
        vectors = split_vectors(model.encode(list(listed)), store, 1)
    else:
        documents = pd.concat([_documents_of(source, path) for path in source.paths], ignore_index=True)
        repeated = documents["id"][documents["id"].duplicated()]
        if len(repeated):
            raise ValueError(f"{side} {repeated.iloc[0]!r} stands in two files beside {source.paths[0]}: keep one")
        vectors = encode_shards(source, encoder, store, engine)
    if not len(documents):
        raise ValueError(f"there are no {side}s to index")
    found = VectorIndex(kind, side, str(encoder), model.weight_hash(), documents, build_index(vectors, kind))
    found.save(folder)
    return found


def _documents_of(source: DocumentShards, path: Path) -> pd.DataFrame:
    """What to show of the documents of one file."""
    titled = "title" in pq.read_schema(path).names
    title = pq.read_table(path, columns=["title"]).column(0).to_pylist() if titled else None
    return _documents(source.ids(path), [text[:TITLE] for batch in source.texts(path) for text in batch], title)


def _documents(ids: Iterable[str], listed: Sequence[str], title: Sequence[Any] | None) -> pd.DataFrame:
    """Id and title of documents; the beginning of the text where there is no title."""
    named = listed if title is None else title
    shown = [name if isinstance(name, str) and name.strip() else text for name, text in zip(named, listed, strict=True)]
    return pd.DataFrame({"id": list(ids), "title": [" ".join(text.split())[:TITLE] for text in shown]})


def search_text(index: VectorIndex, text: str, k: int = 10, encoder: str | Path | None = None) -> pd.DataFrame:
    """The best `k` documents for one text: `id`, `title` and `score`, best first.

    encoder: a name or folder; default the index's own. Raises ValueError for an encoder other than the one that made
    the index, and for a blank text.
    """
    if not text.strip():
        raise ValueError("the text is blank: nothing can be found for it")
    model = load_encoder(encoder or index.encoder)
    if model.weight_hash() != index.weights:
        raise ValueError(
            f"the index was made by {index.encoder!r} with other weights than {model.name!r}: "
            f"pass that model, or {AGAIN}"
        )
    positions, scores = index.search(model.encode([text], progress=False), k)
    found = positions[0] >= 0
    return index.documents.iloc[positions[0][found]].assign(score=scores[0][found]).reset_index(drop=True)


def read_document(path: str | Path, side: Side) -> str:
    """The text of a document file: `.json` with one object of text fields, or plain text in UTF-8.

    Raises FileNotFoundError, and ValueError for JSON that is no such object and for another kind of file.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no {side} file {file}")
    try:
        content = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: save the {side} as .txt or .json") from error
    if file.suffix.lower() != ".json":
        return content
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    return serialise(_one_row(fields, file), side).iloc[0]


def _one_row(fields: Any, file: Path) -> pd.DataFrame:
    named: Sequence[Any] = list(fields.values()) if isinstance(fields, dict) else []
    if not named or not all(isinstance(value, str) for value in named):
        raise ValueError(f'{file} must hold one object of text fields, such as {{"{TEXT}": "…"}}')
    return pd.DataFrame([fields])
