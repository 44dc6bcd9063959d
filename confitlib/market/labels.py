"""The application process: who applies where, whom recruiters accept, and the official candidate lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import RANKING_COLUMNS, SIDES, Side, Split, empty_frame, other
from confitlib.market.world import Latents, blocks, fit, suitable_rows

HOME = 3.0  # log-propensity of staying in one's own family of occupations
TARGETED = 0.9  # share of applications that follow the propensity; the rest explore
NOISE = 0.10  # share of recruiters' decisions that contradict the truth
LIST_LENGTH = 100  # candidates of an official list

Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]  # row numbers of resumes and of jobs


@dataclass(frozen=True)
class Activity:
    """How much a market applies.

    `per_resume`, `per_job`: mean applications of the documents that have any; `most_per_resume`,
    `most_per_job`: about the largest number of applications; `pull`: log-propensity per unit of fit.
    """

    per_resume: float
    per_job: float
    most_per_resume: int
    most_per_job: int
    pull: float


def degrees(n: int, total: int, most: int) -> NDArray[np.int64]:
    """How many applications each of `n` documents has: at least one, about `most` at most, `total` in sum.

    The sorted sequence grows like 1 + (most - 1) u^g with u in (0, 1): a heavy tail of a given mean.
    """
    extra = total - n
    if extra <= 0:
        return np.ones(n, dtype=np.int64)
    power = max((most - 1) * n / extra - 1, 0.0)
    wanted = ((np.arange(n) + 0.5) / n) ** power
    cumulative = np.round(np.cumsum(wanted) * extra / wanted.sum()).astype(np.int64)
    return 1 + np.diff(cumulative, prepend=0)


def apply(
    resumes: Latents, jobs: Latents, family: NDArray[np.int64], activity: Activity, rng: np.random.Generator
) -> Pairs:
    """Draw the applications of one split, sorted by resume and job.

    `family`: the family code of each occupation. The scarcer side limits the number of
    applications; documents beyond it stay without any.
    """
    total = round(min(len(resumes) * activity.per_resume, len(jobs) * activity.per_job))
    people = _active(len(resumes), total / activity.per_resume, rng)
    posts = _active(len(jobs), total / activity.per_job, rng)
    resume_slots = rng.permutation(degrees(len(people), total, activity.most_per_resume))
    job_slots = rng.permutation(degrees(len(posts), total, activity.most_per_job))

    def appeal(some_people: NDArray[np.intp], some_posts: NDArray[np.intp]) -> NDArray[np.float32]:
        return propensity(resumes.rows(some_people), jobs.rows(some_posts), family, activity.pull)

    if len(people) <= len(posts):
        rows, columns = _match(lambda some: appeal(people[some], posts), resume_slots, job_slots, rng)
    else:
        columns, rows = _match(lambda some: appeal(people, posts[some]).T, job_slots, resume_slots, rng)
    order = np.lexsort((columns, rows))
    return people[rows[order]], posts[columns[order]]


def _active(n: int, wanted: float, rng: np.random.Generator) -> NDArray[np.intp]:
    return np.sort(rng.choice(n, size=min(n, max(1, round(wanted))), replace=False))


def propensity(resumes: Latents, jobs: Latents, family: NDArray[np.int64], pull: float) -> NDArray[np.float32]:
    """Log-propensity to apply, `[n_resumes, n_jobs]`: grows with fit, and inside one's own family."""
    same = family[resumes.occupation][:, None] == family[jobs.occupation][None, :]
    return np.float32(pull) * fit(resumes, jobs) + np.float32(HOME) * same


def _match(
    appeal: Callable[[NDArray[np.intp]], NDArray[np.float32]],
    slots: NDArray[np.int64],
    other_slots: NDArray[np.int64],
    rng: np.random.Generator,
) -> Pairs:
    """Fill the slots of both sides: targeted applications first, exploration with what is left.

    The smaller side chooses, the busiest first; `appeal` gives its log-propensities `[rows, others]`.
    """
    free = other_slots.copy()
    taken: list[NDArray[np.intp]] = [np.empty(0, dtype=np.intp)] * len(slots)
    order = rng.permutation(len(slots))
    order = order[np.argsort(-slots[order], kind="stable")]
    targeted = rng.binomial(slots, TARGETED)
    for block in blocks(len(slots), len(free)):
        for row, preference in zip(order[block], appeal(order[block]), strict=True):
            taken[row] = _choose(int(targeted[row]), preference, free, taken[row], rng)
    indifferent = np.zeros(len(free), dtype=np.float32)
    for row in order:
        taken[row] = _choose(int(slots[row]) - len(taken[row]), indifferent, free, taken[row], rng)
    return np.repeat(np.arange(len(slots)), [len(chosen) for chosen in taken]), np.concatenate(taken)


def _choose(
    count: int,
    preference: NDArray[np.float32],
    free: NDArray[np.int64],
    taken: NDArray[np.intp],
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """Add `count` counterparts with free slots to those taken (Gumbel-top-k), using up a slot of each."""
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


def decide(resumes: Latents, jobs: Latents, pairs: Pairs, rng: np.random.Generator) -> NDArray[np.int64]:
    """Recruiters' decisions (1 accepted, 0 rejected): the truth, contradicted at a rate of `NOISE` either way."""
    truth = suitable_rows(resumes.rows(pairs[0]), jobs.rows(pairs[1]))
    return (truth ^ (rng.random(len(truth)) < NOISE)).astype(np.int64)


def candidate_lists(
    labels: pd.DataFrame,
    pools: Mapping[Side, pd.Index],
    split: Split,
    queries: int,
    means: tuple[float, float] | None,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Candidate lists as in the official files: all judged candidates of a query, filled up with unjudged ones.

    `pools`: ids of the split's documents by side; `queries`: most lists a target; `means`: wanted
    mean positives of a list of resumes and of jobs, or None to draw queries evenly.
    """
    parts = [empty_frame(RANKING_COLUMNS)]
    for target, mean in zip(SIDES, means or (None, None), strict=True):
        query, candidate, pool = f"{other(target)}_id", f"{target}_id", pools[target]
        positives = labels[labels["label"] == 1].groupby(query).size()
        chosen = np.sort(_choose_queries(positives, queries, mean, rng))
        judged = dict(iter(labels[labels[query].isin(chosen)].groupby(query)))
        lists = [
            _list(pool.get_indexer(judged[key][candidate].array), judged[key]["label"], len(pool), rng)
            for key in chosen
        ]
        parts.append(_tabulate(target, split, chosen, pool, lists))
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
    return positives.index[draw(high)].to_numpy()


def _list(known: NDArray[np.intp], labels: pd.Series, pool: int, rng: np.random.Generator) -> Pairs:
    """One list in random order: positions in the pool, and their labels."""
    unknown = np.delete(np.arange(pool), known)
    fillers = rng.permutation(unknown)[: max(LIST_LENGTH - len(known), 0)]
    rows = np.concatenate([known, fillers])
    values = np.concatenate([labels.to_numpy(), np.full(len(fillers), -1)])
    order = rng.permutation(len(rows))
    return rows[order], values[order]


def _tabulate(
    target: Side, split: Split, queries: NDArray[np.object_], pool: pd.Index, lists: list[Pairs]
) -> pd.DataFrame:
    if not lists:
        return empty_frame(RANKING_COLUMNS)
    rows, values = (np.concatenate(part) for part in zip(*lists, strict=True))
    columns = {
        "target": target,
        "split": split,
        "query_id": np.repeat(queries, [len(entry[0]) for entry in lists]),
        "candidate_id": pool[rows],
        "label": values,
    }
    return pd.DataFrame(columns)
