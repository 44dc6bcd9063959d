"""Band mining against a pool in files: one pass over it a block of queries, exact, in bounded memory.

A window of ranks needs no ranking of the whole pool. Scores against an evenly spaced sample of the pool bracket the
window; one pass then counts what scores above the bracket and keeps what scores inside it. Counts and kept
scores prove that the window lies inside, or the query goes again with a wider bracket. So the result is exact
whatever the sample was, and memory holds about the window plus a margin instead of the pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from confitlib.mining.band import band_window
from confitlib.mining.kernel import SMALLEST, FloatArray, IntArray, Picks, concatenate, padded
from confitlib.mining.task import Selection, Task
from confitlib.scale.engine import Engine, LocalEngine
from confitlib.scale.shards import VectorShards, split_vectors

SAMPLE = 16_384  # vectors of the pool that bracket a window
SPREADS = 4.0  # margin of a bracket, in standard deviations of a sample rank
TILE = 8192  # vectors of the pool multiplied at a time
SCORES_A_TILE = 2**21
KEPT = 2**21  # scores kept at a time, about: some 250 MB with all that is made of them


@dataclass(frozen=True)
class BandTask:
    """A file of queries and the window of ranks of each, `[q]`, against a pool that all tasks read from its files."""

    queries: VectorShards
    pool: VectorShards
    removed: csr_array
    start: IntArray
    stop: IntArray

    @cached_property
    def vectors(self) -> FloatArray:
        """The queries, `[q, d]`."""
        return self.queries.take(np.arange(len(self.queries)))


@dataclass(frozen=True)
class Bracket:
    """Score limits of some queries, `[q]`: their windows are expected in `low <= score <= high`."""

    low: torch.Tensor
    high: torch.Tensor


def sharded_band(
    queries: VectorShards,
    pool: VectorShards,
    removed: csr_array,
    start: IntArray,
    stop: IntArray,
    engine: Engine | None = None,
) -> Picks:
    """Ranks `[start, stop)` of every query's ranking of the pool: what `select_band` picks, ties included.

    One task a file of queries; each streams the files of the pool. queries, pool: finite vectors; removed
    `[Q, N]`, nonzero entries take no rank; start, stop `[Q]`, stop at most the number of items left. A task holds
    one tile of scores and a few windows, more only for a query that scores far more than a window's worth of
    the pool equally.
    """
    sizes = np.cumsum([0, *queries.sizes])
    tasks = [
        BandTask(VectorShards((path,)), pool, removed[a:b], start[a:b], stop[a:b])
        for path, a, b in zip(queries.paths, sizes, sizes[1:], strict=False)
    ]
    found = (engine or LocalEngine()).map(mine_task, tasks, "mining")
    return concatenate(
        Picks(part.query + first, part.item, part.rank, part.score)
        for first, part in zip(sizes, found, strict=False)
    )  # fmt: skip


def band_on(task: Task, folder: Path, engine: Engine, lo: float = 0.03, hi: float = 0.04, shards: int = 4) -> Selection:
    """The strategy `band` of a mining task on an engine: the same selection; `folder` receives the vectors.

    Raises ValueError where `band` does, and for the official procedure, which only `mine` follows.
    """
    if task.official or not 0 <= lo < hi <= 1:
        raise ValueError(f"a band needs 0 <= lo < hi <= 1 and official=False, got lo={lo}, hi={hi}, {task.official}")
    start, stop = band_window(task.candidates, lo, hi)
    queries, pool = (split_vectors(part, folder / name, shards)
                     for part, name in zip(task.vectors, ("queries", "pool"), strict=True))  # fmt: skip
    return task.from_pool(task.draw(sharded_band(queries, pool, task.known, start, stop, engine)))


def mine_task(task: BandTask) -> Picks:
    """The picks of one task, query by query in order; query positions count from the task's first."""
    sample = torch.as_tensor(task.pool.sample(SAMPLE))
    width = int((task.stop - task.start).max(initial=1)) + len(task.pool) // 64
    rows = max(SMALLEST, min(SCORES_A_TILE // TILE, KEPT // width))
    blocks = [np.arange(a, min(a + rows, len(task.queries))) for a in range(0, len(task.queries), rows)]
    return concatenate(picks for block in blocks for picks in _settled(task, block, sample))


def _settled(task: BandTask, rows: IntArray, sample: torch.Tensor) -> list[Picks]:
    """The windows of some queries in query order, with brackets that widen until each window is inside."""
    spreads, settled = SPREADS, []
    while len(rows):
        if spreads > 4 * len(sample) + 4:  # the last bracket was infinite on both sides
            raise ValueError("a window ends behind the last item, or vectors hold NaN: check stop, or encode again")
        bracket = _bracket(task, rows, sample, spreads)
        picks, inside = _pass(task, rows, bracket)
        settled.append(picks)
        rows, spreads = rows[~inside], 4 * spreads
    whole = concatenate(settled)
    return [whole.take(np.argsort(whole.query, kind="stable"))]


def _bracket(task: BandTask, rows: IntArray, sample: torch.Tensor, spreads: float) -> Bracket:
    """Limits from the order statistics of the sample; infinite where the margin leaves the sample."""
    size, share = len(sample), len(sample) / len(task.pool)
    scores = products(torch.as_tensor(task.vectors[rows]), sample).sort(dim=1, descending=True).values
    first, last = (torch.as_tensor(bound[rows] * share) for bound in (task.start, task.stop))
    above = (first - spreads * (first.sqrt() + 1)).floor().long()
    below = (last + spreads * (last.sqrt() + 1)).ceil().long()
    high = scores.gather(1, above.clamp(0, size - 1)[:, None])[:, 0].where(above >= 0, torch.inf)
    low = scores.gather(1, below.clamp(0, size - 1)[:, None])[:, 0].where(below < size, -torch.inf)
    return Bracket(low, high)


def _pass(task: BandTask, rows: IntArray, bracket: Bracket) -> tuple[Picks, NDArray[np.bool_]]:
    """One pass over the pool: the windows of the queries whose bracket holds it, and which these are."""
    low, high = bracket.low[:, None], bracket.high[:, None]
    above, kept = torch.zeros(len(rows), dtype=torch.long), []
    for first, scores in _tiles(task, rows):
        above += (scores > high).sum(1)
        places = ((scores <= high) & (scores >= low)).nonzero(as_tuple=True)
        kept.append((places[0], places[1] + first, scores[places]))
    query, item, score = (torch.cat(column).numpy() for column in zip(*kept, strict=True))
    return _windows(task, rows, above.numpy(), Picks(query, item, np.zeros(0, np.intp), score))


def _windows(task: BandTask, rows: IntArray, above: IntArray, kept: Picks) -> tuple[Picks, NDArray[np.bool_]]:
    """Cut the windows out of what one pass kept, positions of a query rising, and counted above it."""
    order = np.lexsort((-kept.score, kept.query))  # stable: equal scores stay by position
    query, counts = kept.query[order], np.bincount(kept.query, minlength=len(rows))
    rank = above[query] + np.arange(len(order)) - (np.cumsum(counts) - counts)[query]
    start, stop = task.start[rows], task.stop[rows]
    inside = (above <= start) & (above + counts >= stop)
    chosen = inside[query] & (rank >= start[query]) & (rank < stop[query])
    picked = order[chosen]
    return Picks(rows[query[chosen]], kept.item[picked], rank[chosen], kept.score[picked]), inside


def _tiles(task: BandTask, rows: IntArray) -> Iterator[tuple[int, torch.Tensor]]:
    """Scores `[rows, tile]` of the whole pool with the position of each tile; NaN where an item is removed."""
    queries, removed = torch.as_tensor(task.vectors[rows]), task.removed[rows].tocoo()
    order = np.argsort(removed.col, kind="stable")
    row, column = removed.row[order], removed.col[order]
    for first, vectors in task.pool.blocks(TILE):
        scores = products(queries, torch.as_tensor(vectors)).add_(0.0)  # adding 0.0 turns -0.0 into 0.0
        a, b = np.searchsorted(column, (first, first + len(vectors)))
        scores[row[a:b], column[a:b] - first] = torch.nan
        yield first, scores


def products(queries: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Inner products `[q, n]`, each the same whatever the other rows are.

    BLAS takes other kernels, which round otherwise, for a handful of rows or columns; zeros fill these up.
    """
    return torch.mm(padded(queries), padded(vectors).T)[: len(queries), : len(vectors)]
