"""Graph-based sampling: random walks with restart on a proximity graph of the documents."""

from __future__ import annotations

import numpy as np

from confitlib.mining.kernel import IntArray, concatenate
from confitlib.mining.task import Selection, Task, generator_of
from confitlib.mining.window import ranked

STEPS_A_NEGATIVE = 50  # our bound, so that a walk in a small component ends


def graph(task: Task, candidates: int = 1000, edges: int = 20, restart: float = 0.1) -> Selection:
    """`n` documents that random walks with restart meet around each query's positives.

    Every document is linked to the `edges` nearest of `candidates` drawn at random; a walk starts at a positive of
    the query (without one, at its highest-ranked candidate), goes on to a random neighbour and returns to a start
    with probability `restart`; the first `n` documents met that are no known positives are kept, in the order met.
    Source: graph and walk of BatchSampler (Yang et al. 2023, arXiv 2306.03355: 1,000 drawn, 100 edges, restart 0.1),
    which builds whole batches; to walk from the positives of a query is our choice, as are fewer edges for our pools.
    """
    if not 0 <= restart < 1 or edges < 1 or candidates < 1:
        raise ValueError(f"needs 0 <= restart < 1, edges and candidates from 1, got {restart}, {edges}, {candidates}")
    quota, neighbours, starts = task.quota(), _neighbours(task, candidates, edges), _starts(task)
    met = [_walk(task, query, starts[query], neighbours, quota, restart) for query in range(len(task.query_ids))]
    queries = np.repeat(np.arange(len(met)), [len(items) for items in met])
    return task.from_pool(task.unranked(queries, np.concatenate([np.zeros(0, dtype=np.intp), *met])))


def _neighbours(task: Task, candidates: int, edges: int) -> list[IntArray]:
    """For every document the nearest of a random few others, nearest first."""
    _, pool = task.vectors
    linked = []
    for place, name in enumerate(task.pool_ids):
        others = len(pool) - 1
        drawn = np.sort(generator_of(task.seed, str(name)).choice(others, min(candidates, others), replace=False))
        drawn[drawn >= place] += 1  # all but the document itself
        order = np.argsort(-(pool[drawn] @ pool[place]), kind="stable")
        linked.append(drawn[order[:edges]])
    return linked


def _starts(task: Task) -> list[IntArray]:
    query, item = task.labelled(1)
    starts = np.split(item, np.searchsorted(query, np.arange(1, len(task.query_ids))))
    best = concatenate(ranked(task, np.zeros_like(task.candidates), np.minimum(task.candidates, 1)))
    first = dict(zip(best.query, best.item, strict=True))
    return [
        places if len(places) else np.array([first[number]] if number in first else [], dtype=np.intp)
        for number, places in enumerate(starts)
    ]


def _walk(task: Task, query: int, starts: IntArray, neighbours: list[IntArray], quota: int, restart: float) -> IntArray:
    """Documents in the order met, known positives left out."""
    rng, known = task.generator(query), task.known
    barred = set(known.indices[known.indptr[query] : known.indptr[query + 1]].tolist())
    met: dict[int, None] = {}
    here = None
    for _ in range(STEPS_A_NEGATIVE * quota if len(starts) else 0):
        if here is None or not len(neighbours[here]) or rng.random() < restart:
            here = int(rng.choice(starts))
        else:
            here = int(rng.choice(neighbours[here]))
        if here not in barred:
            met[here] = None
        if len(met) == quota:
            break
    return np.array(list(met), dtype=np.intp)
