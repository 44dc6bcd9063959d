"""Evaluate a ranker on a corpus: rankings of pools or lists, classified pairs, and lists with human grades."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata
from tqdm.auto import tqdm

from confitlib.corpus import SIDES, SPLITS, Corpus, Side, Split, other
from confitlib.evaluation.metrics import COUNTS, DEFAULT_KS, Rows, random_baseline, rank_metrics
from confitlib.evaluation.statistics import bootstrap_interval, summarise
from confitlib.util import checked

Candidates = Literal["pool", "lists"]
Gains = Literal["exponential", "linear"]
Relevance = Literal["truth", "labels"]

Block = tuple[list[str], Rows, Rows]  # query ids, and of each query the scores and relevance of its candidates

BLOCK_CELLS = 2**24  # scores asked of a ranker at a time: 64 MiB of float32
CLASSIFICATION = ["f1_weighted", "roc_auc", "precision", "recall"]


class Scorer(Protocol):
    """A ranker: it has a name and scores pairs of documents; higher scores are better."""

    name: str

    def score(self, resume_ids: Sequence[str], job_ids: Sequence[str], target: Side = "resume") -> NDArray[Any]:
        """Scores of every pair, `[len(resume_ids), len(job_ids)]`; `target` is the side that is ranked."""

    def score_pairs(self, resume_ids: Sequence[str], job_ids: Sequence[str]) -> NDArray[Any]:
        """Scores of aligned pairs, `[len(resume_ids)]`."""


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
    def used(self) -> int:
        """Number of queries with positives: those the means are taken over."""
        return int((self.queries["positives"] > 0).sum())

    def means(self) -> dict[str, float]:
        """The mean of each metric over the queries with positives."""
        return {str(metric): float(values.mean()) for metric, values in self.queries.drop(columns=COUNTS).items()}

    def summary(self, seed: int = 0) -> pd.DataFrame:
        """Mean and 95 % bootstrap interval of each metric: rows `metric`, columns `mean, low, high`."""
        return summarise(self.queries, seed)

    def random(self) -> dict[str, float]:
        """The means that a random order of the same candidates is expected to reach."""
        ks = [int(name.removeprefix("recall@")) for name in map(str, self.queries) if name.startswith("recall@")]
        relevant = [np.arange(size) < positives for size, positives in self.queries[COUNTS].to_numpy()]
        return replace(self, queries=random_baseline(relevant, ks)).means()


@checked
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

    >>> from confitlib import BM25, compose, evaluate_ranking
    >>> corpus = compose("tiny").corpus
    >>> result = evaluate_ranking(BM25().fit(corpus), corpus, "resume", ks=[10])
    >>> {metric: round(mean, 2) for metric, mean in result.means().items()}
    {'recall@10': 0.18, 'ndcg@10': 0.16, 'map': 0.16, 'mrr': 0.29}
    """
    # 1. who says what is relevant
    relevance = relevance or ("truth" if corpus.truth is not None and candidates == "pool" else "labels")
    judged = corpus.known_positives() if relevance == "labels" else corpus.truth  # in any split  [resumes, jobs]
    if judged is None:
        raise ValueError(f"corpus {corpus.name!r} has no truth: use relevance='labels'")
    # 2. the metrics of every query, a block of queries at a time
    wanted, rank = DEFAULT_KS if ks is None else tuple(ks), _rank_pool if candidates == "pool" else _rank_lists
    blocks = rank(ranker, corpus, target, split, relevance, judged)
    queries = pd.concat([rank_metrics(scores, relevant, wanted, ids) for ids, scores, relevant in blocks])
    # 3. a cutoff beyond the longest list would count every candidate: it is left out
    longest = queries["candidates"].max()
    queries = queries.drop(columns=[f"{name}@{k}" for k in wanted if k > longest for name in ("recall", "ndcg")])
    notes = [f"k = {k} left out: no query has more than {longest} candidates" for k in wanted if k > longest]
    notes += ["no query has two candidates: every order has the same metrics"] if longest < 2 else []
    notes += [f"recall@{k} is 1 for any order: no query has more candidates" for k in wanted if k == longest]
    if skipped := int((queries["positives"] == 0).sum()):
        notes.append(f"{skipped} of {len(queries)} queries have no positive and are left out of the means")
    return RankingResult(ranker.name, target, split, candidates, relevance, queries, tuple(notes))


def _rank_pool(
    ranker: Scorer, corpus: Corpus, target: Side, split: Split, relevance: Relevance, judged: csr_array
) -> Iterator[Block]:
    """The full pool for every query, as many queries at a time as memory allows."""
    for side in SIDES:
        if corpus.pool(side, split).empty:
            raise ValueError(f"corpus {corpus.name!r} has no {side}s in split {split!r}: choose another split")
    pool, queries = list(corpus.pool(target, split)), list(corpus.pool(other(target), split))
    # 1. what is relevant, and what was accepted in another split and is no candidate  [queries, candidates]
    relevant = corpus.known_positives(split) if relevance == "labels" else judged
    rows, columns = (corpus.positions(side, corpus.pool(side, split)) for side in SIDES)
    relevant, barred = (matrix[rows][:, columns] for matrix in (relevant, judged > relevant))
    if target == "resume":
        relevant, barred = relevant.T.tocsr(), barred.T.tocsr()
    # 2. scores of a block
    step = max(1, BLOCK_CELLS // len(pool))
    for start in tqdm(range(0, len(queries), step), desc=f"{ranker.name}: rank {target}s", unit="block", delay=2):
        ids = queries[start : start + step]
        scores: Rows = _scores(ranker, target, ids, pool)
        hits: Rows = relevant[start : start + step].toarray()
        stay = ~barred[start : start + step].toarray()
        if not stay.all():
            scores, hits = ([row[s] for row, s in zip(part, stay, strict=True)] for part in (scores, hits))
        yield ids, scores, hits


def _rank_lists(
    ranker: Scorer, corpus: Corpus, target: Side, split: Split, relevance: Relevance, judged: csr_array
) -> Iterator[Block]:
    """All candidate lists, in one block."""
    listed = corpus.rankings[(corpus.rankings["target"] == target) & (corpus.rankings["split"] == split)]
    if listed.empty:
        raise ValueError(f"corpus {corpus.name!r} has no {split} lists that rank {target}s: use candidates='pool'")
    # 1. which listed candidates are relevant  [rows of the lists]
    relevant = (listed["label"] == 1).to_numpy()
    if relevance == "truth":
        ids = {target: listed["candidate_id"], other(target): listed["query_id"]}
        rows, columns = (corpus.positions(side, ids[side]) for side in SIDES)
        relevant = np.asarray(judged[rows, columns])
    lists = {str(query): part for query, part in listed.assign(relevant=relevant).groupby("query_id", sort=False)}
    # 2. scores of each list
    bar = tqdm(lists.items(), desc=f"{ranker.name}: rank {target}s", unit="list", delay=2)
    scores = [_scores(ranker, target, [query], list(part["candidate_id"]))[0] for query, part in bar]
    yield list(lists), scores, [part["relevant"].to_numpy() for part in lists.values()]


def _scores(ranker: Scorer, target: Side, queries: list[str], pool: list[str]) -> NDArray[Any]:
    """Scores `[queries, pool]`."""
    pairs = (pool, queries) if target == "resume" else (queries, pool)
    scores = _checked(ranker, ranker.score(*pairs, target=target), *map(len, pairs))
    return np.ascontiguousarray(scores.T) if target == "resume" else scores


def _checked(ranker: Scorer, scores: NDArray[Any], *shape: int) -> NDArray[Any]:
    """The scores as an array of the shape that was asked for; raises ValueError for another."""
    plain = np.asarray(scores)
    if plain.shape != shape:
        raise ValueError(f"ranker {ranker.name!r} gave scores of shape {plain.shape}, asked for {shape}: mend it")
    if isinstance(scores, np.ma.MaskedArray) or plain.dtype.kind not in "biuf" or np.isinf(plain).any():
        raise ValueError(f"ranker {ranker.name!r} gave scores that are no finite numbers: mend the ranker")
    return plain


@dataclass(frozen=True, eq=False)
class ClassificationResult:
    """The labelled test pairs of one ranker (`resume_id, job_id, label, score, predicted`) and the threshold.

    `notes` says which metrics are undefined, and why.
    """

    ranker: str
    threshold: float
    pairs: pd.DataFrame
    notes: tuple[str, ...] = ()

    def means(self) -> dict[str, float]:
        """Weighted F1, ROC-AUC, precision and recall of the positive class on the test pairs."""
        return dict(zip(CLASSIFICATION, map(float, _pair_metrics(*self._columns(), axis=-1)), strict=True))

    def summary(self, seed: int = 0) -> pd.DataFrame:
        """Each metric with its 95 % bootstrap interval over pairs: rows `metric`, columns `mean, low, high`.

        The threshold stays the same, so the interval holds the uncertainty of the test pairs alone.
        """
        low, high = bootstrap_interval(self._columns(), _pair_metrics, seed)
        return pd.DataFrame({"mean": pd.Series(self.means()), "low": low, "high": high}).rename_axis("metric")

    def _columns(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Labels, ranks of the scores, and predictions of the test pairs, `[n]` each."""
        order = rankdata(self.pairs["score"], method="dense").astype(np.int32)  # ranks again faster than floats
        return self.pairs["label"].to_numpy(), order, self.pairs["predicted"].to_numpy()


@checked
def evaluate_classification(ranker: Scorer, corpus: Corpus, official: bool = False) -> ClassificationResult:
    """Classify the labelled test pairs by a threshold that maximises weighted F1 on the validation pairs.

    A pair is accepted if its score is above the threshold. `official=True` searches the thresholds of
    the released `eval.py` (lines 51-66), see `tune_threshold`.

    Raises ValueError if validation or test has no labels, or for scores that are not finite.
    """
    # 1. scores of the validation and test pairs
    pairs: dict[Split, pd.DataFrame] = {}
    for split in SPLITS[1:]:
        table = corpus.labelled(split)[["resume_id", "job_id", "label"]]
        if table.empty:
            raise ValueError(f"corpus {corpus.name!r} has no {split} labels: give valid (to tune) and test labels")
        ids = list(table["resume_id"]), list(table["job_id"])
        scores = _checked(ranker, ranker.score_pairs(*ids), len(table)).astype(np.float64)
        if np.isnan(scores).any():
            resume, job, _ = table[np.isnan(scores)].iloc[0]
            raise ValueError(f"ranker {ranker.name!r} gave scores of NaN, first for {resume!r}, {job!r}: mend it")
        pairs[split] = table.assign(score=scores)
    # 2. the threshold of the validation pairs decides on the test pairs
    test, threshold = pairs["test"], tune_threshold(pairs["valid"]["label"], pairs["valid"]["score"], official)
    test["predicted"] = (test["score"] > threshold).astype(np.int64)
    notes = [f"{split} labels hold one class" for split in pairs if pairs[split]["label"].nunique() < 2]
    if not test["predicted"].any():
        notes.append("no test pair is above the threshold: precision is undefined")
    return ClassificationResult(ranker.name, threshold, test, tuple(notes))


def tune_threshold(labels: ArrayLike, scores: ArrayLike, official: bool = False) -> float:
    """The threshold whose predictions `score > threshold` have the highest weighted F1, in O(n log n).

    Candidates lie midway between neighbouring scores, and at both ends (all or no pair accepted);
    of equally good ones the lowest is taken. `official=True`: candidates are the scores themselves,
    so the lowest pair is never accepted and the threshold clings to one validation pair.
    """
    label, score = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    levels = np.unique(score)
    # neighbouring floats have no midpoint
    between = np.minimum(levels[:-1] + np.diff(levels) / 2, np.nextafter(levels[1:], -np.inf))
    candidates = levels if official else np.array([np.nextafter(levels[0], -np.inf), *between, levels[-1]])
    positives, negatives = (np.sort(score[label == value]) for value in (1, 0))
    hits = len(positives) - np.searchsorted(positives, candidates, side="right")
    false_alarms = len(negatives) - np.searchsorted(negatives, candidates, side="right")
    return float(candidates[np.argmax(_weighted_f1(hits, false_alarms, len(positives), len(negatives)))])


def wins(label: NDArray[Any], score: NDArray[Any], axis: int = -1) -> NDArray[np.float64]:
    """Pairs of a positive and a negative in which the positive scores higher, a tie as half: AUC times all pairs."""
    positives = label.sum(axis=axis)
    return (rankdata(score, axis=axis) * label).sum(axis=axis) - positives * (positives + 1) / 2


def _pair_metrics(label: NDArray[Any], score: NDArray[Any], predicted: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """The metrics of `CLASSIFICATION` along the last axis, so that thousands of resamples take one call.

    ROC-AUC is the share of pairs of a positive and a negative in which the positive scores higher (ties: half).
    """
    positives = label.sum(axis=axis)
    negatives, hits = label.shape[axis] - positives, (label * predicted).sum(axis=axis)
    false_alarms = predicted.sum(axis=axis) - hits
    ratios = [(wins(label, score, axis), positives * negatives), (hits, hits + false_alarms), (hits, positives)]
    defined = [np.where(whole > 0, part / np.maximum(whole, 1), np.nan) for part, whole in ratios]
    return np.stack([_weighted_f1(hits, false_alarms, positives, negatives), *defined])


def _weighted_f1(hits: Any, false_alarms: Any, positives: Any, negatives: Any) -> NDArray[np.float64]:
    """F1 of both classes, weighted by their share of the pairs; a class nobody has or predicts counts 0."""
    rejected = negatives - false_alarms
    accepted_f1 = 2 * hits / np.maximum(hits + false_alarms + positives, 1)
    rejected_f1 = 2 * rejected / np.maximum(rejected + positives - hits + negatives, 1)
    return (positives * accepted_f1 + negatives * rejected_f1) / (positives + negatives)


@checked
def evaluate_graded(
    ranker: Scorer | None,
    grades: pd.DataFrame,
    ks: Sequence[int] = (10,),
    target: Side = "resume",
    gains: Gains = "exponential",
) -> pd.DataFrame:
    """The metrics of each job's graded resumes, or each resume's jobs (`target`), in the order of a ranker.

    `grades`: `resume_id, job_id, score`, a score from 0 to 1,023. Without a ranker (None) the order is random. Returns
    a frame of `rank_metrics`, one row a query; only its nDCG uses the grades, with gains `2**score - 1` or, "linear",
    the score itself. Raises ValueError for other grades.
    """
    columns = ["resume_id", "job_id", "score"]
    if missing := [name for name in columns if name not in grades.columns]:
        raise ValueError(f"grades lack {missing}: give a frame of {columns}")
    if grades.empty or grades.duplicated(columns[:2]).any():
        raise ValueError("grades hold no pair, or one twice: give each pair once")
    score = pd.to_numeric(grades["score"], errors="coerce")
    if not score.between(0, 1023).all() or grades["score"].map(lambda one: isinstance(one, str | bool)).any():
        raise ValueError("grades: a score is not a number from 0 to 1,023; give such numbers")
    gain = (2.0**score - 1 if gains == "exponential" else score).to_numpy(float)
    pairs = list(grades["resume_id"]), list(grades["job_id"])
    scores = np.zeros(len(grades)) if ranker is None else _checked(ranker, ranker.score_pairs(*pairs), len(grades))
    lists = grades.groupby(f"{other(target)}_id").indices
    ranked, relevant = ([values[places] for places in lists.values()] for values in (scores, gain))
    return rank_metrics(ranked, relevant, ks, list(map(str, lists)))


def graded_baseline(grades: pd.DataFrame, ks: Sequence[int] = (10,)) -> pd.DataFrame:
    """What a random order of the same lists is expected to reach."""
    return evaluate_graded(None, grades, ks)
