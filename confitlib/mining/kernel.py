"""Exact windows of a ranking at the cost of the matrix product, on CPU threads or a CUDA card.

The pool is cut into tiles that each stride through all of it, so the first is a sample: its scores bound every
query's window. Each tile is sifted while it is in cache: scores above the bounds are counted, those between them kept,
and these few alone are sorted. A query whose bounds miss its window is ranked again without bounds, so the
result never depends on luck. Neither does it on blocks, threads or tiles: a product of two vectors is rounded the same
in all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm.auto import tqdm

from confitlib.mining.sift import Bracket, IntArray, Sieve, decoded, in_order

FloatArray = NDArray[np.float32]

Result = TypeVar("Result")

UNRANKED = -1
SMALLEST = 16  # products with fewer rows or columns take other code in BLAS, which rounds differently
RESIDENT = 0.25  # of a card's free memory: a larger pool stays on the host and is copied tile by tile


@dataclass(frozen=True)
class _Sizes:
    """Rows and columns of a tile of scores, and how many keys the queries of a block may keep together."""

    rows: int
    columns: int
    keys: int


CACHED = _Sizes(512, 2**11, 2**20)  # a tile of 4 MiB and 8 MiB of keys for each thread
ON_CARD = _Sizes(2**15, 2**14, 2**30)  # enough arithmetic to hide the copy of a tile; at most 8 GiB of keys
KEYS_ON_CARD = 0.1  # of its free memory: sorting needs three times as much


@dataclass(frozen=True)
class Picks:
    """Chosen documents as flat, equally long arrays: query and pool positions, rank and score."""

    query: IntArray
    item: IntArray
    rank: IntArray
    score: FloatArray

    def take(self, kept: IntArray | NDArray[np.bool_]) -> Picks:
        """The picks at the given positions or under the given mask."""
        return Picks(self.query[kept], self.item[kept], self.rank[kept], self.score[kept])


def concatenate(parts: Iterable[Picks]) -> Picks:
    """Picks one after the other."""
    listed = list(parts)
    empty = np.zeros(0, dtype=np.intp)
    return Picks(
        np.concatenate([empty, *(part.query for part in listed)]),
        np.concatenate([empty, *(part.item for part in listed)]),
        np.concatenate([empty, *(part.rank for part in listed)]),
        np.concatenate([np.zeros(0, dtype=np.float32), *(part.score for part in listed)]),
    )


def select_band(
    queries: FloatArray,
    pool: FloatArray,
    removed: csr_array,
    start: IntArray,
    stop: IntArray,
    block: int | None = None,
    device: str = "cpu",
    ranks: IntArray | None = None,
) -> Iterator[Picks]:
    """Ranks `[start, stop)` of every query's ranking of the pool, one block of queries at a time.

    queries: `[Q, d]`; pool: `[N, d]` in tie order; removed: `[Q, N]`, nonzero entries take no rank; start, stop:
    `[Q]`, stop at most the number of items left; ranks: `[Q, n]`, only these ranks of the window, in this order,
    `UNRANKED` for none. The ranking is by falling float32 inner product, equal products by rising pool position,
    and equals a full stable sort. As many threads as torch is set to use. Memory is O(block): a row
    of scores is held only where the window is as wide. Raises ValueError for a row that is not finite or a window
    beyond the pool.
    """
    ranking = _Ranking(queries, pool, removed, start, stop, device)
    yield from _by_blocks(partial(_picks, ranking, ranks), ranking.blocks(block, ranking.bracket.capacity), device)


def full_ranking(
    queries: FloatArray, pool: FloatArray, removed: csr_array, block: int | None = None, device: str = "cpu"
) -> Iterator[tuple[slice, IntArray, FloatArray]]:
    """Every query's whole ranking: rows, pool positions and scores `[block, N]`, removed entries last.

    Arguments and order as in `select_band`; the scores of removed entries have no meaning.
    """
    nowhere = np.zeros(len(queries), dtype=np.intp)
    ranking = _Ranking(queries, pool, removed, nowhere, nowhere, device)
    yield from _by_blocks(partial(_whole, ranking), ranking.blocks(block, len(pool)), device)


def _picks(ranking: _Ranking, ranks: IntArray | None, rows: slice) -> Picks:
    row, rank = asked(ranking.start[rows], ranking.stop[rows], None if ranks is None else ranks[rows])
    item, score = decoded(ranking.find(np.arange(rows.start, rows.stop), row, rank))
    return Picks(row + rows.start, np.array(item), rank, np.array(score))  # copies: scipy wants numpy's own memory


def asked(start: IntArray, stop: IntArray, ranks: IntArray | None) -> tuple[IntArray, IntArray]:
    """Row and rank of everything to find, flat: the given ranks of each row, or the whole windows `[start, stop)`."""
    if ranks is not None:
        row, column = (ranks != UNRANKED).nonzero()
        return row, ranks[row, column]
    sizes = stop - start
    row = np.repeat(np.arange(len(start)), sizes)
    return row, np.arange(len(row)) + (start - np.cumsum(sizes) + sizes)[row]


def _whole(ranking: _Ranking, rows: slice) -> tuple[slice, IntArray, FloatArray]:
    everything = ranking.sieve(np.arange(rows.start, rows.stop), bounded=False).ranked()
    item, score = decoded(everything.cpu())
    return rows, item.numpy(), score.numpy()


class _Ranking:
    """The pool in strided tiles, and each query's window in it. Arguments as in `select_band`."""

    def __init__(
        self, queries: FloatArray, pool: FloatArray, removed: csr_array, start: IntArray, stop: IntArray, device: str
    ) -> None:
        if len(stop) and stop.max() > len(pool):
            raise ValueError(f"a window ends at rank {stop.max()}, but the pool holds {len(pool)} documents")
        self.queries, self.pool = finite(queries, "query"), _resident(finite(pool, "pool"), device)
        self.removed, self.start, self.stop, self.device = removed, start, stop, torch.device(device)
        self.sizes = CACHED if self.device.type == "cpu" else _on_card(self.device)
        self.step = max(1, -(-len(pool) // self.sizes.columns))  # tile t: documents t, t + step, …
        width = len(self.pool[:: self.step])
        self.thinning = max(1, int(width / max(1.0, len(pool) ** (2 / 3))))  # our choice: sample and sort cost alike
        sampled = max(1, -(-width // self.thinning))
        self.bracket = Bracket.of(start, stop, sampled, max(1, len(pool)))

    def blocks(self, size: int | None, capacity: int) -> list[slice]:
        """Rows of the queries: as many as fit the caches, but a block for each thread."""
        if size is not None and size < 1:
            raise ValueError(f"block={size} must be at least 1, or None for what suits the machine")
        most = max(1, min(self.sizes.rows, self.sizes.keys // max(1, capacity)))
        size = size or max(1, min(most, -(-len(self.queries) // _workers(self.device))))
        return [slice(first, min(first + size, len(self.queries))) for first in range(0, len(self.queries), size)]

    def find(self, queries: IntArray, row: IntArray, rank: IntArray, bounded: bool = True) -> torch.Tensor:
        """The key at each rank of `queries[row]`, a rank in its window; `row` and `rank` are flat, the answer too."""
        sieve = self.sieve(queries, bounded)
        found = sieve.at(row, rank)
        missed = (~sieve.holds(self.start[queries], self.stop[queries])).nonzero()[0]
        del sieve
        for part in chunks(missed, self.sizes.keys // max(1, len(self.pool))):
            again = np.isin(row, part)
            index = np.searchsorted(part, row[again])
            found[torch.from_numpy(again)] = self.find(queries[part], index, rank[again], bounded=False)
        return found

    def sieve(self, queries: IntArray, bounded: bool) -> Sieve:
        """The scores of some queries, sifted to their bounds; without bounds all are kept."""
        vectors = padded(self.queries[torch.from_numpy(queries)].to(self.device))
        gone = self._gone(queries)
        buffer = torch.empty(len(vectors), max(SMALLEST, len(self.pool[:: self.step])), device=self.device)
        sieve = None
        for first in range(self.step):
            scores = self._scores(vectors, first, buffer)[: len(queries)]
            scores[gone[first]] = -torch.inf  # after everything else
            if sieve is None:
                sieve = self._bounded(scores, queries) if bounded and len(self.pool) else self._unbounded(len(queries))
            sieve.add(scores, first, self.step)
        assert sieve is not None
        return sieve

    def _scores(self, vectors: torch.Tensor, first: int, buffer: torch.Tensor) -> torch.Tensor:
        tile = self.pool[first :: self.step].to(self.device)
        columns = padded(tile).T
        scores = buffer.flatten()[: len(vectors) * columns.shape[1]].view(len(vectors), -1)
        return torch.mm(vectors, columns, out=scores)[:, : len(tile)]

    def _gone(self, queries: IntArray) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Rows and columns of the removed entries in each tile."""
        row, item = self.removed[queries].nonzero()
        tile = item % self.step
        order = np.argsort(tile, kind="stable")
        cuts = np.searchsorted(tile[order], np.arange(1, self.step))
        rows, columns = (
            [torch.as_tensor(part, device=self.device).long() for part in np.split(index[order], cuts)]
            for index in (row, item // self.step)
        )
        return list(zip(rows, columns, strict=True))

    def _bounded(self, first_tile: torch.Tensor, queries: IntArray) -> Sieve:
        sample = in_order(first_tile[:, :: self.thinning].clone())
        return self.bracket.sieve(sample, queries)

    def _unbounded(self, count: int) -> Sieve:
        infinite = torch.full((count,), torch.inf, device=self.device)
        return Sieve.between(-infinite, infinite, len(self.pool))


def finite(vectors: FloatArray, what: str, first: int = 0) -> torch.Tensor:
    """The vectors; raises ValueError unless the length of each is finite, which bounds every inner product.

    what, first: how the error names the vectors, and the place of the first of them.
    """
    tensor = torch.as_tensor(vectors)
    bad = (~torch.isfinite(torch.linalg.vector_norm(tensor, dim=1))).nonzero()
    if len(bad):
        raise ValueError(
            f"{what} row {first + int(bad[0])} holds NaN, infinite or overflowing values ({len(bad)} such rows)"
        )
    return tensor


def _known_device(name: str) -> torch.device:
    """The device of a name; raises ValueError for one that torch does not know or find."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name!r} is not to be had: use 'cpu', or 'cuda' on a machine with a card") from error
    return device


def _on_card(device: torch.device) -> _Sizes:
    """What fits the card; raises ValueError where torch may round the factors of its products."""
    if torch.get_float32_matmul_precision() != "highest":
        raise ValueError('exact ranking needs whole float32: call torch.set_float32_matmul_precision("highest") first')
    free = torch.cuda.mem_get_info(device)[0]
    return replace(ON_CARD, keys=min(ON_CARD.keys, int(KEYS_ON_CARD * free) // 8))


def _resident(pool: torch.Tensor, device: str) -> torch.Tensor:
    """The pool on the card where it fits easily."""
    if _known_device(device).type != "cuda" or pool.nbytes > RESIDENT * torch.cuda.mem_get_info(device)[0]:
        return pool
    return pool.to(device)


def padded(rows: torch.Tensor) -> torch.Tensor:
    """At least `SMALLEST` rows, zeros below."""
    missing = max(0, SMALLEST - len(rows))
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows


def chunks(values: IntArray, size: int) -> list[IntArray]:
    """Values in parts of `size`, at least 1."""
    return [values[first : first + max(1, size)] for first in range(0, len(values), max(1, size))]


def _workers(device: torch.device) -> int:
    return torch.get_num_threads() if device.type == "cpu" else 1


def _by_blocks(call: Callable[[slice], Result], blocks: list[slice], device: str) -> Iterator[Result]:
    """The result of every block in turn, from threads that keep at most one finished block each waiting.

    Torch itself is serial inside of them: a thread with blocks of its own never waits for another.
    """
    threads, workers = torch.get_num_threads(), _workers(torch.device(device))
    pending: deque[Future[Result]] = deque()
    try:
        with ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1)) as pool:
            for block in tqdm(blocks, desc="ranking", unit="block", delay=1, leave=False):
                pending.append(pool.submit(call, block))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        torch.set_num_threads(threads)  # new threads take the number that was set last
