"""What there is to learn in a market: oracles that know one thing of every pair, and what a ranker knows by stratum."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import SIDES, Side, Split
from confitlib.evaluation import evaluate_classification, evaluate_ranking
from confitlib.evaluation.ranking import Relevance, wins
from confitlib.market.compose import Market
from confitlib.market.world import LEVEL_REACH
from confitlib.rankers import Ranker

ORACLES: dict[str, Mapping[str, float]] = {
    "same family": {"family": 1},
    "same occupation": {"family": 1, "occupation": 1},
    "level within one": {"level": 1},
    "same occupation, level within one": {"family": 2, "occupation": 2, "level": 1},
    "share of covered skills": {"coverage": 1},
    "truth": {"truth": 1},
}
QUOTED: tuple[tuple[Side, str], ...] = (("resume", "ndcg@100"), ("resume", "ndcg@10"), ("job", "ndcg@10"))


def known_of(market: Market, resume_ids: Iterable[str], job_ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """What is known of every pair, `[n_resumes, n_jobs]` each.

    `family` and `occupation` are equal, `level`s are within one of each other, the `coverage` of the required skills,
    and whether the two suit each other in `truth`.
    """
    ids = {"resume": list(resume_ids), "job": list(job_ids)}
    resumes, jobs = market.resumes.loc[ids["resume"]], market.jobs.loc[ids["job"]]
    known = {name: resumes[name].to_numpy()[:, None] == jobs[name].to_numpy() for name in ("family", "occupation")}
    levels = [market.latents[side].level[market.corpus.positions(side, ids[side])] for side in SIDES]
    known["level"] = np.abs(levels[0][:, None] - levels[1]) <= LEVEL_REACH
    known |= {"coverage": market.coverage(*ids.values()), "truth": market.corpus.suitable(*ids.values())}
    return {name: cells.astype(np.float32) for name, cells in known.items()}


class Oracle(Ranker):
    """A ranker that adds up, with weights, what is known of a pair (`known_of`)."""

    def __init__(self, market: Market, name: str) -> None:
        self.market, self.name = market, name

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> NDArray[np.float32]:
        """Scores of every pair."""
        known = known_of(self.market, resume_ids, job_ids)
        return np.sum([weight * known[name] for name, weight in ORACLES[self.name].items()], axis=0)


def oracle_table(market: Market) -> pd.DataFrame:
    """What each oracle reaches on the test pools, one row each, and the ceilings of what labels can measure.

    Columns are nDCG of both sides, and in the last row, where the truth is judged by the recruiters' labels, AUC and
    weighted F1 of the labelled pairs. A system that is measured by labels cannot be expected to do better.
    """

    def reached(name: str, relevance: Relevance) -> dict[str, float]:
        """nDCG of an oracle."""
        oracle = Oracle(market, name)
        means = {side: evaluate_ranking(oracle, market.corpus, side, relevance=relevance).means() for side in SIDES}
        return {f"{metric}, {side}s": means[side][metric] for side, metric in QUOTED}

    rows = {name: reached(name, "truth") for name in ORACLES}
    classes = evaluate_classification(Oracle(market, "truth"), market.corpus).means()
    areas = {"AUC": classes["roc_auc"], "F1": classes["f1_weighted"]}
    return pd.DataFrame({**rows, "truth, judged by labels": reached("truth", "labels") | areas}).T


def strata(ranker: Ranker, market: Market, split: Split = "test") -> dict[str, float]:
    """What a fitted ranker knows of a market: four nested questions, each as the mean AUC of a job's resumes.

    Does it put resumes of the job's family before all others; within the family, those of its occupation; within the
    occupation, those of a level within one; and among these, the suitable ones? 0.5 is chance. A job counts for a
    question where there are resumes of both kinds.
    """
    resumes, jobs = (list(market.corpus.pool(side, split)) for side in SIDES)
    scores = ranker.score(resumes, jobs)  # [resumes, jobs]
    known = {name: cells == 1 for name, cells in known_of(market, resumes, jobs).items()}
    questions = {
        "family": (np.ones_like(known["family"]), known["family"]),
        "occupation in family": (known["family"], known["occupation"]),
        "level in occupation": (known["occupation"], known["level"]),
        "suitable in occupation and level": (known["occupation"] & known["level"], known["truth"]),
    }
    areas = {}
    for name, (group, wanted) in questions.items():
        columns = np.flatnonzero((group & wanted).any(axis=0) & (group & ~wanted).any(axis=0))
        pairs = [(wanted[group[:, job], job], scores[group[:, job], job]) for job in columns]
        # by ranks: scikit-learn's AUC is the same number, and takes ten times as long on short lists
        areas[name] = float(np.mean([wins(*pair) / (pair[0].sum() * (~pair[0]).sum()) for pair in pairs] or np.nan))
    return areas
