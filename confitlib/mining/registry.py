"""One call for every strategy: the registry, the checks of its parameters, and the finished table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from confitlib.corpus import LABEL_COLUMNS, REASONS, SIDES, Corpus, Side, empty_frame, other
from confitlib.mining.band import band, top
from confitlib.mining.choice import chosen_band
from confitlib.mining.graph import graph
from confitlib.mining.kernel import UNRANKED
from confitlib.mining.labelled import rejected
from confitlib.mining.negatives import QUERY_COLUMNS, Negatives, describe_mining
from confitlib.mining.positive_aware import band_aware, positive_aware
from confitlib.mining.sampled import ance, simans, trisampler
from confitlib.mining.synthetic import synthetic
from confitlib.mining.task import DocumentSet, Embeddings, Selection, Task, document_ids
from confitlib.mining.uniform import in_batch, random
from confitlib.mining.words import bm25, passage_bm25

Strategy = Callable[..., Selection]
STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        strategy.__name__: strategy
        for strategy in (
            *(in_batch, random, rejected, bm25, passage_bm25, top, band),
            *(ance, simans, trisampler, positive_aware, band_aware, chosen_band, graph, synthetic),
        )
    }
)


def mine(
    strategy: str,
    corpus: Corpus,
    *,
    target: Side,
    embeddings: Embeddings | None = None,
    n: int | None = None,
    seed: int = 0,
    pool: DocumentSet = "train",
    queries: DocumentSet = "labelled",
    official: bool = False,
    block: int | None = None,
    device: str = "cpu",
    **parameters: Any,
) -> Negatives:
    """Mine negatives of the `target` side for every query of the other side, by one of `STRATEGIES`.

    n: how many to keep a query, drawn with the seed (None: all that the strategy selects). pool, queries: all
    training documents ("train") or those in training labels ("labelled"). official (band only): the released
    procedure, whose pool and queries are both "labelled". block: queries ranked at a time. parameters: those
    of the strategy, e.g. `lo` and `hi` of "band". Raises ValueError for whatever does not fit.
    """
    if official:
        pool = queries = "labelled"
    _check(strategy, target, n, seed, official, parameters)
    query_ids = document_ids(corpus, other(target), queries)
    pool_ids = document_ids(corpus, target, pool, written=strategy == "synthetic")
    task = Task(corpus, target, query_ids, pool_ids, embeddings, n, seed, official, block, device)
    selection = STRATEGIES[strategy](task, **parameters)
    settings = {"n": n, "seed": seed, "pool": pool, "queries": queries, "official": official}
    used = {name: default.default for name, default in _parameters(strategy).items()} | parameters
    return _negatives(task, selection, {"strategy": strategy, "corpus": corpus.name, **settings, **used})


def check_mining(strategy: str, **parameters: Any) -> None:
    """Raise the ValueError of `mine` for parameters that no corpus can make good, before there are embeddings."""
    empty = pd.DataFrame({"text": pd.Series(dtype="str"), "split": pd.Series(dtype="str")}, pd.Index([], dtype="str"))
    nobody = Corpus(empty, empty, empty_frame(LABEL_COLUMNS))
    nothing = Embeddings(np.zeros((0, 1), dtype=np.float32), np.zeros((0, 1), dtype=np.float32))
    for side in SIDES:
        mine(corpus=nobody, target=side, **{"strategy": strategy, "embeddings": nothing, **parameters})


def _parameters(strategy: str) -> dict[str, inspect.Parameter]:
    """The parameters a strategy takes besides the task."""
    return dict(list(inspect.signature(STRATEGIES[strategy]).parameters.items())[1:])


def _check(strategy: str, target: str, n: int | None, seed: int, official: bool, parameters: Mapping[str, Any]) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r} is unknown; use one of {sorted(STRATEGIES)}")
    if target not in SIDES:
        raise ValueError(f"target {target!r} is unknown; use one of {list(SIDES)}")
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1 or None, got {n}")
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")
    if official and strategy != "band":
        raise ValueError(f"official=True is the released band mining; strategy {strategy!r} has no such form")
    unknown = sorted(set(parameters) - set(_parameters(strategy)))
    if unknown:
        raise ValueError(f"strategy {strategy!r} takes {sorted(_parameters(strategy))}, not {unknown}")


def _negatives(task: Task, selection: Selection, parameters: dict[str, object]) -> Negatives:
    picks = selection.picks
    rank = pd.array(picks.rank, dtype="Int64")
    rank[picks.rank == UNRANKED] = pd.NA
    table = pd.DataFrame(
        {
            "query_id": task.query_ids[picks.query],
            "negative_id": task.pool_ids[picks.item],
            "rank": rank,
            "percentile": np.where(picks.rank == UNRANKED, np.nan, picks.rank / selection.candidates[picks.query]),
            "score": picks.score,
        }
    )
    counts = dict(zip(REASONS, selection.removed.T, strict=True))
    queries = pd.DataFrame({"candidates": selection.candidates, **counts}, index=task.query_ids).astype("Int64")
    queries["positive_score"] = task.mean_positive_scores()
    queries = queries[QUERY_COLUMNS].rename_axis("query_id")
    found = describe_mining(table, queries, task.positive_scores(), task.n)
    return Negatives(task.target, table, queries, found, parameters)
