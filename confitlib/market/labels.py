"""The application process: who applies where, whom recruiters accept, and the official candidate lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import SIDES, Side, Split, other
from confitlib.market.world import Latents, blocks, fit, suitable

HOME = 3.0  # log-propensity of staying in one's own family of occupations
TARGETED = 0.9  # share of applications that follow the propensity; the rest explore
NOISE = 0.10  # share of recruiters' decisions that contradict the truth
LIST_LENGTH = 100


@dataclass(frozen=True)
class Applications:
    """Activity on a market: means and maxima over the documents that occur in labels.

    `pull`: log-propensity to apply per unit of fit.
    """

    per_resume: float
    per_job: float
    most_per_resume: int
    most_per_job: int
    pull: float


def degrees(n: int, total: int, most: int) -> NDArray[np.int64]:
    """How many applications each of `n` documents has: at least 1, about `most` at most, adding up to `total`.

    The sorted sequence follows 1 + (most - 1) u^g with u in (0, 1): a heavy tail with a given mean.
    """
    mean = total / n
    if mean <= 1:
        return np.ones(n, dtype=np.int64)
    most = max(most, int(np.ceil(2 * mean)))
    power = (most - 1) / (mean - 1) - 1
    wanted = 1 + (most - 1) * ((np.arange(n) + 0.5) / n) ** power
    cumulative = np.round(np.cumsum(wanted) * total / wanted.sum()).astype(np.int64)
    return np.maximum(np.diff(cumulative, prepend=0), 1)


def apply(
    resumes: Latents, jobs: Latents, family: NDArray[np.int64], activity: Applications, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw the applications of one split; returns row numbers of resumes and of jobs.

    `family`: the family code of each occupation. The scarcer side limits the number of applications.
    """
    total = round(min(len(resumes) * activity.per_resume, len(jobs) * activity.per_job))
    active_resumes = _active(len(resumes), total / activity.per_resume, rng)
    active_jobs = _active(len(jobs), total / activity.per_job, rng)
    resume_slots = rng.permutation(degrees(len(active_resumes), total, activity.most_per_resume))
    job_slots = rng.permutation(degrees(len(active_jobs), total, activity.most_per_job))
    people, posts = resumes.rows(active_resumes), jobs.rows(active_jobs)
    if len(people) <= len(posts):
        rows, columns = _match(
            lambda some: propensity(people.rows(some), posts, family, activity.pull), resume_slots, job_slots, rng
        )
    else:
        columns, rows = _match(
            lambda some: propensity(people, posts.rows(some), family, activity.pull).T, job_slots, resume_slots, rng
        )
    return active_resumes[rows], active_jobs[columns]


def _active(n: int, wanted: float, rng: np.random.Generator) -> NDArray[np.intp]:
    return np.sort(rng.choice(n, size=min(n, max(1, round(wanted))), replace=False))


def _match(
    appeal: Callable[[NDArray[np.intp]], NDArray[np.float32]],
    slots: NDArray[np.int64],
    other_slots: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Fill the slots of both sides: targeted applications first, exploration with what is left.

    The side with fewer documents chooses, the busiest first; `appeal` gives its log-propensities, `[rows, others]`.
    """
    free = other_slots.copy()
    taken: list[NDArray[np.intp]] = [np.empty(0, dtype=np.intp)] * len(slots)
    order = rng.permutation(len(slots))
    order = order[np.argsort(-slots[order], kind="stable")]
    targeted = rng.binomial(slots, TARGETED)
    for block in blocks(len(slots), len(free)):
        for row, preference in zip(order[block], appeal(order[block]), strict=True):
            taken[row] = _choose(int(targeted[row]), preference, free, taken[row], rng)
    flat = np.zeros(len(free), dtype=np.float32)
    for row in order:
        taken[row] = _choose(int(slots[row]) - len(taken[row]), flat, free, taken[row], rng)
    return np.repeat(np.arange(len(slots)), [len(chosen) for chosen in taken]), np.concatenate(taken)


def propensity(resumes: Latents, jobs: Latents, family: NDArray[np.int64], pull: float) -> NDArray[np.float32]:
    """Log-propensity to apply, `[n_resumes, n_jobs]`: grows with fit and inside one's own family."""
    same = family[resumes.occupation][:, None] == family[jobs.occupation][None, :]
    return np.float32(pull) * fit(resumes, jobs) + np.float32(HOME) * same


def _choose(
    count: int,
    preference: NDArray[np.float32],
    free: NDArray[np.int64],
    taken: NDArray[np.intp],
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """Add `count` counterparts with free slots to those taken, by Gumbel-top-k; uses up one slot of each."""
    is_open = free > 0
    is_open[taken] = False
    candidates = np.flatnonzero(is_open)
    count = min(count, len(candidates))
    if count == 0:
        return taken
    score = preference[candidates] + np.log(free[candidates]) + rng.gumbel(size=len(candidates))
    chosen = candidates[np.argpartition(-score, count - 1)[:count]]
    free[chosen] -= 1
    return np.concatenate([taken, chosen])


def decide(
    resumes: Latents, jobs: Latents, pairs: tuple[NDArray[np.intp], NDArray[np.intp]], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Recruiters' decisions on applications: the truth, contradicted at a rate of `NOISE` either way."""
    truth = np.array([bool(suitable(resumes.rows([r]), jobs.rows([j]))[0, 0]) for r, j in zip(*pairs, strict=True)])
    return (truth ^ (rng.random(len(truth)) < NOISE)).astype(np.int64)


def candidate_lists(
    labels: pd.DataFrame,
    pools: dict[Side, pd.Index],
    split: Split,
    queries: int,
    means: tuple[float, float] | None,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Candidate lists as in the official files: every labelled candidate of a query, filled up with unjudged ones.

    `pools`: ids of the split's documents by side; `means`: wanted mean positives a list when
    ranking resumes and when ranking jobs, or None for queries drawn at random.
    """
    parts = []
    for number, target in enumerate(SIDES):
        query = f"{other(target)}_id"
        positives = labels[labels["label"] == 1].groupby(query).size()
        chosen = _choose_queries(positives, queries, None if means is None else means[number], rng)
        for query_id, judged in labels[labels[query].isin(chosen)].groupby(query, sort=True):
            parts.append(_list(target, split, str(query_id), judged, pools[target], rng))
    return pd.concat(parts, ignore_index=True)


def _choose_queries(positives: pd.Series, n: int, mean: float | None, rng: np.random.Generator) -> NDArray[np.object_]:
    """Draw `n` queries without replacement, tilted by exp(t * positives) so that their mean comes out as wanted."""
    counts, n = positives.to_numpy(), min(n, len(positives))
    noise = rng.gumbel(size=len(counts))

    def draw(tilt: float) -> NDArray[np.intp]:
        return np.argsort(-(tilt * counts + noise), kind="stable")[:n]

    low, high = (0.0, 0.0) if mean is None else (-5.0, 5.0)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean is not None and counts[draw(middle)].mean() < mean else (low, middle)
    return np.asarray(positives.index[draw(high)])


def _list(
    target: Side, split: Split, query_id: str, judged: pd.DataFrame, pool: pd.Index, rng: np.random.Generator
) -> pd.DataFrame:
    known = dict(zip(judged[f"{target}_id"], judged["label"], strict=True))
    fillers = rng.permutation(np.asarray(pool.difference(list(known))))[: max(LIST_LENGTH - len(known), 0)]
    entries = [*known.items(), *((candidate, -1) for candidate in fillers)]
    order = rng.permutation(len(entries))
    ids, values = zip(*(entries[i] for i in order), strict=True)
    return pd.DataFrame({"target": target, "split": split, "query_id": query_id, "candidate_id": ids, "label": values})
