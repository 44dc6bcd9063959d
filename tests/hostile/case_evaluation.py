"""Evaluation: rankers that give no scores, grades without bounds, metrics against a plain count, statistics."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from inputs import tiny
from verdicts import Case

from confitlib import compare, evaluate_ranking
from confitlib.evaluation import evaluate_classification, evaluate_graded, holm, rank_metrics, summarise


@dataclass
class Odd:
    """A ranker that gives seeded scores, changed."""

    change: Any
    name: str = "odd"

    def score(self, resume_ids: Any, job_ids: Any, target: str = "resume") -> Any:
        """Scores of all pairs."""
        return self.change(np.random.default_rng(0).random((len(resume_ids), len(job_ids))).astype(np.float32))

    def score_pairs(self, resume_ids: Any, job_ids: Any) -> Any:
        """Scores of aligned pairs."""
        return self.change(np.random.default_rng(0).random((len(resume_ids), 1)).astype(np.float32))[:, 0]


def put(array: np.ndarray, value: Any) -> np.ndarray:
    """A copy with one value changed."""
    array = array.copy()
    array[2, -1] = value
    return array


CHANGES: dict[str, Any] = {
    "NaN": lambda a: put(a, np.nan),
    "inf": lambda a: put(a, np.inf),
    "-inf": lambda a: put(a, -np.inf),
    "complex": lambda a: a.astype(complex),
    "text": lambda a: a.astype(str),
    "objects": lambda a: put(a.astype(object), None),
    "one row less": lambda a: a[:-1],
    "turned": lambda a: a.T[:, ::-1][:, :-1],
    "flat": lambda a: np.repeat(a.ravel()[:, None], 2, axis=1),
    "masked": lambda a: np.ma.masked_array(a, a > 0.5),
    "dates": lambda a: (a * 100).astype("int64").astype("datetime64[s]"),
}


def rankers() -> Iterator[Case]:
    """Scores that are none, in each evaluation."""
    small = pd.DataFrame(
        {"resume_id": list(tiny().resumes.index[:6]), "job_id": [tiny().jobs.index[0]] * 6, "score": [0, 1, 2, 3, 1, 0]}
    )
    calls: dict[str, Any] = {
        "pool": lambda ranker: evaluate_ranking(ranker, tiny(), "resume"),
        "jobs": lambda ranker: evaluate_ranking(ranker, tiny(), "job"),
        "lists": lambda ranker: evaluate_ranking(ranker, tiny(), "resume", candidates="lists"),
        "labels": lambda ranker: evaluate_ranking(ranker, tiny(), "job", relevance="labels"),
        "pairs": lambda ranker: evaluate_classification(ranker, tiny()),
        "graded": lambda ranker: evaluate_graded(ranker, small),
    }
    for (name, call), (kind, change) in itertools.product(calls.items(), CHANGES.items()):
        if kind == "flat" and name in ("pairs", "graded"):  # whose scores are flat
            continue
        yield Case(
            f"{name}: {kind}", lambda folder, call=call, change=change: call(Odd(change)), None, (("odd", "scores"),)
        )


def graded() -> Iterator[Case]:
    """Grades: any finite ones from 0 up to 1,023 count as they are; others and lists without scores are refused."""
    rows, jobs = list(tiny().resumes.index[:4]), list(tiny().jobs.index[:2])
    for grade in (0, 1, 3, 10, 1023, 1024, 5000, -1, float("nan"), float("inf"), "3", None, 1.5, True, 1e300, "high"):

        def call(folder: Path, grade: Any = grade) -> pd.DataFrame:
            frame = pd.DataFrame(
                {"resume_id": rows, "job_id": jobs[0], "score": pd.Series([grade, 1, 0, 2], dtype=object)}
            )
            return evaluate_graded(
                None, frame if isinstance(grade, str | None) else frame.astype({"score": type(grade)})
            )

        good = isinstance(grade, int | float) and not isinstance(grade, bool) and 0 <= grade <= 1023
        yield Case(
            f"grade {grade!r}",
            call,
            (lambda frame: bool(np.isfinite(frame["ndcg@10"]).all())) if good else None,
            (("score", "grade"),),
        )
    frame = pd.DataFrame({"resume_id": rows, "job_id": jobs[0], "score": [1, 0, 2, 3]})
    for column in frame:
        yield Case(
            f"without {column}",
            lambda folder, column=column: evaluate_graded(None, frame.drop(columns=column)),
            None,
            (column,),
        )
    yield Case("no rows", lambda folder: evaluate_graded(None, frame[:0]), None, ("grades",))
    yield Case(
        "a pair twice", lambda folder: evaluate_graded(None, pd.concat([frame, frame[:1]])), None, (("twice", "again"),)
    )
    for value in ("x", [1], None, 5):
        yield Case(f"grades {value!r}", lambda folder, value=value: evaluate_graded(None, value), None, ("grades",))
    for target in ("resume", "job"):

        def by_side(folder: Path, target: str = target) -> pd.DataFrame:
            table = pd.DataFrame(
                {
                    "resume_id": [rows[0]] * 3 + [rows[1]] * 3,
                    "job_id": list(tiny().jobs.index[:3]) * 2,
                    "score": [0, 1, 2] * 2,
                }
            )
            return evaluate_graded(None, table, target=target)

        yield Case(
            f"lists of {target}s",
            by_side,
            lambda found, target=target: len(found) == (3 if target == "resume" else 2),
            None,
        )
    for gains, wanted in (("exponential", [7, 1, 0]), ("linear", [3, 1, 0])):

        def selected(folder: Path, gains: str = gains) -> float:
            table = pd.DataFrame({"resume_id": rows[:3], "job_id": jobs[0], "score": [3, 1, 0]})
            return float(
                evaluate_graded(Odd(lambda a: np.array([[0.1], [0.2], [0.3]])), table, gains=gains)["ndcg@10"].iloc[0]
            )

        def share(found: float, wanted: list[int] = wanted) -> bool:
            discount = 1 / np.log2([2, 3, 4])
            return abs(found - (np.array(wanted[::-1]) @ discount) / (np.array(wanted) @ discount)) < 1e-9

        yield Case(f"{gains} gains", selected, share, None)
    yield Case("gains of another name", lambda folder: evaluate_graded(None, frame, gains="squared"), None, ("gains=",))


def counted(scores: np.ndarray, relevant: np.ndarray, k: int) -> dict[str, float]:
    """The metrics of one query without ties, by a plain count."""
    order = np.argsort(-scores)
    hits = relevant[order] > 0
    ranks = np.flatnonzero(hits) + 1
    discount = 1 / np.log2(1 + np.arange(1, len(scores) + 1))
    dcg, best = ((row[:k] * discount[:k]).sum() for row in (relevant[order], np.sort(relevant)[::-1]))
    n = len(ranks)
    return {
        f"recall@{k}": hits[:k].sum() / n,
        f"ndcg@{k}": dcg / best,
        "map": np.mean(np.arange(1, n + 1) / ranks),
        "mrr": 1 / ranks[0],
    }


def metrics() -> Iterator[Case]:
    """Metrics of random lists against a plain count; with ties against the mean over every order."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, k = int(rng.integers(1, 30)), int(rng.integers(1, 12))
        scores, relevant = rng.permutation(n).astype(float), rng.integers(0, 4, n).astype(float)
        relevant[rng.integers(n)] = 1
        yield Case(
            f"no ties, seed {seed}",
            lambda folder, scores=scores, relevant=relevant, k=k: rank_metrics([scores], [relevant], [k]).iloc[0],
            lambda row, scores=scores, relevant=relevant, k=k: all(
                abs(row[name] - one) < 1e-9 for name, one in counted(scores, relevant, k).items()
            ),
            None,
        )
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scores, relevant = rng.integers(0, 3, 5).astype(float), rng.integers(0, 2, 5).astype(float)
        relevant[0] = 1

        def right(row: pd.Series, scores: np.ndarray = scores, relevant: np.ndarray = relevant) -> bool:
            every = [
                counted(scores + 1e-6 * np.array(order), relevant, 3) for order in itertools.permutations(range(5))
            ]
            return all(abs(row[name] - np.mean([one[name] for one in every])) < 1e-9 for name in every[0])

        yield Case(
            f"ties, seed {seed}",
            lambda folder, scores=scores, relevant=relevant: rank_metrics([scores], [relevant], [3]).iloc[0],
            right,
            None,
        )
    odd: dict[str, dict[str, Any]] = {
        "k of 0": {"ks": [0]},
        "k of 1.5": {"ks": [1.5]},
        "k as text": {"ks": ["1"]},
        "k alone": {"ks": 10},
        "k of truth": {"ks": [True]},
        "negative gain": {"relevant": [[1, -1, 0]]},
        "NaN gain": {"relevant": [[1, np.nan, 0]]},
        "inf gain": {"relevant": [[np.inf, 0, 0]]},
        "NaN score": {"scores": [[1, np.nan, 0]]},
        "inf score": {"scores": [[1, np.inf, 0]]},
        "text score": {"scores": [["a", "b", "c"]]},
        "two rows": {"scores": [[1, 2, 3], [1, 2, 3]]},
        "other length": {"relevant": [[1, 0]]},
        "deep": {"scores": [[[1], [2], [3]]]},
        "ids": {"query_ids": ["a", "b"]},
        "complex": {"scores": [[1j, 2, 3]]},
        "objects": {"scores": [[None, 2, 3]]},
        "scalar": {"scores": 5},
    }
    for name, change in odd.items():
        given = {"scores": [[0.1, 0.2, 0.3]], "relevant": [[1, 0, 0]], "ks": [2], **change}
        yield Case(
            f"rank_metrics: {name}",
            lambda folder, given=given: rank_metrics(**given),
            None,
            ((*change, "scores", "relevant", "k="),),
        )
    one = rank_metrics([[0.5], [0.4]], [[1], [1]], [1])
    yield Case(
        "one candidate says nothing of an order",
        lambda folder: evaluate_one(),
        lambda notes: any("candidate" in note for note in notes),
        None,
    )
    for name, frame in {
        "other ids": one.rename(index={0: 9}),
        "ids twice": pd.concat([one, one]),
        "no map": one.drop(columns="map"),
        "other positives": one.assign(positives=2),
        "a list": [1],
        "no positives": one.assign(positives=0),
    }.items():
        yield Case(
            f"compare with {name}",
            lambda folder, frame=frame: compare(one, frame, "map"),
            None,
            (("a and b", "b=", "queries"),),
        )
    for values in ([0.01, 0.04, 0.03], [1.0], [], [float("nan"), 0.02], [0.5, 0.5, 0.001, 0.2]):

        def adjusted(found: np.ndarray, values: list[float] = values) -> bool:
            known = sorted(p for p in values if p == p)
            running, wanted = 0.0, {}
            for place, p in enumerate(known):
                running = max(running, min(1.0, p * (len(known) - place)))
                wanted[p] = running
            return all(abs(a - wanted[p]) < 1e-12 if p == p else a != a for a, p in zip(found, values, strict=True))

        yield Case(f"holm {values}", lambda folder, values=values: holm(values), adjusted, None)
    for values in ([-0.1], [1.5], [float("inf")], ["a"], [[0.1, 0.2]], [None], 1j):
        yield Case(f"holm {values}", lambda folder, values=values: holm(values), None, ("p",))
    for value in ("x", [1], None, pd.DataFrame({"a": [1]})):
        yield Case(
            f"summarise {value!r:.20}", lambda folder, value=value: summarise(value), None, (("queries", "positives"),)
        )


@cache
def evaluate_one() -> tuple[str, ...]:
    """Notes of an evaluation in which every query has one candidate."""
    from inputs import small_corpus

    return evaluate_ranking(
        Odd(lambda a: a), small_corpus(3, rankings=small_corpus().rankings[:0]), "resume", ks=[1], relevance="labels"
    ).notes


GROUPS = {"evaluation: rankers": rankers, "evaluation: grades": graded, "evaluation: metrics": metrics}
