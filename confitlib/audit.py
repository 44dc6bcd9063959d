"""How many mined negatives are false: exactly where the truth is known, else as a language model says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from confitlib.augment.tasks import language_of_corpus, load_prompt
from confitlib.corpus import SIDES, Corpus, Side, other
from confitlib.encoder.vectors import Embeddings
from confitlib.llm import Client, Request, prompt
from confitlib.llm.requests import fence
from confitlib.mining.negatives import Negatives, mined_counts, score_gaps
from confitlib.mining.ranking import band_window
from confitlib.mining.strategies import DocumentSet, MiningProblem, codes_at, document_ids, mine
from confitlib.text import texts

Z_95 = 1.959963984540054
VERDICT = re.compile(r"\W*(?:(yes|是)|(no|否))\W*", re.IGNORECASE)


@dataclass(frozen=True)
class FalseNegatives:
    """The share of negatives that are truly suitable, over all queries.

    `rate` with its 95 % interval `low` to `high` (see `clustered_wilson`); `score_gap` is the mean score gap
    from a query's training positives to its negatives (NaN without scores). `per_query`: the same counts, rate
    and score gap a query.
    """

    negatives: int
    suitable: int
    rate: float
    low: float
    high: float
    score_gap: float
    per_query: pd.DataFrame

    def summary(self) -> dict[str, float]:
        """All figures but those of single queries, for tables and records."""
        return {name: value for name, value in asdict(self).items() if name != "per_query"}


def false_negatives(negatives: Negatives, corpus: Corpus) -> FalseNegatives:
    """Judge mined negatives by the corpus's truth.

    Raises ValueError if the truth is unknown, KeyError if a negative is not in the corpus.
    """
    table, queries = negatives.table, negatives.queries
    truth = _truth(corpus, negatives.target)
    rows = corpus.positions(other(negatives.target), table["query_id"])
    suitable = codes_at(truth, rows, corpus.positions(negatives.target, table["negative_id"]))
    gap = score_gaps(table, queries)
    judged = pd.DataFrame({"query_id": table["query_id"], "suitable": suitable.astype(int), "gap": gap})
    grouped = judged.groupby("query_id")
    per_query = pd.DataFrame({"negatives": mined_counts(table, queries)})
    per_query["suitable"] = grouped["suitable"].sum().reindex(queries.index, fill_value=0)
    per_query["rate"] = per_query["suitable"] / per_query["negatives"]
    per_query["score_gap"] = grouped["gap"].mean()
    rate, low, high = clustered_wilson(per_query["suitable"].to_numpy(), per_query["negatives"].to_numpy())
    score_gap = float(gap.mean())
    return FalseNegatives(len(table), int(suitable.sum()), rate, low, high, score_gap, per_query)


def audit_bands(
    corpus: Corpus,
    embeddings: Embeddings,
    target: Side,
    edges: Sequence[float],
    *,
    pool: DocumentSet = "train",
    queries: DocumentSet = "labelled",
    device: str = "cpu",
) -> pd.DataFrame:
    """False-negative rate, score gap and mean score of the percentile bands between rising `edges`, in one pass.

    A row a band: `lo, hi, negatives, suitable, rate, low, high, score_gap, score`; each band holds what
    `mine("band", lo=lo, hi=hi)` returns. Raises ValueError on unusable edges or a corpus without truth.
    """
    if len(edges) < 2 or not (edges[0] >= 0 and edges[-1] <= 1 and (np.diff(edges) > 0).all()):
        raise ValueError(f"edges must rise between 0 and 1, got {list(edges)}")
    query_ids, pool_ids = document_ids(corpus, other(target), queries), document_ids(corpus, target, pool)
    problem = MiningProblem(corpus, target, query_ids, pool_ids, embeddings, None, 0, device=device)
    windows = [band_window(problem.candidates, lo, hi) for lo, hi in pairwise(edges)]
    start, stop = (np.array(bounds) for bounds in zip(*windows, strict=True))
    suitable, score = _totals(problem, start, stop)
    positive = problem.mean_positive_scores()
    rows = [_band_row(*counts, positive) for counts in zip(stop - start, suitable, score, strict=True)]
    return pd.DataFrame(rows).assign(lo=edges[:-1], hi=edges[1:])[["lo", "hi", *rows[0]]]


def same_group_bands(
    corpus: Corpus, embeddings: Embeddings, target: Side, groups: Mapping[str, str] | pd.Series, edges: Sequence[float]
) -> pd.DataFrame:
    """The share of mined documents from the group of the query's best-ranked document, by percentile band.

    A proxy for closeness where the truth is unknown: `groups` maps document ids to, say, a field of work. It
    says nothing of suitability. A row a band: `lo, hi, rate, low, high` (95 %, see `clustered_wilson`). Raises
    ValueError for a training document without a group.
    """
    known = corpus.pool(target, "train").to_series().map(groups)
    if known.isna().any():
        raise ValueError(f"groups names none for {target} {known.index[known.isna()][0]!r}: give every document one")
    ask: dict[str, Any] = {"target": target, "embeddings": embeddings, "queries": "train"}
    best = mine("top", corpus, n=1, **ask).table.set_index("query_id")["negative_id"].map(groups)
    rows = []
    for lo, hi in pairwise(edges):
        found = mine("band", corpus, lo=lo, hi=hi, **ask).table
        found = found[found["rank"] > 0]  # the best-ranked one itself proves nothing
        same = found["negative_id"].map(groups) == found["query_id"].map(best)
        counts = same.groupby(found["query_id"]).agg(["sum", "size"])
        rate, low, high = clustered_wilson(counts["sum"].to_numpy(), counts["size"].to_numpy())
        rows.append({"lo": lo, "hi": hi, "rate": rate, "low": low, "high": high})
    return pd.DataFrame(rows)


def clustered_wilson(hits: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[float, float, float]:
    """A pooled rate and its 95 % interval where observations come in clusters (the negatives of one query).

    hits, sizes: a cluster each. The Wilson score interval at the effective sample size, which is the number of
    observations divided by the design effect of the clusters (ratio estimator, at least 1). NaN without
    observations.
    """
    total = int(sizes.sum())
    if total == 0:
        return np.nan, np.nan, np.nan
    rate, clusters = hits.sum() / total, int((sizes > 0).sum())
    simple = rate * (1 - rate) / total
    clustered = clusters / max(1, clusters - 1) * float(((hits - rate * sizes) ** 2).sum()) / total**2
    effective = total / max(1.0, clustered / simple) if simple > 0 else total
    spread = Z_95**2 / effective
    centre = (rate + spread / 2) / (1 + spread)
    half = np.sqrt(rate * (1 - rate) * spread + spread**2 / 4) / (1 + spread)
    return float(rate), float(max(0.0, centre - half)), float(min(1.0, centre + half))


@dataclass(frozen=True)
class Judged:
    """The share of a sample of negatives that a language model calls suitable.

    `rate` with its 95 % interval `low` to `high` (see `clustered_wilson`) is over the `answered` of the `asked`
    pairs; the interval covers the sampling, not what the judge gets wrong. `problems` counts why the others have no
    answer. `pairs`: `query_id, negative_id, suitable` (missing without an answer), `problem` (empty with
    one), a row a sampled pair.
    """

    asked: int
    answered: int
    suitable: int
    rate: float
    low: float
    high: float
    problems: Mapping[str, int]
    pairs: pd.DataFrame


def judge_false_negatives(
    negatives: Negatives, corpus: Corpus, client: Client, *, sample: int = 200, seed: int = 0, progress: bool = True
) -> Judged:
    """Ask a language model whether mined documents suit their queries after all, for `sample` of them drawn by seed.

    Ours, for corpora whose truth is unknown. Answers come from the client's store where they are recorded, so an
    audit can be repeated offline; what is not answered is counted apart. Raises ValueError unless `sample` is positive.
    """
    if sample < 1:
        raise ValueError(f"sample={sample} must be at least 1")
    table = negatives.table[["query_id", "negative_id"]]
    drawn = np.random.default_rng(seed).choice(len(table), min(sample, len(table)), replace=False)
    pairs = table.iloc[np.sort(drawn)].reset_index(drop=True)
    requests = judge_requests(pairs, corpus, negatives.target, client.model)
    answers = client.complete(requests, check=one_word, progress=progress)
    verdicts = [None if answer.text is None else is_yes(answer.text) for answer in answers]
    pairs = pairs.assign(suitable=pd.array(verdicts, dtype="boolean"), problem=[one.problem or "" for one in answers])
    counts = pairs.groupby("query_id")["suitable"].agg(["sum", "count"]).astype(int)
    rate, low, high = clustered_wilson(counts["sum"].to_numpy(), counts["count"].to_numpy())
    problems = Counter(answer.problem.split(":")[0] for answer in answers if answer.problem)
    return Judged(len(pairs), int(counts["count"].sum()), int(counts["sum"].sum()), rate, low, high, problems, pairs)


def judge_requests(pairs: pd.DataFrame, corpus: Corpus, target: Side, model: str) -> list[Request]:
    """What the judge is asked about pairs of `query_id` and `negative_id`; document texts cannot close their fence.

    Chinese corpora are asked about in Chinese. The prompt is ours; temperature 0.
    """
    columns = {target: "negative_id", other(target): "query_id"}
    documents = {side: texts(corpus, side, hyre=False).loc[pairs[columns[side]]] for side in SIDES}
    template = load_prompt("judge", language_of_corpus(corpus, "job"))["user"]
    return [
        Request(
            model,
            prompt(template.substitute(resume=fence("resume", resume), job=fence("job", job))),
            temperature=0.0,
            about=query,
        )
        for query, resume, job in zip(pairs["query_id"], documents["resume"], documents["job"], strict=True)
    ]


def one_word(request: Request, reply: str) -> str | None:
    """What is wrong with a judge's reply, or None: it must be yes or no alone."""
    return None if VERDICT.fullmatch(reply) else "neither yes nor no"


def is_yes(reply: str) -> bool:
    """The verdict of a reply that `one_word` accepts."""
    found = VERDICT.fullmatch(reply)
    return found is not None and found[1] is not None


def _truth(corpus: Corpus, target: Side) -> csr_array:
    """Truth with the queries as rows."""
    if corpus.truth is None:
        raise ValueError(f"corpus {corpus.name!r} has no truth: only the synthetic market knows every pair")
    return csr_array(corpus.truth.T if target == "resume" else corpus.truth)


def _totals(
    problem: MiningProblem, start: NDArray[np.intp], stop: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Suitable documents and summed scores in the windows `[bands, Q]` of each query's ranking."""
    truth = _truth(problem.corpus, problem.target)
    truth = truth[problem.corpus.positions(other(problem.target), problem.query_ids)]
    truth = truth[:, problem.corpus.positions(problem.target, problem.pool_ids)]
    suitable, score = np.zeros(start.shape, dtype=np.int64), np.zeros(start.shape)
    for hits in problem.ranked(np.zeros_like(problem.candidates), problem.candidates):
        if not len(hits.query):
            continue
        # the block's rankings side by side  [block, N]
        rows = slice(int(hits.query[0]), int(hits.query[-1]) + 1)
        places = hits.query - rows.start, hits.rank
        fits, scores = (np.zeros((rows.stop - rows.start, truth.shape[1]), dtype=kind) for kind in (np.int64, float))
        fits[places], scores[places] = codes_at(truth, hits.query, hits.item), hits.score
        suitable[:, rows] = _window_sums(fits, start[:, rows], stop[:, rows])
        score[:, rows] = _window_sums(scores, start[:, rows], stop[:, rows])
    return suitable, score


def _window_sums(values: NDArray[np.generic], start: NDArray[np.intp], stop: NDArray[np.intp]) -> NDArray[np.generic]:
    """Sums of `values [Q, N]` over the windows `start, stop [bands, Q]`, `[bands, Q]`."""
    sums = np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))
    rows = np.arange(len(values))
    return sums[rows, stop] - sums[rows, start]


def _band_row(
    sizes: NDArray[np.int64], suitable: NDArray[np.int64], score: NDArray[np.float64], positive: NDArray[np.float64]
) -> dict[str, float]:
    rate, low, high = clustered_wilson(suitable, sizes)
    scored = (sizes > 0) & ~np.isnan(positive)  # a query without training positives has no gap
    score_gap = _ratio((positive * sizes - score)[scored].sum(), sizes[scored].sum())
    counts = {"negatives": int(sizes.sum()), "suitable": int(suitable.sum())}
    interval = {"rate": rate, "low": low, "high": high}
    return counts | interval | {"score_gap": score_gap, "score": _ratio(score.sum(), sizes.sum())}


def _ratio(total: float, count: int) -> float:
    return float(total / count) if count else np.nan


def batch_collisions(corpus: Corpus, batch_sizes: Sequence[int], batches: int = 400, seed: int = 0) -> pd.DataFrame:
    """How often a random batch of positive pairs holds a false negative among its in-batch negatives.

    Returns, by `batch_size`, the share of batches with a cross pair that the labels know to be positive
    (`known`) and, where the corpus has its truth, with one that is truly suitable (`suitable`).
    """
    positives = corpus.labelled("train", 1)
    rows = corpus.positions("resume", positives["resume_id"])
    columns = corpus.positions("job", positives["job_id"])
    rng = np.random.default_rng(seed)
    shares = {}
    for size in batch_sizes:
        draws = [rng.choice(len(rows), min(size, len(rows)), replace=False) for _ in range(batches)]
        matrices = {"known": corpus.known_positives(), "suitable": corpus.truth}
        shares[size] = {
            kind: np.mean([_collides(matrix, rows[draw], columns[draw]) for draw in draws])
            for kind, matrix in matrices.items()
            if matrix is not None
        }
    return pd.DataFrame.from_dict(shares, orient="index").rename_axis("batch_size")


def _collides(matrix: csr_array, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> bool:
    block = matrix[rows][:, columns].toarray()
    np.fill_diagonal(block, False)
    return bool(block.any())
