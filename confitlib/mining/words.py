"""Hard negatives by words: BM25 with the query itself, or with the positive document as the query."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from confitlib.corpus import other
from confitlib.mining.kernel import FloatArray, Picks
from confitlib.mining.task import Selection, Task
from confitlib.text import Variant, WordIndex, texts, words


def bm25(task: Task, variant: Variant = "okapi", unique: bool = True) -> Selection:
    """The `n` documents that share most with the query by BM25, known positives left out.

    Ranks are BM25's, ties by id; scores are those of the embeddings, if there are any. `unique`: see `WordIndex`.
    Source: the negatives of DPR (Karpukhin et al. 2020).
    """
    own = _words(task, query=True)
    index = WordIndex(_words(task, query=False), variant, unique)
    return _top(task, (index.scores(query) for query in own))


def passage_bm25(task: Task, variant: Variant = "okapi", unique: bool = True) -> Selection:
    """The `n` documents that share most with the query's positive documents by BM25.

    Our reading of "PassageBM25", for which we know no definition: the positive passage takes the place of the query.
    Of several positives the most similar counts; a query without positives gets nothing. Otherwise as `bm25`.
    """
    documents = _words(task, query=False)
    index = WordIndex(documents, variant, unique)
    query, item = task.labelled(1)
    positives = np.split(item, np.searchsorted(query, np.arange(1, len(task.query_ids))))
    return _top(task, (_best(index, [documents[place] for place in places]) for places in positives))


def _best(index: WordIndex, queries: list[list[str]]) -> FloatArray | None:
    return np.max([index.scores(query) for query in queries], axis=0) if queries else None


def _top(task: Task, scores: Iterator[FloatArray | None]) -> Selection:
    """The `n` best candidates of each query by the given scores of the whole pool; None selects nothing."""
    quota, known = task.quota(), task.known
    best = [np.zeros(0, dtype=np.intp)] * len(task.query_ids)
    for query, row in enumerate(scores):
        if row is not None:
            row[known.indices[known.indptr[query] : known.indptr[query + 1]]] = -np.inf
            best[query] = np.argsort(-row, kind="stable")[: min(quota, task.candidates[query])]
    sizes = [len(items) for items in best]
    queries = np.repeat(np.arange(len(best)), sizes)
    items = np.concatenate([np.zeros(0, dtype=np.intp), *best])
    ranks = np.concatenate([np.zeros(0, dtype=np.intp), *map(np.arange, sizes)])
    return task.from_pool(Picks(queries, items, ranks, task.scores(queries, items)))


def _words(task: Task, query: bool) -> list[list[str]]:
    side, ids = (other(task.target), task.query_ids) if query else (task.target, task.pool_ids)
    return [words(text) for text in texts(task.corpus, side).loc[ids]]
