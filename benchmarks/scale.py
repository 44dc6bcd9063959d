"""Peak memory and time against the number of documents, and approximate search beside exact search."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from benchmarks.common import arguments, environment, interleaved, report
from confitlib.corpus import SIDES
from confitlib.market import PRESETS, compose, compose_to_parquet
from confitlib.mining.kernel import UNRANKED
from confitlib.mining.ranking import band_window
from confitlib.rankers import ConFitV2
from confitlib.records import peak_memory
from confitlib.scale import (
    SEARCH_EFFORT,
    DocumentShards,
    VectorIndex,
    VectorShards,
    build_index,
    encode_shards,
    sharded_band,
)
from confitlib.training import TrainingConfig

PRESET = {True: "tiny", False: "laptop"}  # quick or not: whose train split is a shard
SHARDS = {True: (4, 12), False: (18, 72, 358)}  # laptop: about 50k, 200k and 1M documents
QUERIES, NEGATIVES = 256, 8
NEIGHBOURS = 10
KINDS = ("flat", "ivf", "hnsw")


def main() -> None:
    """Measure, print and, with `--json`, write."""
    options = arguments(__doc__)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        preset = PRESET[options.quick]
        encoder = alone(train_encoder, Path(folder), preset)[0]
        for shards in SHARDS[options.quick]:
            rows += memory_rows(Path(folder), encoder, preset, shards)
        report("scale, memory", rows, growth(rows), environment("pyarrow", "faiss-cpu"))
        vectors = resume_vectors(Path(folder), encoder, SHARDS[options.quick][0])
        found = [index_row(vectors, kind, Path(folder) / kind) for kind in KINDS]
    summary = growth(rows) | {f"{row['index']}_recall": row[f"recall@{NEIGHBOURS}"] for row in found}
    report("scale", found, summary, environment("pyarrow", "faiss-cpu"), options.json, before=rows)


def train_encoder(folder: Path, preset: str) -> Path:
    """A static encoder trained with runner-ups, saved."""
    ranker = ConFitV2(config=TrainingConfig(epochs=2))
    ranker.fit(compose(preset, seed=0).corpus)
    return ranker.result.encoder.save(folder / "encoder")


def memory_rows(folder: Path, encoder: Path, preset: str, shards: int) -> list[dict[str, Any]]:
    """What composing, encoding and mining a market of so many shards takes, each in a process of its own."""
    market, rows = folder / "market", []
    size = shards * sum(getattr(PRESETS[preset], f"train_{side}s") for side in SIDES)
    stages: dict[str, Callable[..., Any]] = {"compose": compose_stage, "encode": encode_stage, "mine": mine_stage}
    for name, stage in stages.items():
        _, seconds, peak = alone(stage, market, encoder, shards, preset)
        rows.append({"stage": name, "documents": size, "seconds": seconds, "peak MB": peak})
    return rows


def alone(function: Callable[..., Any], *given: Any) -> tuple[Any, float, float]:
    """Result, seconds and peak memory of a call in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (function, given))


def _measured(function: Callable[..., Any], given: tuple[Any, ...]) -> tuple[Any, float, float]:
    start = time.perf_counter()
    result = function(*given)
    return result, time.perf_counter() - start, peak_memory()["peak_memory_mb"] or float("nan")


def compose_stage(market: Path, encoder: Path, shards: int, preset: str) -> None:
    """Write the shards that are not there yet; a larger market contains the smaller ones."""
    compose_to_parquet(preset, 0, market, shards)


def encode_stage(market: Path, encoder: Path, shards: int, preset: str) -> None:
    """Encode both sides."""
    for side in ("resume", "job"):
        encode_shards(documents(market, side, shards), encoder, market / "vectors")


def mine_stage(market: Path, encoder: Path, shards: int, preset: str) -> None:
    """Draw negatives from the band of some job queries, against all resumes."""
    resumes, jobs = documents(market, "resume", shards), documents(market, "job", shards)
    pool = encode_shards(resumes, encoder, market / "vectors")
    queries = encode_shards(DocumentShards(jobs.paths[:1], "job"), encoder, market / "vectors")
    known = known_positives(market, resumes, jobs).T.tocsr()[: len(queries)]
    start, stop = band_window(len(pool) - np.diff(known.indptr), 0.03, 0.04)
    stop[QUERIES:] = start[QUERIES:]  # the rest asks for nothing
    ranks = np.full((len(queries), NEGATIVES), UNRANKED)
    ranks[:QUERIES] = np.linspace(start[:QUERIES], stop[:QUERIES], NEGATIVES, endpoint=False, axis=1).astype(int)
    sharded_band(queries, pool, known, start, stop, ranks=ranks)


def known_positives(folder: str | Path, resumes: DocumentShards, jobs: DocumentShards) -> csr_array:
    """Accepted pairs of a composed market, booleans `[n_resumes, n_jobs]`, whose labels stay inside a shard."""
    if len(resumes.paths) != len(jobs.paths):
        counts = f"{len(resumes.paths)} files of resumes and {len(jobs.paths)} of jobs"
        raise ValueError(f"{folder} holds {counts}: a shard has one of each, so compose what is missing")
    first, parts = np.zeros((2, 1), dtype=np.intp), [np.zeros((2, 0), dtype=np.intp)]  # row 0 resumes, row 1 jobs
    for paths in zip(resumes.paths, jobs.paths, strict=True):
        labels = pd.read_parquet(Path(folder) / "labels" / paths[0].name)
        accepted = labels[labels["label"] == 1]
        ids = [pd.Index(shards.ids(path)) for shards, path in zip((resumes, jobs), paths, strict=True)]
        places = [ids[n].get_indexer(pd.Index(accepted[f"{side}_id"])) for n, side in enumerate(SIDES)]
        if min(map(np.min, places), default=0) < 0:
            raise KeyError(f"the labels beside {paths[0]} name a document that is not in their shard")
        parts.append(first + places)
        first = first + np.array([[len(index)] for index in ids])
    row, column = np.concatenate(parts, axis=1)
    return csr_array((np.ones(len(row), dtype=bool), (row, column)), shape=(len(resumes), len(jobs)))


def documents(market: Path, side: Any, shards: int) -> DocumentShards:
    """The first shards of a side."""
    return DocumentShards(DocumentShards.of_folder(market, side).paths[:shards], side)


def resume_vectors(folder: Path, encoder: Path, shards: int) -> VectorShards:
    """The vectors of a pool of resumes, which `encode_stage` has made already."""
    return encode_shards(documents(folder / "market", "resume", shards), encoder, folder / "market" / "vectors")


def index_row(vectors: VectorShards, kind: Any, folder: Path) -> dict[str, Any]:
    """Build, save and load one index; recall against exact search and latency of one query at a time."""
    queries = vectors.sample(QUERIES)
    exact = build_index(vectors, "flat").search(queries, NEIGHBOURS)[1]
    start = time.perf_counter()
    built = build_index(vectors, kind)
    seconds = time.perf_counter() - start
    names = pd.DataFrame({"id": range(len(vectors)), "title": ""})
    VectorIndex("resume", "", "", names, built).save(folder)
    loaded = VectorIndex.load(folder)
    found = loaded.search(queries, NEIGHBOURS)[0]
    each = interleaved({"search": lambda: [loaded.search(query[None], NEIGHBOURS) for query in queries]})["search"]
    return {
        "index": kind,
        "vectors": len(vectors),
        "effort": {"flat": len(vectors), "ivf": getattr(built, "nprobe", 0), "hnsw": SEARCH_EFFORT}[kind],
        "build s": seconds,
        "MB": sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
        f"recall@{NEIGHBOURS}": float(np.mean([np.isin(e, f).mean() for f, e in zip(found, exact, strict=True)])),
        "ms/query": 1e3 * each / len(queries),
    }


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Peak memory of the largest market over that of the smallest, by stage."""
    stages = {row["stage"]: [one["peak MB"] for one in rows if one["stage"] == row["stage"]] for row in rows}
    return {f"{stage}_growth": peaks[-1] / peaks[0] for stage, peaks in stages.items()}


if __name__ == "__main__":
    main()
