"""Past one machine and past memory: a Ray cluster, corpora and vectors in files, exact mining, and a search index."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from unittest import mock

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm.auto import tqdm

from confitlib import readers
from confitlib.corpus import RESERVED, Corpus, Side, blank_documents
from confitlib.encoder import load_encoder
from confitlib.market import PRESETS, compose
from confitlib.mining.kernel import Sieve, asked, chunks, decoded, finite, sample_places
from confitlib.mining.ranking import FloatArray, Hits, IntArray, concatenate, inner_products
from confitlib.readers.repairs import as_text
from confitlib.text import TEXT, join_fields, serialise, texts
from confitlib.util import atomic, checked, make_folder, plain_file

_encoder = lru_cache(maxsize=1)(load_encoder)  # one encoder a process, loaded once
Result = TypeVar("Result")
Tasks = Sequence[tuple[Any, ...]]  # the arguments of each call
IndexKind = Literal["flat", "ivf", "hnsw"]

ROWS_A_BATCH = 4096
SAMPLE = 16_384  # vectors of the pool that bound a window
TILE = 512, 2**11  # queries and documents of a tile of scores, 4 MiB
KEYS = 2**22  # scores kept in one pass over the pool, 32 MiB
WIDER = 4.0  # times the margin before, for queries whose bounds missed their window
LINKS, BUILD_EFFORT, SEARCH_EFFORT = 32, 80, 128  # HNSW: neighbours of a vector, candidates while building, searching
ABOUT, VECTORS, DOCUMENTS = "index.json", "index.faiss", "documents.parquet"
FORMATS = (".txt", ".md", ".json")  # of a document
TITLE = 80  # characters that stand for a document


class RayEngine:
    """Ray tasks, one core each, as a context manager. A task whose worker dies is run again, at most `retries` times.

    address: "local" starts a cluster of `workers` processes (default: one a core) on the loopback interface and
    ends it again; "auto" or `host:port` joins one that runs, whose machines see the same files under the same
    paths and have the same environment. gpus: cards of each task, which sees no other; with a fraction tasks share
    one, with 0 all see all. Plain tasks rather than Ray Data: a file in makes a file out, which is what retries,
    resuming and the order of rows rest on. Source of the retries: Ray documentation, "Task Fault Tolerance"
    (https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html).
    """

    def __init__(self, address: str = "local", workers: int | None = None, retries: int = 3, gpus: float = 0) -> None:
        self.address, self.workers, self.retries, self.gpus = address, workers, retries, gpus
        self._ray: Any = None

    def __enter__(self) -> Self:
        """Start or join the cluster; raises ImportError without Ray, ConnectionError where that fails."""
        try:
            import ray
        except ImportError as error:
            raise ImportError("this needs Ray: pip install confitlib[scale]") from error
        if ray.is_initialized():
            raise ConnectionError("Ray runs in this process already: end that with ray.shutdown(), which this would do")
        # jsonschema, which Ray imports in each process, compiles a grammar for seven seconds if rfc3987-syntax is there
        # (Jupyter brings it), and Ray gives up on a start that takes fifteen: a module without content hides it
        self._hidden = tempfile.TemporaryDirectory()
        (Path(self._hidden.name) / "rfc3987_syntax.py").write_text("raise ImportError", encoding="utf-8")
        path = os.pathsep.join(filter(None, [self._hidden.name, os.environ.get("PYTHONPATH")]))
        one_core = {"RAYON_NUM_THREADS": "1"}  # else the tokenizer of every worker would use all cores
        options: dict[str, Any] = {"runtime_env": {"env_vars": one_core}}
        if self.address == "local":
            options = {"num_cpus": self.workers, "_node_ip_address": "127.0.0.1", "include_dashboard": False}
        for attempt in (1, 2):  # the first start, from a cold disk, may take too long
            try:
                with mock.patch.dict(os.environ, one_core | {"PYTHONPATH": path}):
                    ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, **options)
                break
            except Exception as error:  # which one depends on the process of Ray that fails
                ray.shutdown()
                if self.address != "local":
                    remedy = "start one with `ray start --head`, or use 'local'"
                    raise ConnectionError(f"no Ray cluster at {self.address!r} ({error}): {remedy}") from error
                if attempt == 2:
                    raise ConnectionError(f"Ray could not start here: {error} Is the machine overloaded?") from error
        self._ray = ray
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()
        self._hidden.cleanup()

    def starmap(self, function: Callable[..., Result], tasks: Tasks, what: str = "tasks") -> list[Result]:
        """The results in the order of the tasks, which are tuples of arguments; the function must be importable."""
        if self._ray is None:
            raise RuntimeError("the engine is not running: use it as `with RayEngine() as engine`")
        remote = self._ray.remote(max_retries=self.retries, num_cpus=1, num_gpus=self.gpus)(function)
        waiting = [remote.remote(*task) for task in tasks]
        bar = tqdm(waiting, desc=f"{what} (Ray)", delay=1, leave=False, disable=len(waiting) == 1)
        return [self._ray.get(result) for result in bar]

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The result of one call; several threads may call at once."""
        return self.starmap(function, [arguments])[0]


def _starmap(engine: RayEngine | None, function: Callable[..., Result], tasks: Tasks, what: str) -> list[Result]:
    """The results on an engine; without one in this process, one task after the other."""
    if engine is not None:
        return engine.starmap(function, tasks, what)
    return [function(*task) for task in tqdm(tasks, desc=what, delay=1, leave=False)]


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
        if not (paths := tuple(sorted((Path(folder).resolve() / f"{side}s").glob("*.parquet")))):
            remedy = f"write them, or compose a market with `python -m confitlib.market laptop --parquet {folder}`"
            raise FileNotFoundError(f"{folder} holds no {side}s/*.parquet: {remedy}")
        return cls(paths, side)

    def __len__(self) -> int:
        return sum(self._open(path)[0].metadata.num_rows for path in self.paths)

    def ids(self, path: Path) -> NDArray[np.object_]:
        """The ids of one file, in row order: text, each once."""
        ids = pd.Index(self._open(path)[0].read([f"{self.side}_id"]).column(0).to_pylist(), dtype=object)
        blank = np.array([not isinstance(name, str) or not name.strip() for name in ids], dtype=bool)
        self._refuse(path, blank, "without an id of text. Give every document one")
        self._refuse(path, np.asarray(ids.duplicated()), "whose id stands in an earlier row. Keep one row per id")
        return np.asarray(ids, dtype=object)

    def texts(self, path: Path) -> Iterator[list[str]]:
        """The texts of one file in batches, serialised as `confitlib.text.texts` does."""
        (file, fields), first = self._open(path), 0
        with file:
            for batch in file.iter_batches(ROWS_A_BATCH, columns=fields):
                frame: pd.DataFrame = batch.to_pandas().map(as_text)
                self._refuse(path, blank_documents(frame, fields), "without text. Supply it or drop the row", first)
                first += len(frame)
                yield serialise(frame[fields], self.side).tolist()

    def _open(self, path: Path) -> tuple[pq.ParquetFile, list[str]]:
        """One file, and its text fields."""
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowException as error:
            raise ValueError(f"{path} cannot be read as Parquet ({error}). Write it again.") from error
        names, key = file.schema_arrow.names, f"{self.side}_id"
        if key not in names:
            raise ValueError(f"{path} has no column {key!r} (there are: {', '.join(names)}): name the ids so")
        if not (fields := [name for name in names if name not in (*RESERVED, key)]):
            raise ValueError(f"{path} has no text field besides its id")
        return file, fields

    def _refuse(self, path: Path, rows: NDArray[np.bool_], what: str, first: int = 0) -> None:
        """Raise ValueError naming the first of the marked rows, if there is one; `first`: rows of the file before."""
        if rows.any():
            raise ValueError(f"{path}, row {first + int(rows.argmax()) + 1}: {self.side} {what}.")


@dataclass(frozen=True)
class VectorShards:
    """Float32 vectors as `.npy` files `[n, dim]`; a file is mapped only while one of its blocks is copied out."""

    paths: tuple[Path, ...]

    @cached_property
    def sizes(self) -> list[int]:
        """Vectors of each file, from its header."""
        shapes = [np.load(path, mmap_mode="r").shape for path in self.paths]
        if len({shape[1:] for shape in shapes}) > 1 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"the files beside {self.paths[0]} have shapes {sorted(set(shapes))}: use one encoder")
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
        starts = np.cumsum([0, *self.sizes])[:-1]
        files = zip(self.paths, starts, np.split(positions, np.searchsorted(positions, starts[1:])), strict=True)
        taken = [_read(path, part - start) for path, start, part in files if len(part)]
        return np.concatenate([np.zeros((0, self.dim), dtype=np.float32), *taken])

    def sample(self, n: int) -> FloatArray:
        """At most `n` vectors, evenly spaced over all positions."""
        return self.take(np.unique(np.linspace(0, len(self) - 1, min(n, len(self))).astype(np.intp)))


def _read(path: Path, rows: slice | IntArray) -> FloatArray:
    """A copy of some rows: the mapping, whose pages count as this process's memory, ends here."""
    return np.array(np.load(path, mmap_mode="r")[rows], dtype=np.float32)


def write_vectors(path: Path, shape: tuple[int, int], batches: Iterable[FloatArray]) -> Path:
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
    files = [write_vectors(folder / f"{i:05d}.npy", part.shape, [part]) for i, part in enumerate(parts)]
    return VectorShards(tuple(files))


def encode_shards(
    documents: DocumentShards, encoder: str | Path, folder: str | Path, engine: RayEngine | None = None
) -> VectorShards:
    """Unit vectors of every document, a `.npy` file in `folder` for each Parquet file, in the same order.

    encoder: a name or folder that `load_encoder` takes. A file is named by what it was made of (texts, weights and
    precision), so a finished one is not made again, also after an interruption, and no stale one is used.
    """
    folder, name = Path(folder).resolve(), str(Path(encoder).resolve() if Path(encoder).is_dir() else encoder)
    tasks = [(path.resolve(), documents.side, name, folder) for path in documents.paths]
    return VectorShards(tuple(_starmap(engine, encode_file, tasks, f"encoding {documents.side}s")))


def encode_file(documents: Path, side: Side, encoder: str, folder: Path) -> Path:
    """Encode one file unless it is done; returns where its vectors are."""
    model = _encoder(encoder)
    key = f"{model.weight_hash()}:{model.precision}"  # what the vectors depend on, besides the texts
    digest = hashlib.sha256(key.encode() + documents.read_bytes()).hexdigest()[:16]
    target = folder / f"{side}-{documents.stem}-{digest}.npy"
    if not target.is_file():
        shard = DocumentShards((documents,), side)
        batches = (model.encode(batch, progress=False) for batch in shard.texts(documents))
        write_vectors(target, (len(shard), model.dim), batches)
    return target


def sharded_band(
    queries: VectorShards,
    pool: VectorShards,
    known_positives: csr_array,
    start: IntArray,
    stop: IntArray,
    engine: RayEngine | None = None,
    ranks: IntArray | None = None,
) -> Hits:
    """Ranks `[start, stop)` of every query's ranking of the pool: what `select_band` gives, ties included.

    One task a file of queries; each streams the files of the pool. known_positives: `[Q, N]`, nonzero entries take no
    rank; start, stop: `[Q]`, stop at most the number of documents left; ranks: `[Q, n]`, only these ranks of the
    window, as in `select_band`. A task holds one tile of scores, what it found, and the windows of a few queries; more
    only where a query scores far more than a window's worth of the pool equally. Raises ValueError for a row that is
    not finite or a window beyond the pool.
    """
    if (stop > len(pool) - np.diff(known_positives.indptr)).any():
        raise ValueError("a window ends behind the last document that is left: check stop")
    if not len(pool):
        return concatenate([])
    cuts = np.cumsum([0, *queries.sizes])
    tasks = [
        (path, pool, known_positives[a:b], start[a:b], stop[a:b], None if ranks is None else ranks[a:b])
        for path, a, b in zip(queries.paths, cuts, cuts[1:], strict=False)
    ]
    parts = zip(cuts, _starmap(engine, mine_file, tasks, "mining"), strict=False)
    return concatenate(part._replace(query=part.query + first) for first, part in parts)


def mine_file(
    file: Path, pool: VectorShards, known_positives: csr_array, start: IntArray, stop: IntArray, ranks: IntArray | None
) -> Hits:
    """The windows of the queries in one file, query by query in order; query positions count from the file's first.

    As in `confitlib.mining.kernel` a sample of the pool bounds every window, one pass keeps the scores within the
    bounds, and counts prove that the window is complete. A query whose bounds miss goes again with wider ones.
    """
    vectors = finite(VectorShards((file,)).take(np.arange(len(start))), "query")
    sample = torch.as_tensor(pool.sample(SAMPLE))
    queries: IntArray = np.flatnonzero(start < stop)
    margin, parts = 1.0, []
    while len(queries):
        capacity = sample_places(start[queries], stop[queries], len(sample), len(pool), margin)[2]
        missed = []
        for rows in chunks(queries, min(TILE[0], KEYS // capacity)):
            # 1. Bounds of each window from the scores of the sample  [q, sampled]
            left = vectors[torch.from_numpy(rows)]
            sieve = Sieve.of(inner_products(left, sample), start[rows], stop[rows], len(pool), margin)
            # 2. One pass over the pool: each tile of scores, known positives behind everything else  [q, tile]
            positives = known_positives[rows].tocsc().tocoo()  # by rising pool position
            for first, tile in pool.blocks(TILE[1]):
                scores = inner_products(left, finite(tile, "pool", first))
                here = slice(*np.searchsorted(positives.col, (first, first + len(tile))))
                scores[positives.row[here], positives.col[here] - first] = -torch.inf
                sieve.add(scores, first, 1)
            # 3. The ranks that are wanted, of the windows that lie within the bounds
            complete = sieve.holds(start[rows], stop[rows])
            row, rank = asked(start[rows], stop[rows], None if ranks is None else ranks[rows])
            row, rank = row[complete[row]], rank[complete[row]]
            item, score = decoded(sieve.at(row, rank))
            parts.append(Hits(rows[row], item.numpy(), rank, score.numpy()))
            missed.append(rows[~complete])
        queries, margin = np.concatenate(missed), margin * WIDER
    hits = concatenate(parts)
    return hits.take(np.argsort(hits.query, kind="stable"))


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """A FAISS index over the vectors of one side, with `id` and `title` of its documents in vector order.

    encoder, weights: the name or folder of the encoder that made the vectors, and the hash of its weights.
    """

    side: Side
    encoder: str
    weights: str
    documents: pd.DataFrame
    index: Any

    def search(self, vectors: FloatArray, k: int) -> tuple[NDArray[np.intp], FloatArray]:
        """Positions and scores of the best `k` for each of `[q, dim]` vectors, `[q, k]`; -1 where there are fewer."""
        scores, positions = self.index.search(vectors, min(k, len(self.documents)))
        return positions, scores

    def save(self, folder: str | Path) -> Path:
        """Write vectors, documents and, last, `index.json`, which marks the folder complete."""
        path = make_folder(Path(folder))
        (path / ABOUT).unlink(missing_ok=True)
        faiss.write_index(self.index, str(path / VECTORS))
        self.documents.to_parquet(path / DOCUMENTS)
        about = {"side": self.side, "encoder": self.encoder, "weights": self.weights}
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
            if index.ntotal != len(documents):
                raise ValueError(f"{index.ntotal} vectors of {len(documents)} documents")
            return VectorIndex(about["side"], about["encoder"], about["weights"], documents, index)
        except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:  # RuntimeError: faiss
            raise ValueError(f"the index in {path} is damaged: make it again by `confit index`") from error


@checked
def build_index(vectors: VectorShards, kind: IndexKind = "flat") -> Any:
    """A FAISS inner-product index over vectors that are read a block at a time.

    kind: "flat" compares with every vector and is exact; "ivf" looks into the nearest sixteenth of about `4 sqrt(n)`
    cells, placed by k-means (seeded by FAISS itself) on an evenly spaced sample; "hnsw" walks a graph of neighbours.
    Source of these sizes: FAISS wiki, "Guidelines to choose an index"; the effort of a search is our choice, measured
    in `benchmarks/scale.py`. Raises ValueError for an unknown kind.
    """
    # 1. an empty index of the kind, and how hard it searches
    cells = max(1, min(len(vectors), round(4 * len(vectors) ** 0.5)))
    recipes = {"flat": "Flat", "ivf": f"IVF{cells},Flat", "hnsw": f"HNSW{LINKS}"}
    effort = {"ivf": f"nprobe={max(1, cells // 16)}", "hnsw": f"efConstruction={BUILD_EFFORT},efSearch={SEARCH_EFFORT}"}
    index: Any = faiss.index_factory(vectors.dim, recipes[kind], faiss.METRIC_INNER_PRODUCT)
    tuning: Any = faiss.ParameterSpace()
    tuning.set_index_parameters(index, effort.get(kind, ""))
    # 2. the cells, then all vectors block by block
    if kind == "ivf":
        index.cp.min_points_per_centroid = 1  # a small pool needs no warning
        index.train(vectors.sample(64 * cells))
    for _, block in vectors.blocks():
        index.add(block)
    return index


@checked
def open_documents(source: str, side: Side, seed: int = 0) -> Corpus | DocumentShards:
    """A corpus by the name of a market preset, a folder of Parquet shards, or a folder in the released layout.

    Raises ValueError for an unknown side, FileNotFoundError for what is none of these.
    """
    if source in PRESETS:
        return compose(source, seed).corpus
    if not Path(source).is_dir():
        raise FileNotFoundError(f"{source!r} is neither a folder nor one of the markets {', '.join(PRESETS)}")
    has_shards = any((Path(source) / f"{side}s").glob("*.parquet"))
    return DocumentShards.of_folder(source, side) if has_shards else readers.load(source)


def index_documents(
    source: Corpus | DocumentShards, side: Side, encoder: str | Path, kind: IndexKind, folder: str | Path
) -> VectorIndex:
    """Encode one side of a corpus, in memory or in files, index it and save the index in `folder`.

    encoder: a name or folder that `load_encoder` takes. The vectors stay in `folder/vectors`. Raises ValueError for
    an unknown kind, and for files without documents, or with ones that have no text, no id or another's.
    """
    model, store = load_encoder(encoder), Path(folder) / "vectors"
    # 1. Id, title and beginning of the text of every document
    if isinstance(source, Corpus):
        listed = texts(source, side)
        documents = pd.DataFrame({"id": listed.index, "title": source.documents(side).get("title"), "text": listed})
    else:
        tables = []
        for path in source.paths:
            titles = pq.ParquetFile(path).read(["title"]).to_pandas().get("title")  # None without such a column
            starts = [text[:TITLE] for batch in source.texts(path) for text in batch]
            tables.append(pd.DataFrame({"id": source.ids(path), "title": titles, "text": starts}))
        documents = pd.concat(tables)
    if not len(documents):
        raise ValueError(f"there are no {side}s to index")
    if len(repeated := documents["id"][documents["id"].duplicated()]):
        raise ValueError(f"{side} {repeated.iloc[0]!r} stands in two files of {store.parent}: keep one")
    # 2. The vectors, in the same order  [n, dim]
    if isinstance(source, DocumentShards):
        vectors = encode_shards(source, encoder, store)
    else:
        vectors = split_vectors(model.encode(listed.tolist()), store, 1)
    # 3. What a search shows: the title, or the beginning of the text where there is none
    titles = documents["title"].astype("str").fillna("").str.split().str.join(" ")
    shown = titles.where(titles != "", documents["text"].str.split().str.join(" ")).str[:TITLE]
    table = pd.DataFrame({"id": documents["id"], "title": shown}).reset_index(drop=True)
    index = VectorIndex(side, str(encoder), model.weight_hash(), table, build_index(vectors, kind))
    index.save(folder)
    return index


def search_text(index: VectorIndex, text: str, k: int = 10, encoder: str | Path | None = None) -> pd.DataFrame:
    """The best `k` documents for one text: `id`, `title` and `score`, best first.

    encoder: a name or folder; default the index's own. Raises ValueError for an encoder other than the one that made
    the index, and for a blank text.
    """
    if not text.strip():
        raise ValueError("the text is blank: nothing can be found for it")
    model = load_encoder(encoder or index.encoder)
    if model.weight_hash() != index.weights:
        why = f"the index was made by {index.encoder!r} with other weights than {model.name!r}"
        raise ValueError(f"{why}: pass that model, or make it again by `confit index`")
    positions, scores = index.search(model.encode([text], progress=False), k)
    there = positions[0] >= 0
    return index.documents.iloc[positions[0][there]].assign(score=scores[0][there]).reset_index(drop=True)


def read_document(path: str | Path, side: Side) -> str:
    """The text of a document file: `.json` with one object of text fields, or plain text in UTF-8.

    Raises FileNotFoundError, and ValueError for JSON that is no such object and for another kind of file.
    """
    file = plain_file(path)
    if file.suffix.lower() not in FORMATS:
        raise ValueError(f"{file}: a {side} is read from {', '.join(FORMATS)}; save it as one of these")
    try:
        content = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() != ".json":
            return content
        fields = json.loads(content)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: save the {side} as .txt or .json") from error
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(fields, dict) or not fields or not all(isinstance(value, str) for value in fields.values()):
        raise ValueError(f'{file} must hold one object of text fields, such as {{"{TEXT}": "…"}}')
    return join_fields(fields, side)
