"""What every strategy works on: the queries, the pool, what must stay out of it, and the seeded draw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from confitlib.corpus import NEGATIVE_FOR, Corpus, Side, other
from confitlib.encoder.vectors import Embeddings
from confitlib.mining.kernel import UNRANKED, FloatArray, IntArray, Picks
from confitlib.mining.removal import count_reasons, removal

DocumentSet = Literal["train", "labelled"]
PAIRS_A_CHUNK = 2**15


@dataclass(frozen=True)
class Selection:
    """What a strategy chose, with the candidates each query had, `[Q]`, and what it lost, `[Q, len(REASONS)]`.

    Ranks and percentiles count among these candidates.
    """

    picks: Picks
    candidates: IntArray
    removed: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Task:
    """One mining run: queries and pool in id order, at most `n` documents a query (None: all), one seed."""

    corpus: Corpus
    target: Side
    query_ids: pd.Index
    pool_ids: pd.Index
    embeddings: Embeddings | None
    n: int | None
    seed: int
    official: bool = False
    block: int | None = None
    device: str = "cpu"

    @cached_property
    def known(self) -> csr_array:
        """Codes of `removal` for these queries and this pool, `[Q, N]`."""
        rows = self.corpus.positions(other(self.target), self.query_ids)
        columns = self.corpus.positions(self.target, self.pool_ids)
        return removal(self.corpus, self.target)[rows][:, columns]

    @property
    def candidates(self) -> IntArray:
        """Pool documents left for each query once its known positives are out, `[Q]`."""
        return len(self.pool_ids) - np.diff(self.known.indptr).astype(np.intp)

    @cached_property
    def vectors(self) -> tuple[FloatArray, FloatArray]:
        """Vectors of the queries `[Q, d]` and of the pool `[N, d]`."""
        if self.embeddings is None:
            raise ValueError("this strategy ranks by embeddings: pass embeddings=Embeddings(resumes, jobs)")
        self.embeddings.check(self.corpus)
        return self._rows(other(self.target), self.query_ids), self._rows(self.target, self.pool_ids)

    def quota(self) -> int:
        """`n`, for strategies that have no size of their own; raises ValueError without one."""
        if self.n is None:
            raise ValueError("this strategy needs n, the number of negatives a query")
        return self.n

    def labelled(self, label: int) -> tuple[IntArray, IntArray]:
        """Query and pool positions of the training pairs with a label, in query order, each once.

        Pairs with a document outside queries or pool (an accepted split leak) are no candidates.
        """
        labels = self.corpus.labelled("train", label)
        query = self.query_ids.get_indexer(pd.Index(labels[f"{other(self.target)}_id"]))
        item = self.pool_ids.get_indexer(pd.Index(labels[f"{self.target}_id"]))
        inside = (query >= 0) & (item >= 0)
        pairs = np.unique(np.stack([query[inside], item[inside]]), axis=1)
        return pairs[0], pairs[1]

    def unranked(self, query: IntArray, item: IntArray) -> Picks:
        """Picks that were not chosen from a ranking; scored if there are embeddings, else NaN."""
        return Picks(query, item, np.full(len(query), UNRANKED, dtype=np.intp), self.scores(query, item))

    def scores(self, query: IntArray, item: IntArray) -> FloatArray:
        """Inner products of flat pairs; NaN without embeddings."""
        scores = np.full(len(query), np.nan, dtype=np.float32)
        if self.embeddings is not None:
            queries, pool = self.vectors
            for first in range(0, len(query), PAIRS_A_CHUNK):
                chunk = slice(first, first + PAIRS_A_CHUNK)
                scores[chunk] = np.einsum("ij,ij->i", queries[query[chunk]], pool[item[chunk]])
        return scores

    def positive_scores(self) -> pd.Series:
        """Scores of the training positives, indexed by query position; NaN without embeddings."""
        query, item = self.labelled(1)
        return pd.Series(self.scores(query, item), index=query, dtype="float64")

    def mean_positive_scores(self) -> NDArray[np.float64]:
        """Mean score of each query's training positives, `[Q]`; NaN without any."""
        means = self.positive_scores().groupby(level=0).mean()
        return means.reindex(range(len(self.query_ids))).to_numpy()

    def draw(self, picks: Picks) -> Picks:
        """At most `n` of each query's picks, uniformly without replacement and in their order."""
        if self.n is None:
            return picks
        queries, firsts, sizes = np.unique(picks.query, return_index=True, return_counts=True)
        kept = [np.zeros(0, dtype=np.intp)]
        for query, first, size in zip(queries, firsts, sizes, strict=True):
            kept.append(first + self._chosen(query, size))
        return picks.take(np.concatenate(kept))

    def draw_ranks(self, start: IntArray, stop: IntArray) -> IntArray | None:
        """The ranks in each query's window `[start, stop)` that `draw` would keep, rising, before anything is ranked.

        `[Q, n]`, `UNRANKED` where a window has fewer; None if all are kept.
        """
        if self.n is None:
            return None
        sizes = stop - start
        ranks = np.full((len(sizes), min(self.n, int(sizes.max(initial=0)))), UNRANKED, dtype=np.intp)
        for query in np.flatnonzero(sizes).tolist():
            drawn = self._chosen(query, int(sizes[query]))
            ranks[query, : len(drawn)] = start[query] + drawn
        return ranks

    def generator(self, query: int) -> np.random.Generator:
        """A generator of seed and query id alone, so that the order of queries and pool changes nothing."""
        return generator_of(self.seed, str(self.query_ids[query]))

    def from_pool(self, picks: Picks) -> Selection:
        """The selection of a strategy whose candidates are the whole pool without known positives."""
        query = np.repeat(np.arange(len(self.query_ids)), np.diff(self.known.indptr))
        return Selection(picks, self.candidates, count_reasons(query, self.known.data, len(self.query_ids)))

    def _chosen(self, query: int, size: int) -> IntArray:
        """The draw: rising positions among `size`, at most `n`."""
        return np.sort(self.generator(query).choice(size, min(self.quota(), size), replace=False))

    def _rows(self, side: Side, ids: pd.Index) -> FloatArray:
        assert self.embeddings is not None
        return self.embeddings.of(side)[self.corpus.positions(side, ids)].astype(np.float32, copy=False)


def generator_of(seed: int, name: str) -> np.random.Generator:
    """A generator of a seed and a name alone."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest)])


def document_ids(corpus: Corpus, side: Side, documents: DocumentSet, written: bool = False) -> pd.Index:
    """Ids in rising order: all training documents of a side, or those that occur in training labels.

    Negatives that somebody wrote for a query are left out unless `written`.
    """
    if documents not in get_args(DocumentSet):
        raise ValueError(f"document set {documents!r} is unknown; use one of {list(get_args(DocumentSet))}")
    ids = corpus.pool(side, "train") if documents == "train" else corpus.labelled("train")[f"{side}_id"].unique()
    frame = corpus.documents(side)
    if NEGATIVE_FOR in frame.columns and not written:
        ids = frame.index[frame.index.isin(ids) & (frame[NEGATIVE_FOR].fillna("") == "")]
    return pd.Index(sorted(ids), dtype="str")
