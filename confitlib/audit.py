"""How many mined negatives are false: exactly where the truth is known, else as a language model says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from confitlib.util import checked

Z_95 = 1.959963984540054
VERDICTS = {"yes": True, "是": True, "no": False, "否": False}


@dataclass(frozen=True)
class FalseNegatives:
    """The share of negatives that are truly suitable, over all queries.

    `rate` with its 95 % interval `low` to `high` (see `clustered_wilson`); `score_gap` is the mean gap from a query's
    training positives down to its negatives (NaN without scores): the smaller, the harder they are. `per_query`: the
    same counts, rate and gap a query.
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
        return {name: value for name, value in vars(self).items() if name != "per_query"}


@checked
def false_negatives(negatives: Negatives, corpus: Corpus) -> FalseNegatives:
    """Judge mined negatives by the corpus's truth.

    Raises ValueError if the truth is unknown, KeyError if a negative is not in the corpus.

    >>> from confitlib import Embeddings, compose, false_negatives, load_encoder, mine
    >>> corpus = compose("tiny").corpus
    >>> embeddings = Embeddings.of_corpus(load_encoder("static"), corpus)
    >>> negatives = mine("band", corpus, target="resume", embeddings=embeddings, lo=0.03, hi=0.04)
    >>> round(false_negatives(negatives, corpus).rate, 2)
    0.05
    """
    table, target = negatives.table, negatives.target
    rows, columns = corpus.positions(other(target), table["query_id"]), corpus.positions(target, table["negative_id"])
    suitable, gaps = codes_at(_truth(corpus, target), rows, columns), score_gaps(table, negatives.queries)
    judged = pd.DataFrame({"suitable": suitable.astype(int), "gap": gaps}).groupby(table["query_id"])
    per_query = pd.DataFrame({"negatives": mined_counts(table, negatives.queries)})
    per_query["suitable"] = judged["suitable"].sum().reindex(per_query.index, fill_value=0)
    per_query["rate"] = per_query["suitable"] / per_query["negatives"]
    per_query["score_gap"] = judged["gap"].mean()
    interval = clustered_wilson(per_query["suitable"].to_numpy(), per_query["negatives"].to_numpy())
    return FalseNegatives(len(table), int(suitable.sum()), *interval, float(gaps.mean()), per_query)


def _truth(corpus: Corpus, target: Side) -> csr_array:
    """Truth with the queries as rows."""
    if corpus.truth is None:
        raise ValueError(f"corpus {corpus.name!r} has no truth: only the synthetic market knows every pair")
    return csr_array(corpus.truth.T if target == "resume" else corpus.truth)


@checked
def audit_bands(
    corpus: Corpus, embeddings: Embeddings, target: Side, edges: Sequence[float], queries: DocumentSet = "labelled"
) -> pd.DataFrame:
    """False-negative rate, score gap and mean score of the percentile bands between rising `edges`, in one pass.

    A row a band: `lo, hi, negatives, suitable, rate, low, high, score_gap, score`; each band holds what
    `mine("band", lo=lo, hi=hi)` returns. Raises ValueError on unusable edges or a corpus without truth.

    >>> from confitlib import Embeddings, audit_bands, compose, load_encoder
    >>> corpus = compose("tiny").corpus
    >>> embeddings = Embeddings.of_corpus(load_encoder("static"), corpus)
    >>> audit_bands(corpus, embeddings, "resume", [0, 0.05, 0.5, 1])["rate"].round(2).tolist()
    [0.09, 0.03, 0.01]
    """
    if len(edges) < 2 or not (edges[0] >= 0 and edges[-1] <= 1 and (np.diff(edges) > 0).all()):
        raise ValueError(f"edges must rise between 0 and 1, got {list(edges)}")
    query_ids, pool_ids = document_ids(corpus, other(target), queries), document_ids(corpus, target, "train")
    problem = MiningProblem(corpus, target, query_ids, pool_ids, embeddings, None, 0)
    truth = _truth(corpus, target)[corpus.positions(other(target), query_ids)][:, corpus.positions(target, pool_ids)]
    # 1. the ranks where each band of each query starts and stops  [bands, Q]
    start, stop = np.stack([band_window(problem.candidates, lo, hi) for lo, hi in pairwise(edges)], axis=1)
    # 2. suitable documents and summed scores in each band  [bands, Q]
    suitable, score = np.zeros(start.shape, dtype=np.int64), np.zeros(start.shape)
    for hits in problem.ranked(start.min(axis=0), stop.max(axis=0)):
        fits = codes_at(truth, hits.query, hits.item)
        for band in range(len(start)):
            inside = (hits.rank >= start[band, hits.query]) & (hits.rank < stop[band, hits.query])
            np.add.at(suitable[band], hits.query[inside], fits[inside])
            np.add.at(score[band], hits.query[inside], hits.score[inside])
    # 3. a row a band
    sizes, positive = stop - start, problem.positive_scores()
    gaps = np.nansum(positive * sizes - score, axis=1)  # a query without training positives has no gap
    table = pd.DataFrame({"lo": edges[:-1], "hi": edges[1:], "negatives": sizes.sum(axis=1)})
    table["suitable"] = suitable.sum(axis=1)
    table[["rate", "low", "high"]] = [clustered_wilson(*counts) for counts in zip(suitable, sizes, strict=True)]
    table["score_gap"] = pd.Series(gaps) / sizes[:, ~np.isnan(positive)].sum(axis=1)
    return table.assign(score=score.sum(axis=1) / table["negatives"])


def same_group_bands(
    corpus: Corpus, embeddings: Embeddings, target: Side, groups: Mapping[str, str] | pd.Series, edges: Sequence[float]
) -> pd.DataFrame:
    """The share of mined documents from the group of the query's best-ranked document, by percentile band.

    A proxy for closeness where the truth is unknown: `groups` maps document ids to, say, a field of work. It
    says nothing of suitability. A row a band: `lo, hi, rate, low, high` (95 %, see `clustered_wilson`). Raises
    ValueError for a training document without a group.
    """
    named = corpus.pool(target, "train").to_series().map(groups)
    if named.isna().any():
        raise ValueError(f"groups names none for {target} {named.index[named.isna()][0]!r}: give every document one")
    ask: dict[str, Any] = {"target": target, "embeddings": embeddings, "queries": "train"}
    best = mine("top", corpus, n=1, **ask).table.set_index("query_id")["negative_id"].map(groups)
    rows = []
    for lo, hi in pairwise(edges):
        table = mine("band", corpus, lo=lo, hi=hi, **ask).table
        table = table[table["rank"] > 0]  # the best-ranked one itself proves nothing
        same = table["negative_id"].map(groups) == table["query_id"].map(best)
        counts = same.groupby(table["query_id"]).agg(["sum", "size"])
        rows.append((lo, hi, *clustered_wilson(counts["sum"].to_numpy(), counts["size"].to_numpy())))
    return pd.DataFrame(rows, columns=["lo", "hi", "rate", "low", "high"])


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
    negatives: Negatives, corpus: Corpus, client: Client, *, sample: int = 200, seed: int = 0
) -> Judged:
    """Ask a language model whether mined documents suit their queries after all, for `sample` of them drawn by seed.

    Ours, for corpora whose truth is unknown. Answers come from the client's store where they are recorded, so an
    audit can be repeated offline; what is not answered is counted apart. Raises ValueError unless `sample` is positive.
    """
    if sample < 1:
        raise ValueError(f"sample={sample} must be at least 1")
    table = negatives.table[["query_id", "negative_id"]]
    draw = np.random.default_rng(seed).choice(len(table), min(sample, len(table)), replace=False)
    pairs = table.iloc[np.sort(draw)].reset_index(drop=True)
    requests = judge_requests(pairs, corpus, negatives.target, client.model)
    answers = client.complete(requests, check=lambda _, reply: "neither yes nor no" if verdict(reply) is None else None)
    verdicts = [None if answer.text is None else verdict(answer.text) for answer in answers]
    pairs = pairs.assign(suitable=pd.array(verdicts, dtype="boolean"), problem=[one.problem or "" for one in answers])
    counts = pairs.groupby("query_id")["suitable"].agg(["sum", "count"]).astype(int)
    interval = clustered_wilson(counts["sum"].to_numpy(), counts["count"].to_numpy())
    asked, answered, suitable = len(pairs), int(counts["count"].sum()), int(counts["sum"].sum())
    return Judged(asked, answered, suitable, *interval, client.summary.problems, pairs)


def judge_requests(pairs: pd.DataFrame, corpus: Corpus, target: Side, model: str) -> list[Request]:
    """What the judge is asked about pairs of `query_id` and `negative_id`; document texts cannot close their fence.

    Chinese corpora are asked about in Chinese. The prompt is ours; temperature 0.
    """
    columns = {target: "negative_id", other(target): "query_id"}
    fenced = (texts(corpus, side, hyre=False).loc[pairs[columns[side]]].map(partial(fence, side)) for side in SIDES)
    template = load_prompt("judge", language_of_corpus(corpus, "job"))["user"]
    asked = zip(pairs["query_id"], *fenced, strict=True)
    return [Request(model, prompt(template.substitute(resume=a, job=b)), temperature=0.0, about=q) for q, a, b in asked]


def verdict(reply: str) -> bool | None:
    """Whether a judge's reply says yes or no; None unless it is one of these words alone."""
    return VERDICTS.get(re.sub(r"^\W+|\W+$", "", reply).lower())


def batch_collisions(corpus: Corpus, batch_sizes: Sequence[int], batches: int = 400, seed: int = 0) -> pd.DataFrame:
    """How often a random batch of positive pairs holds a false negative among its in-batch negatives.

    Returns, by `batch_size`, the share of batches with a cross pair that the labels know to be positive
    (`known`) and, where the corpus has its truth, with one that is truly suitable (`suitable`).
    """
    positives = corpus.labelled("train", 1)
    rows, columns = (corpus.positions(side, positives[f"{side}_id"]) for side in SIDES)
    matrices = {"known": corpus.known_positives()} | ({} if corpus.truth is None else {"suitable": corpus.truth})
    rng, found = np.random.default_rng(seed), []
    for size in batch_sizes:
        for _ in range(batches):
            draw = rng.choice(len(rows), min(size, len(rows)), replace=False)
            crosses = [matrix[rows[draw]][:, columns[draw]].toarray() for matrix in matrices.values()]  # [size, size]
            found.append((size, *((cross & ~np.eye(len(draw), dtype=bool)).any() for cross in crosses)))
    return pd.DataFrame(found, columns=["batch_size", *matrices]).groupby("batch_size", sort=False).mean()
