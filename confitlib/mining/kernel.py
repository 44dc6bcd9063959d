"""Exact windows of a ranking, block by block, in torch: one code path for CPU and CUDA."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm.auto import tqdm

IntArray = NDArray[np.intp]
FloatArray = NDArray[np.float32]

SCORES_A_BLOCK = 2**21
REMOVED = torch.iinfo(torch.int64).min
MAGNITUDE = 0x7FFFFFFF  # all bits of a float32 but its sign
UNRANKED = -1


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
) -> Iterator[Picks]:
    """Ranks `[start, stop)` of every query's ranking of the pool, one block of queries at a time.

    queries: finite `[Q, d]`; pool: finite `[N, d]` in tie order; removed: `[Q, N]`, nonzero entries take no
    rank; start, stop: `[Q]`, stop at most the number of items left. The ranking is by falling float32 inner
    product, equal products by rising pool position, and equals a full stable sort. Memory is O(block x N).
    """
    for rows, keys in _key_blocks(queries, pool, removed, block, device):
        first, last = torch.as_tensor(start[rows], device=device), torch.as_tensor(stop[rows], device=device)
        leading = keys.topk(int(last.max()), dim=1).values
        ranks = torch.arange(leading.shape[1], device=device)
        query, rank = ((ranks >= first[:, None]) & (ranks < last[:, None])).nonzero(as_tuple=True)
        item, score = _decoded(leading[query, rank], len(pool))
        yield Picks(query.cpu().numpy() + rows.start, item.cpu().numpy(), rank.cpu().numpy(), score.cpu().numpy())


def full_ranking(
    queries: FloatArray, pool: FloatArray, removed: csr_array, block: int | None = None, device: str = "cpu"
) -> Iterator[tuple[slice, IntArray, FloatArray]]:
    """Every query's whole ranking: rows, pool positions and scores `[block, N]`, removed entries last.

    Arguments and order as in `select_band`; the scores of removed entries have no meaning.
    """
    for rows, keys in _key_blocks(queries, pool, removed, block, device):
        item, score = _decoded(keys.sort(dim=1, descending=True).values, len(pool))
        yield rows, item.cpu().numpy(), score.cpu().numpy()


def _key_blocks(
    queries: FloatArray, pool: FloatArray, removed: csr_array, block: int | None, device: str
) -> Iterator[tuple[slice, torch.Tensor]]:
    size = min(block or max(1, SCORES_A_BLOCK // max(1, len(pool))), max(1, len(queries)))
    columns = torch.as_tensor(pool, device=device).T
    scores = torch.empty(size, len(pool), device=device)  # one pair of buffers: fresh ones would fragment the heap
    keys = torch.empty(size, len(pool), dtype=torch.int64, device=device)
    for first in tqdm(range(0, len(queries), size), desc="ranking", unit="block", delay=1, leave=False):
        rows = slice(first, min(first + size, len(queries)))
        count = rows.stop - rows.start
        torch.mm(torch.as_tensor(queries[rows], device=device), columns, out=scores[:count])
        _encode(scores[:count], keys[:count])
        gone = removed[rows].nonzero()
        keys[torch.as_tensor(gone[0], device=device).long(), torch.as_tensor(gone[1], device=device).long()] = REMOVED
        yield rows, keys[:count]


def _encode(scores: torch.Tensor, keys: torch.Tensor) -> None:
    """Fill in int64 keys whose order is the ranking: the score's bits above, the reversed position below.

    Keys never tie, so any selection algorithm picks the same items, on any device. Overwrites the scores.
    """
    bits = scores.add_(0.0).view(torch.int32)  # adding 0.0 turns -0.0 into 0.0
    keys.copy_(bits)
    keys ^= bits.bitwise_right_shift_(31).bitwise_and_(MAGNITUDE)  # negative floats grow as their bits fall
    keys <<= 32
    keys |= torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)


def _decoded(keys: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool positions and scores of keys; the inverse of `_encode`."""
    bits = (keys >> 32).int()
    bits ^= (bits >> 31) & MAGNITUDE
    return width - 1 - (keys & 0xFFFFFFFF), bits.view(torch.float32)
