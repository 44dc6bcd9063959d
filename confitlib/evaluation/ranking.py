"""Rank resumes for a job or jobs for a resume, over full pools or over given candidate lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm.auto import tqdm

from confitlib.corpus import SIDES, Corpus, Side, Split, other
from confitlib.evaluation.intervals import summarise
from confitlib.evaluation.metrics import COUNTS, DEFAULT_KS, Rows, random_baseline, rank_metrics
from confitlib.evaluation.scorer import Scorer, checked

Candidates = Literal["pool", "lists"]
Relevance = Literal["truth", "labels"]

Block = tuple[list[str], Rows, Rows]

BLOCK_CELLS = 2**24  # scores asked of a ranker at a time: 64 MiB of float32


@dataclass(frozen=True, eq=False)
class RankingResult:
    """The metrics of one ranker by query (`queries`, a frame of `rank_metrics`) and what was evaluated.

    `notes` says in words which queries and which k were left out.
    """

    ranker: str
    target: Side
    split: Split
    candidates: Candidates
    relevance: Relevance
    queries: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in column order."""
        return [column for column in self.queries.columns if column not in COUNTS]

    @property
    def used(self) -> int:
        """Number of queries with positives: those the means are taken over."""
        return int((self.queries["positives"] > 0).sum())

    @property
    def skipped(self) -> int:
        """Number of queries without positives."""
        return len(self.queries) - self.used

    def means(self) -> dict[str, float]:
        """The mean of each metric over the queries with positives."""
        return {metric: float(self.queries[metric].mean()) for metric in self.metrics}

    def summary(self, seed: int = 0) -> pd.DataFrame:
        """Mean and 95 % bootstrap interval of each metric: rows `metric`, columns `mean, low, high`."""
        return summarise(self.queries, seed)

    def random(self) -> dict[str, float]:
        """The means that a random order of the same candidates is expected to reach."""
        ks = [int(metric.removeprefix("recall@")) for metric in self.metrics if metric.startswith("recall@")]
        counts = zip(self.queries["candidates"], self.queries["positives"], strict=True)
        baseline = random_baseline([np.arange(size) < positives for size, positives in counts], ks)
        return {metric: float(baseline[metric].mean()) for metric in self.metrics}


def evaluate_ranking(
    ranker: Scorer,
    corpus: Corpus,
    target: Side,
    split: Split = "test",
    candidates: Candidates = "pool",
    relevance: Relevance | None = None,
    ks: Sequence[int] | None = None,
) -> RankingResult:
    """Rank the documents of `target` for every query of the other side, as the papers do.

    `candidates`: "pool" ranks all documents of the split, "lists" the candidate lists of the corpus.
    `relevance`: "truth" or "labels" (label 1 is relevant; 0, -1 and unlabelled are not, as in the
    official `eval.py`). Default: truth for pools where the corpus knows it, else labels. In a pool
    judged by labels, pairs accepted in another split are no candidates (warm regime).
    `ks` defaults to 10 and 100; a k beyond the longest candidate list is left out, with a note.

    Raises ValueError if nothing can be ranked, or for scores of the wrong shape or with NaN.
    """
    for value, allowed in (
        (target, SIDES),
        (candidates, get_args(Candidates)),
        (relevance, (None, *get_args(Relevance))),
    ):
        if value not in allowed:
            raise ValueError(f"{value!r} is unknown here: use one of {allowed}")
    known = corpus.truth is not None and candidates == "pool"
    relevance = relevance or ("truth" if known else "labels")
    longest = _longest(corpus, target, split, candidates)
    wanted = DEFAULT_KS if ks is None else tuple(ks)
    kept = [k for k in wanted if k <= longest]
    blocks = (_pool_blocks if candidates == "pool" else _list_blocks)(ranker, corpus, target, split, relevance)
    queries = pd.concat([rank_metrics(scores, relevant, kept, ids) for ids, scores, relevant in blocks])
    notes = _notes(queries, wanted, longest)
    return RankingResult(ranker.name, target, split, candidates, relevance, queries, notes)


def _longest(corpus: Corpus, target: Side, split: Split, candidates: Candidates) -> int:
    """The largest number of candidates of a query; an error that says what is missing if there is none."""
    if candidates == "lists":
        sizes = _listed(corpus, target, split)["query_id"].value_counts()
        if sizes.empty:
            what = f"corpus {corpus.name!r} has no {split} lists that rank {target}s"
            raise ValueError(f"{what}: use candidates='pool', or a corpus with candidate lists")
        return int(sizes.max())
    for side in SIDES:
        if corpus.pool(side, split).empty:
            raise ValueError(f"corpus {corpus.name!r} has no {side}s in split {split!r}: choose another split")
    return len(corpus.pool(target, split))


def _notes(queries: pd.DataFrame, ks: Sequence[int], longest: int) -> tuple[str, ...]:
    notes = [f"k = {k} left out: no query has more than {longest} candidates" for k in ks if k > longest]
    notes += [f"recall@{k} is 1 for any order: no query has more candidates" for k in ks if k == longest]
    skipped = int((queries["positives"] == 0).sum())
    if skipped:
        notes.append(f"{skipped} of {len(queries)} queries have no positive and are left out of the means")
    return tuple(notes)


def _list_blocks(ranker: Scorer, corpus: Corpus, target: Side, split: Split, relevance: Relevance) -> Iterator[Block]:
    """Query ids, scores and relevance of the candidate lists, in one block."""
    listed = _listed(corpus, target, split)
    relevant = (listed["label"] == 1).to_numpy()
    if relevance == "truth":
        cells = corpus.positions("resume", listed["resume_id"]), corpus.positions("job", listed["job_id"])
        relevant = np.asarray(_judgements(corpus, "truth")[cells])
    lists = {str(query): entries for query, entries in listed.assign(relevant=relevant).groupby("query_id", sort=False)}
    scores = [
        _scores(ranker, target, [query], list(entries["candidate_id"]))[0]
        for query, entries in tqdm(lists.items(), desc=f"{ranker.name}: rank {target}s", unit="list", delay=2)
    ]
    yield list(lists), scores, [entries["relevant"].to_numpy() for entries in lists.values()]


def _pool_blocks(ranker: Scorer, corpus: Corpus, target: Side, split: Split, relevance: Relevance) -> Iterator[Block]:
    """Query ids, scores and relevance of the full pool, as many queries at a time as memory allows."""
    pool, queries = list(corpus.pool(target, split)), list(corpus.pool(other(target), split))
    known = _judgements(corpus, relevance)
    relevant = corpus.known_positives(split) if relevance == "labels" else known
    barred = known > relevant
    step = max(1, BLOCK_CELLS // len(pool))
    starts = range(0, len(queries), step)
    for start in tqdm(starts, desc=f"{ranker.name}: rank {target}s", unit="block", delay=2):
        ids = queries[start : start + step]
        blocks = (_block(matrix, corpus, target, ids, pool) for matrix in (relevant, barred))
        yield ids, *_without(_scores(ranker, target, ids, pool), *blocks)


def _scores(ranker: Scorer, target: Side, queries: list[str], pool: list[str]) -> NDArray[Any]:
    """Scores `[queries, pool]`."""
    resume_ids, job_ids = (pool, queries) if target == "resume" else (queries, pool)
    scores = checked(ranker, ranker.score(resume_ids, job_ids, target=target), (len(resume_ids), len(job_ids)))
    return np.ascontiguousarray(scores.T) if target == "resume" else scores


def _block(matrix: csr_array, corpus: Corpus, target: Side, queries: list[str], pool: list[str]) -> NDArray[np.bool_]:
    """The cells `[queries, pool]` of a matrix of all resumes by all jobs."""
    if target == "resume":
        return matrix[corpus.positions("resume", pool)][:, corpus.positions("job", queries)].toarray().T
    return matrix[corpus.positions("resume", queries)][:, corpus.positions("job", pool)].toarray()


def _without(scores: NDArray[Any], relevant: NDArray[np.bool_], barred: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """Scores and relevance of the candidates that are not barred."""
    if not barred.any():
        return scores, relevant
    kept = list(~barred)
    scores_kept, relevant_kept = ([row[k] for row, k in zip(rows, kept, strict=True)] for rows in (scores, relevant))
    return scores_kept, relevant_kept


def _judgements(corpus: Corpus, relevance: Relevance) -> csr_array:
    """All pairs judged relevant in any split, `[n_resumes, n_jobs]`."""
    if relevance == "labels":
        return corpus.known_positives()
    if corpus.truth is None:
        raise ValueError(f"corpus {corpus.name!r} has no truth: use relevance='labels'")
    return corpus.truth


def _listed(corpus: Corpus, target: Side, split: Split) -> pd.DataFrame:
    """The candidate lists of one target and split, with the pair of each entry as `resume_id, job_id`."""
    rankings = corpus.rankings
    listed = rankings[(rankings["target"] == target) & (rankings["split"] == split)]
    ends = {f"{target}_id": listed["candidate_id"], f"{other(target)}_id": listed["query_id"]}
    return listed.assign(**ends)
