"""The definition of runner-up mining, on one page; `kernel.py` finds the same documents faster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array

from confitlib.util import generator_of

IntArray = NDArray[np.intp]
FloatArray = NDArray[np.float32]
SMALLEST = 16  # products with fewer rows or columns take other code in BLAS, which rounds differently
TERMS = 384  # sums of more terms are split by BLAS, in places that depend on the shape and the number of threads


class Hits(NamedTuple):
    """Documents found for queries, as flat, equally long arrays: query and pool positions, rank and score."""

    query: IntArray
    item: IntArray
    rank: IntArray
    score: FloatArray

    def take(self, places: IntArray | NDArray[np.bool_]) -> Hits:
        """The hits at the given places or under the given mask."""
        return Hits(self.query[places], self.item[places], self.rank[places], self.score[places])


def concatenate(parts: Iterable[Hits]) -> Hits:
    """Hits one after the other."""
    nothing = np.zeros(0, dtype=np.intp)
    empty = Hits(nothing, nothing, nothing, np.zeros(0, dtype=np.float32))
    return Hits(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))


def mine_band(
    queries: FloatArray,
    pool: FloatArray,
    known_positives: csr_array,
    query_ids: Sequence[str],
    lo: float = 0.03,
    hi: float = 0.04,
    n: int | None = None,
    seed: int = 0,
    block: int = 256,
) -> Hits:
    """Runner-up mining: `n` documents (None: all) between the percentiles `[lo, hi)` of each query's ranking.

    queries: `[Q, d]`; pool: `[N, d]`, in the order that ranks equal scores; known_positives: `[Q, N]`, nonzero
    entries take no rank. Memory is O(block). Source: ConFit v2, runner-up mining.
    """
    parts = []
    for first in range(0, len(queries), block):
        rows = slice(first, first + block)
        # 1. Scores of a block of queries  [block, N]
        scores = inner_products(queries[rows], pool).numpy() + 0.0  # which turns -0.0 into 0.0
        # 2. Known positives go behind all candidates
        scores[known_positives[rows].nonzero()] = -np.inf
        # 3. Rankings: falling scores, equal ones by rising pool position  [block, N]
        rankings = np.argsort(-scores, axis=1, kind="stable")
        # 4. The percentiles of each query's candidates become ranks [start, stop)  [block]
        start, stop = band_window(np.isfinite(scores).sum(axis=1), lo, hi)
        for row, ranking in enumerate(rankings):
            # 5. Of these ranks n are drawn; their documents are the runner-ups
            query = first + row
            ranks = start[row] + draw(int(stop[row] - start[row]), n, seed, query_ids[query])
            items = ranking[ranks]
            parts.append(Hits(np.full(len(ranks), query), items, ranks, scores[row, items]))
    return concatenate(parts)


def band_window(candidates: IntArray, lo: float, hi: float) -> tuple[IntArray, IntArray]:
    """First rank and end rank of a percentile band among so many candidates: at least one wide if there are any."""
    if not 0 <= lo < hi <= 1:
        raise ValueError(f"a band needs 0 <= lo < hi <= 1 (3 % is 0.03), got lo={lo}, hi={hi}")
    slack = 1e-9  # 0.29 * 100 is 28.999… and must floor to 29
    start = np.minimum(np.floor(lo * candidates + slack), candidates - 1).clip(0).astype(np.intp)
    stop = np.maximum(np.floor(hi * candidates + slack).astype(np.intp), start + 1)
    return start, np.minimum(stop, candidates)


def draw(size: int, n: int | None, seed: int, query_id: str) -> IntArray:
    """Rising places among `size`: all of them, or `n` drawn without replacement by seed and query id alone."""
    if n is None or n >= size:
        return np.arange(size)
    return np.sort(generator_of(seed, query_id).choice(size, n, replace=False))


def inner_products(
    queries: FloatArray | torch.Tensor, vectors: FloatArray | torch.Tensor, buffer: torch.Tensor | None = None
) -> torch.Tensor:
    """Inner products `[Q, N]` of rows `[Q, d]` and `[N, d]`, each the same bits whatever the other rows are.

    buffer: flat memory for the result, for at least `SMALLEST` rows and columns. A CUDA card sums in one go.
    """
    # 1. both sides with `SMALLEST` rows at least, zeros below
    both = [torch.as_tensor(rows) for rows in (queries, vectors)]
    left, right = (F.pad(one, (0, 0, 0, SMALLEST - len(one))) if len(one) < SMALLEST else one for one in both)
    # 2. products of `TERMS` terms at a time, summed in their order
    out = None if buffer is None else buffer[: len(left) * len(right)].view(len(left), len(right))
    terms = TERMS if left.device.type == "cpu" else left.shape[1]
    scores = torch.mm(left[:, :terms], right[:, :terms].T, out=out)
    for first in range(terms, left.shape[1], terms):
        scores.addmm_(left[:, first : first + terms], right[:, first : first + terms].T)
    return scores[: len(queries), : len(vectors)]
