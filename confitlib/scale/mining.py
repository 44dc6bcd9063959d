"""Band mining against a pool in files: one pass over it a block of queries, exact, in bounded memory.

What `confitlib.mining.kernel` does with a pool in memory: a sample brackets every window, one pass sifts the scores
to the bracket, and counts prove that the window lies inside. Here the sample is evenly spaced over the files, and a
query whose bracket misses goes again with a wider one, so that it still keeps little more than its window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array

from confitlib.mining.kernel import CACHED, Sieve, asked, chunks, decoded, finite, sample_places
from confitlib.mining.ranking import Hits, IntArray, band_window, concatenate, inner_products
from confitlib.mining.strategies import MiningProblem, Selection
from confitlib.scale.engine import Engine, LocalEngine
from confitlib.scale.shards import VectorShards, split_vectors

SAMPLE = 16_384  # vectors of the pool that bracket a window
KEYS = 2**22  # scores kept in one pass, 32 MiB: more of them, and so more queries, than a pool in memory needs
WIDER = 4.0  # times the margin before, for queries whose bracket missed


@dataclass(frozen=True)
class BandTask:
    """A file of queries and the window of ranks of each, `[q]`, against a pool that all tasks read from its files.

    ranks: `[q, n]`, the only ranks of the windows that are wanted; None: all.
    """

    queries: VectorShards
    pool: VectorShards
    removed: csr_array
    start: IntArray
    stop: IntArray
    ranks: IntArray | None = None

    @cached_property
    def vectors(self) -> torch.Tensor:
        """The queries, `[q, d]`."""
        return finite(self.queries.take(np.arange(len(self.queries))), "query")


def sharded_band(
    queries: VectorShards,
    pool: VectorShards,
    removed: csr_array,
    start: IntArray,
    stop: IntArray,
    engine: Engine | None = None,
    ranks: IntArray | None = None,
) -> Hits:
    """Ranks `[start, stop)` of every query's ranking of the pool: what `select_band` finds, ties included.

    One task a file of queries; each streams the files of the pool. removed: `[Q, N]`, nonzero entries take no rank;
    start, stop: `[Q]`, stop at most the number of items left; ranks: `[Q, n]`, only these ranks of the window, as in
    `select_band`. A task holds one tile of scores, what it found, and the windows of a few queries; more only
    where a query scores far more than a window's worth of the pool equally. Raises ValueError for a row that is
    not finite or a window beyond the pool.
    """
    sizes = np.cumsum([0, *queries.sizes])
    tasks = [
        BandTask(
            VectorShards((path,)), pool, removed[a:b], start[a:b], stop[a:b], None if ranks is None else ranks[a:b]
        )
        for path, a, b in zip(queries.paths, sizes, sizes[1:], strict=False)
    ]
    if (stop > len(pool) - np.diff(removed.indptr)).any():
        raise ValueError("a window ends behind the last item that is left: check stop")
    if not len(pool):
        return concatenate([])
    found = (engine or LocalEngine()).map(mine_task, tasks, "mining")
    return concatenate(
        Hits(part.query + first, part.item, part.rank, part.score)
        for first, part in zip(sizes, found, strict=False)
    )  # fmt: skip


def band_on(
    problem: MiningProblem, folder: Path, engine: Engine, lo: float = 0.03, hi: float = 0.04, shards: int = 4
) -> Selection:
    """The strategy `band` of a mining problem on an engine: the same selection; `folder` receives the vectors.

    Raises ValueError where `band` does, and for the official procedure, which only `mine` follows.
    """
    if problem.official or not 0 <= lo < hi <= 1:
        raise ValueError(f"a band needs 0 <= lo < hi <= 1 and official=False, got lo={lo}, hi={hi}, {problem.official}")
    start, stop = band_window(problem.candidates, lo, hi)
    queries, pool = (split_vectors(part, folder.resolve() / name, shards)
                     for part, name in zip(problem.vectors, ("queries", "pool"), strict=True))  # fmt: skip
    ranks = problem.draw_ranks(start, stop)
    return problem.selection(sharded_band(queries, pool, problem.known_positives, start, stop, engine, ranks))


def mine_task(task: BandTask) -> Hits:
    """The hits of one task, query by query in order; query positions count from the task's first."""
    sample = torch.as_tensor(task.pool.sample(SAMPLE))
    hits = concatenate(_mined(task, np.flatnonzero(task.start < task.stop), sample))
    return hits.take(np.argsort(hits.query, kind="stable"))


def _mined(task: BandTask, queries: IntArray, sample: torch.Tensor, margin: float = 1.0) -> Iterator[Hits]:
    """The windows of some queries, those whose first bracket misses last."""
    capacity = sample_places(task.start, task.stop, len(sample), len(task.pool), margin)[2]
    missed = queries[:0]
    for rows in chunks(queries, min(CACHED.rows, KEYS // capacity)):
        sieve = _sifted(task, rows, sample, margin)
        held = sieve.holds(task.start[rows], task.stop[rows])
        row, rank = asked(task.start[rows], task.stop[rows], None if task.ranks is None else task.ranks[rows])
        row, rank = row[held[row]], rank[held[row]]
        item, score = decoded(sieve.at(row, rank))
        yield Hits(rows[row], np.array(item), rank, np.array(score))
        missed = np.append(missed, rows[~held])
    if len(missed):
        yield from _mined(task, missed, sample, WIDER * margin)


def _sifted(task: BandTask, queries: IntArray, sample: torch.Tensor, margin: float) -> Sieve:
    """One pass over the pool: what it leaves of the scores of some queries."""
    vectors, removed = task.vectors[torch.from_numpy(queries)], task.removed[queries].tocoo()
    order = np.argsort(removed.col, kind="stable")
    row, column = removed.row[order], removed.col[order]
    window = task.start[queries], task.stop[queries]
    sieve = Sieve.of(inner_products(vectors, sample), *window, len(task.pool), margin)
    for first, tile in task.pool.blocks(CACHED.columns):
        scores = inner_products(vectors, finite(tile, "pool", first))
        a, b = np.searchsorted(column, (first, first + len(tile)))
        scores[row[a:b], column[a:b] - first] = -torch.inf  # after everything else
        sieve.add(scores, first, 1)
    return sieve
