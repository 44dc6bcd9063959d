"""Ranking at the cost of the matrix product: exact windows of ranks, on CPU threads or a CUDA card.

The pool is cut into tiles that each stride through all of it, so the first tile is a sample: its scores bound every
query's window of ranks. Each tile is filtered while it is in cache: scores above the bounds are counted, those between
them kept, and these few alone are sorted. A query whose bounds miss its window is ranked again without bounds.
The result is that of a full stable sort, whatever the blocks, threads and tiles.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm.auto import tqdm

from confitlib.mining.ranking import SMALLEST, FloatArray, Hits, IntArray, inner_products

Int64 = NDArray[np.int64]
UNRANKED = -1
CERTAINTY = 3.5  # standard deviations: about one window in 2,000 is missed
RESIDENT = 0.25  # of a card's free memory: a larger pool stays on the host and is copied tile by tile
KEYS_ON_CARD = 0.1  # of its free memory: sorting needs three times as much
MAGNITUDE = 0x7FFFFFFF  # all bits of a float32 but its sign
POSITION = 0xFFFFFFFF
UNUSED = torch.iinfo(torch.int64).max


class Sizes(NamedTuple):
    """Rows and columns of a tile of scores, and how many keys the queries of a block may keep together."""

    rows: int
    columns: int
    keys: int


CACHED = Sizes(512, 2**11, 2**20)  # a tile of 4 MiB and 8 MiB of keys for each thread
ON_CARD = Sizes(2**15, 2**14, 2**30)  # enough arithmetic to hide the copy of a tile; at most 8 GiB of keys


def select_band(
    queries: FloatArray,
    pool: FloatArray,
    known_positives: csr_array,
    start: IntArray,
    stop: IntArray,
    ranks: IntArray | None = None,
    device: str = "cpu",
) -> Iterator[Hits]:
    """Ranks `[start, stop)` of every query's ranking of the pool, one block of queries at a time.

    queries: `[Q, d]`; pool: `[N, d]` in tie order; known_positives: `[Q, N]`, nonzero entries take no rank; start,
    stop: `[Q]`, stop at most the number of documents left; ranks: `[Q, n]`, only these ranks of the window, in this
    order, `UNRANKED` for none. As many threads as torch is set to use, each serial inside. Memory is O(block): a row
    of scores is held only where the window is as wide. Raises ValueError for a row that is not finite, a window
    beyond the documents left, and a device that torch does not find.
    """
    ranking = _Ranking(queries, pool, known_positives, start, stop, device)
    threads, pending = torch.get_num_threads(), deque[Future[Hits]]()
    workers = threads if ranking.device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1)) as executor:
            for rows in tqdm(ranking.blocks(workers), desc="ranking", unit="block", delay=1, leave=False):
                pending.append(executor.submit(ranking.hits, rows, ranks))
                if len(pending) > workers:  # at most one finished block a thread waits
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        torch.set_num_threads(threads)  # new threads take the number that was set last


class _Ranking:
    """The pool in strided tiles, and each query's window in it. Arguments as in `select_band`."""

    def __init__(
        self, queries: FloatArray, pool: FloatArray, known: csr_array, start: IntArray, stop: IntArray, device: str
    ) -> None:
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device={device!r} is unknown or missing: use 'cpu', or 'cuda' with a card") from error
        if len(beyond := np.flatnonzero(stop > len(pool) - np.diff(known.indptr))):
            raise ValueError(f"query {beyond[0]}: its window ends at rank {stop[beyond[0]]}, beyond the documents left")
        self.queries, self.pool, self.known = finite(queries, "query"), finite(pool, "pool"), known
        self.start, self.stop, self.sizes = start, stop, CACHED
        if self.device.type == "cuda":
            if torch.get_float32_matmul_precision() != "highest":
                raise ValueError('exact ranking needs torch.set_float32_matmul_precision("highest"): call it first')
            free = torch.cuda.mem_get_info(self.device)[0]
            self.pool = self.pool.to(self.device) if self.pool.nbytes <= RESIDENT * free else self.pool
            self.sizes = ON_CARD._replace(keys=min(ON_CARD.keys, int(KEYS_ON_CARD * free) // 8))
        self.step = max(1, -(-len(pool) // self.sizes.columns))  # tile t: documents t, t + step, …
        self.width = len(self.pool[:: self.step])
        self.thinning = max(1, int(self.width / max(1.0, len(pool) ** (2 / 3))))  # sample and sort then cost alike

    def blocks(self, workers: int) -> list[slice]:
        """Rows of the queries: as many as fit the caches, but a block for each thread; none without a pool."""
        if not len(self.pool):
            return []
        sampled = -(-self.width // self.thinning)
        capacity = sample_places(self.start, self.stop, sampled, len(self.pool))[2]
        size = max(1, min(self.sizes.rows, self.sizes.keys // capacity, -(-len(self.queries) // workers)))
        return [slice(first, min(first + size, len(self.queries))) for first in range(0, len(self.queries), size)]

    def hits(self, rows: slice, ranks: IntArray | None) -> Hits:
        """What a block of queries asks for."""
        row, rank = asked(self.start[rows], self.stop[rows], None if ranks is None else ranks[rows])
        item, score = decoded(self.find(np.arange(rows.start, rows.stop), row, rank))
        return Hits(row + rows.start, np.array(item), rank, np.array(score))  # copies: scipy wants numpy's own memory

    def find(self, queries: IntArray, row: IntArray, rank: IntArray, margin: float = 1.0) -> torch.Tensor:
        """The key at each rank of `queries[row]`, a rank in its window; `row` and `rank` are flat, the answer too."""
        # 1. a pass over all tiles; the first one bounds the windows  [R, width]
        vectors = self.queries[torch.from_numpy(queries)].to(self.device)
        window = self.start[queries], self.stop[queries]
        known, item = self.known[queries].nonzero()
        buffer = torch.empty(max(SMALLEST, len(queries)) * max(SMALLEST, self.width), device=self.device)
        for first in range(self.step):
            scores = inner_products(vectors, self.pool[first :: self.step].to(self.device), buffer)
            here = item % self.step == first
            places = (torch.as_tensor(part[here], device=self.device).long() for part in (known, item // self.step))
            scores[tuple(places)] = -torch.inf  # after everything else
            if first == 0:
                sieve = Sieve.of(scores[:, :: self.thinning], *window, len(self.pool), margin)
            sieve.add(scores, first, self.step)
        # 2. the ranks among what was kept
        keys, missed = sieve.at(row, rank), np.flatnonzero(~sieve.holds(*window))
        del sieve, buffer, scores
        # 3. queries whose bounds missed their window go again, without bounds
        for part in chunks(missed, self.sizes.keys // len(self.pool)):
            again = np.isin(row, part)
            index = np.searchsorted(part, row[again])
            keys[torch.from_numpy(again)] = self.find(queries[part], index, rank[again], math.inf)
        return keys


@dataclass(frozen=True, eq=False)
class Sieve:
    """What `R` queries keep of the scores that pass: all between `low` and `high`, inclusive, both `[R]`.

    keys: `[R, capacity]`, see `encoded`; count: `[R]` how many lie between, at most `capacity` of them in `keys`;
    above: `[R]` how many lie above.
    """

    low: torch.Tensor
    high: torch.Tensor
    keys: torch.Tensor
    count: torch.Tensor
    above: torch.Tensor

    @classmethod
    def of(cls, sample: torch.Tensor, start: IntArray, stop: IntArray, documents: int, margin: float = 1.0) -> Sieve:
        """An empty sieve, bounded by the scores of a sample of the documents `[R, sampled]`; see `sample_places`."""
        sample, last = in_order(sample.clone()), sample.shape[1] - 1
        *places, capacity = sample_places(start, stop, last + 1, documents, margin)
        top, bottom = (torch.as_tensor(place, device=sample.device)[:, None] for place in places)
        high = sample.gather(1, (last - top).clamp(0, last)).masked_fill(top < 0, torch.inf)
        low = sample.gather(1, (last - bottom).clamp(0, last)).masked_fill(bottom > last, -torch.inf)
        keys = torch.full((len(low), capacity), UNUSED, device=sample.device)
        count, above = (torch.zeros(len(low), dtype=torch.int64, device=sample.device) for _ in range(2))
        # known positives, at minus infinity, are never kept
        return cls(low[:, 0].clamp(min=torch.finfo(torch.float32).min), high[:, 0], keys, count, above)

    def add(self, scores: torch.Tensor, first: int, step: int) -> None:
        """Sift a tile of scores `[R, C]` of the documents `first, first + step, …`; one pass over it."""
        if scores.device.type == "cpu":
            _sift(scores.numpy(), first, step, *(part.numpy() for part in vars(self).values()))
        else:
            self.add_on_device(scores, first, step)

    def add_on_device(self, scores: torch.Tensor, first: int, step: int) -> None:
        """`add` in torch operations alone."""
        low, high = self.low[:, None], self.high[:, None]
        self.above.add_((scores > high).sum(dim=1))
        row, column = ((scores >= low) & (scores <= high)).nonzero(as_tuple=True)
        counts = row.bincount(minlength=len(scores))
        slot = torch.arange(len(row), device=row.device) + (self.count - counts.cumsum(0) + counts)[row]
        fits = slot < self.keys.shape[1]
        row, column, slot = row[fits], column[fits], slot[fits]
        self.keys[row, slot] = encoded(scores[row, column], first + step * column)
        self.count.add_(counts)

    def holds(self, start: IntArray, stop: IntArray) -> NDArray[np.bool_]:
        """Which queries kept all of their ranks `[start, stop)`, both `[R]`."""
        above, count = self.above.cpu().numpy(), self.count.cpu().numpy()
        return (above <= start) & (above + count >= stop) & (count <= self.keys.shape[1])

    def at(self, row: IntArray, rank: IntArray) -> torch.Tensor:
        """The key at each rank of each row, flat; of no meaning for a rank that was not kept."""
        keys = in_order(self.keys[:, : max(1, min(int(self.count.max()), self.keys.shape[1]))])
        slot = (row * keys.shape[1] + rank - self.above.cpu().numpy()[row]).clip(0, keys.numel() - 1)
        return keys.take(torch.as_tensor(slot, device=keys.device)).cpu()


def sample_places(
    start: IntArray, stop: IntArray, sampled: int, documents: int, margin: float = 1.0
) -> tuple[IntArray, IntArray, int]:
    """The places in a sample of scores that surely enclose the ranks `[start, stop)` of all documents.

    Returns top and bottom `[Q]`, counted from the highest score (-1 and `sampled`: no bound), and the capacity: how
    many documents of a query lie between them at most, but for rare luck. `margin` times the usual distance is kept.
    """
    free = 1 - sampled / documents  # the larger the sample, the less is left to chance
    share = np.stack([start, stop]) / documents  # [2, Q]
    distance = margin * (CERTAINTY * np.sqrt(sampled * share * (1 - share) * free) + 1)
    top, bottom = (share * sampled + [[-1], [1]] * distance).round().clip(-1, sampled).astype(np.intp)
    widest = int((bottom - top).max(initial=0))
    likely = (widest + 4 * widest**0.5 + 1) / sampled
    return top, bottom, min(documents, int(likely * documents) + 1)


def asked(start: IntArray, stop: IntArray, ranks: IntArray | None) -> tuple[IntArray, IntArray]:
    """Row and rank of everything to find, flat: the given ranks of each row, or the whole windows `[start, stop)`."""
    if ranks is not None:
        row, column = (ranks != UNRANKED).nonzero()
        return row, ranks[row, column]
    sizes = stop - start
    row = np.repeat(np.arange(len(start)), sizes)
    return row, np.arange(len(row)) + (start - np.cumsum(sizes) + sizes)[row]


def chunks(values: IntArray, size: int) -> list[IntArray]:
    """Values in parts of `size`, at least 1."""
    return [values[first : first + max(1, size)] for first in range(0, len(values), max(1, size))]


def finite(vectors: FloatArray, what: str, first: int = 0) -> torch.Tensor:
    """The vectors; raises ValueError unless the length of each is finite, which bounds every inner product.

    what, first: how the error names the vectors, and the place of the first of them.
    """
    tensor = torch.as_tensor(vectors)
    if len(bad := (~torch.isfinite(torch.linalg.vector_norm(tensor, dim=1))).nonzero()):
        row = f"{what} row {first + int(bad[0])}"
        raise ValueError(f"{row} holds NaN, infinite or overflowing values ({len(bad)} such rows)")
    return tensor


def in_order(values: torch.Tensor) -> torch.Tensor:
    """Every row in rising order, in place on a CPU: numpy's vectorised sort is ten times as fast as torch's there."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    values.numpy().sort(axis=1)
    return values


def encoded(scores: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """int64 keys that rise as the score falls and, for equal scores, as the position in the pool rises.

    Keys never tie, so any sort gives the same ranking, on any device.
    """
    bits = (scores + 0.0).view(torch.int32)  # adding 0.0 turns -0.0 into 0.0
    rising = bits ^ ((bits >> 31) & MAGNITUDE)  # the bits of negative floats grow as these fall
    return (~rising).long() << 32 | positions


def decoded(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and scores of keys; the inverse of `encoded`."""
    rising = ~(keys >> 32).int()
    return keys & POSITION, (rising ^ ((rising >> 31) & MAGNITUDE)).view(torch.float32)


@njit(nogil=True, cache=True)
def _sift(
    tile: FloatArray, first: int, step: int, low: FloatArray, high: FloatArray, keys: Int64, count: Int64, above: Int64
) -> None:
    """`Sieve.add` on a CPU. The first loop of a row has no branch: most scores are below the window."""
    bits = tile.view(np.int32)
    reached = np.empty(tile.shape[1] + 1, dtype=np.int32)
    for row in range(len(tile)):
        line, least, most, hits = tile[row], low[row], high[row], 0  # locals: three times as fast
        for column in range(len(line)):
            reached[hits] = column
            hits += line[column] >= least
        for column in reached[:hits]:
            if line[column] > most:
                above[row] += 1
                continue
            if count[row] < keys.shape[1]:
                number = np.int64(bits[row, column]) if line[column] != 0 else np.int64(0)  # -0.0 ties with 0.0
                rising = number ^ ((number >> 31) & MAGNITUDE)
                keys[row, count[row]] = (~rising << 32) | (first + step * np.int64(column))
            count[row] += 1
