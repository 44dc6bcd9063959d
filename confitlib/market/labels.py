"""The application process: who applies where, whom recruiters accept, and the official candidate lists."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import gen_batches

from confitlib.corpus import RANKING_COLUMNS, SIDES, Side, Split, empty_frame, other
from confitlib.market.texts import Bank
from confitlib.market.world import BLOCK_CELLS, Latents, fit, suitable

HOME = 3.0  # log-propensity of staying in one's own family of occupations
TARGETED = 0.9  # share of applications that follow the propensity; the rest explore
NOISE = 0.10  # share of the suitable applicants whom recruiters reject, and of the accepted who are not suitable
LIST_LENGTH = 100  # candidates of an official list

Rng = np.random.Generator
Pools = Mapping[Side, pd.Index]  # ids of the documents of a split by side
Appeal = Callable[[NDArray[np.intp]], NDArray[np.float32]]  # log-propensities of some rows
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


def draw_labels(
    bank: Bank, latents: Mapping[Side, Latents], pools: Pools, activity: Activity, split: Split, rng: Rng
) -> pd.DataFrame:
    """Who applied where in one split, and how recruiters decided: `resume_id, job_id, label, split`.

    The scarcer side limits the number of applications; documents beyond it stay without any. Labels are 1 (accepted)
    or 0 (rejected): the truth with errors, of which every split has the same share. Rows are sorted by resume and job.
    """
    resumes, jobs = latents["resume"], latents["job"]
    # 1. who is active, and how many applications each has
    total = round(min(len(resumes) * activity.per_resume, len(jobs) * activity.per_job))

    def active(n: int, mean: float) -> NDArray[np.intp]:
        """Rows of the documents that have applications, `mean` of them each."""
        return np.sort(rng.choice(n, size=min(n, max(1, round(total / mean))), replace=False))

    people, posts = active(len(resumes), activity.per_resume), active(len(jobs), activity.per_job)
    resume_slots = rng.permutation(degrees(len(people), total, activity.most_per_resume))
    job_slots = rng.permutation(degrees(len(posts), total, activity.most_per_job))
    # 2. log-propensities [people, posts]: they grow with fit, and inside one's own family
    family = bank.occupations["family"].factorize()[0]

    def appeal(some_people: NDArray[np.intp], some_posts: NDArray[np.intp]) -> NDArray[np.float32]:
        """Log-propensities `[some_people, some_posts]`."""
        left, right = resumes.rows(some_people), jobs.rows(some_posts)
        same = family[left.occupation][:, None] == family[right.occupation][None, :]
        return np.float32(activity.pull) * fit(left, right) + np.float32(HOME) * same

    # 3. the smaller side chooses
    if len(people) <= len(posts):
        rows, columns = _match(lambda some: appeal(people[some], posts), resume_slots, job_slots, rng)
    else:
        columns, rows = _match(lambda some: appeal(people, posts[some]).T, job_slots, resume_slots, rng)
    order = np.lexsort((columns, rows))
    rows, columns = people[rows[order]], posts[columns[order]]
    # 4. recruiters decide
    left, right = resumes.rows(rows), jobs.rows(columns)
    truth = suitable(np.einsum("ij,ij->i", left.skills, right.skills), right, np.abs(left.level - right.level))
    accepted = truth & (rng.random(len(truth)) >= NOISE)
    mistakes = round(accepted.sum() * NOISE / (1 - NOISE))
    accepted[rng.permutation(np.flatnonzero(~truth))[:mistakes]] = True
    ids = {"resume_id": pools["resume"][rows], "job_id": pools["job"][columns]}
    return pd.DataFrame(ids).assign(label=accepted.astype(np.int64), split=split)


def _match(appeal: Appeal, slots: NDArray[np.int64], other_slots: NDArray[np.int64], rng: Rng) -> Pairs:
    """Fill the slots of both sides: targeted applications first, exploration with what is left.

    The smaller side chooses, the busiest first; `appeal` gives its log-propensities `[rows, others]`.
    """
    free = other_slots.copy()
    partners: list[NDArray[np.intp]] = [np.empty(0, dtype=np.intp)] * len(slots)

    def choose(row: np.intp, count: int, preference: NDArray[np.float32]) -> None:
        """Add `count` counterparts with free slots to the partners (Gumbel-top-k), using up a slot of each."""
        is_open = free > 0
        is_open[partners[row]] = False
        candidates = np.flatnonzero(is_open)
        count = min(count, len(candidates))
        if count > 0:
            score = preference[candidates] + np.log(free[candidates]) + rng.gumbel(size=len(candidates))
            best = candidates[np.argpartition(-score, count - 1)[:count]]
            free[best] -= 1
            partners[row] = np.concatenate([partners[row], best])

    # 1. the busiest first, ties at random; of each one's slots a binomial number is targeted
    order = rng.permutation(len(slots))
    order = order[np.argsort(-slots[order], kind="stable")]
    targeted = rng.binomial(slots, TARGETED)
    # 2. targeted applications, then those without a preference
    for block in gen_batches(len(slots), max(1, BLOCK_CELLS // len(free))):
        for row, preference in zip(order[block], appeal(order[block]), strict=True):
            choose(row, int(targeted[row]), preference)
    for row in order:
        choose(row, int(slots[row]) - len(partners[row]), np.zeros(len(free), dtype=np.float32))
    return np.repeat(np.arange(len(slots)), list(map(len, partners))), np.concatenate(partners)


def candidate_lists(
    labels: pd.DataFrame, pools: Pools, split: Split, queries: int, means: Sequence[float] | None, rng: Rng
) -> pd.DataFrame:
    """Candidate lists as in the official files: all judged candidates of a query, filled up with unjudged ones.

    `pools`: ids of the split's documents by side; `queries`: most lists a target; `means`: wanted
    mean positives of a list of resumes and of jobs, or None to draw queries evenly.
    """
    tables = [empty_frame(RANKING_COLUMNS)]
    for target, mean in zip(SIDES, means or (None, None), strict=True):
        query, pool = f"{other(target)}_id", pools[target]
        positives = labels[labels["label"] == 1].groupby(query).size()
        keys = np.sort(_choose_queries(positives, queries, mean, rng))
        judged = dict(iter(labels[labels[query].isin(keys)].groupby(query)))
        rows, values = [], []
        for key in keys:
            # the judged candidates and fillers, in random order: positions in the pool, and labels
            places = pool.get_indexer(judged[key][f"{target}_id"].array)
            fillers = rng.permutation(np.delete(np.arange(len(pool)), places))[: max(LIST_LENGTH - len(places), 0)]
            order = rng.permutation(len(places) + len(fillers))
            rows.append(np.concatenate([places, fillers])[order])
            values.append(np.concatenate([judged[key]["label"], np.full(len(fillers), -1)])[order])
        if rows:
            ids = {"query_id": np.repeat(keys, list(map(len, rows))), "candidate_id": pool[np.concatenate(rows)]}
            tables.append(pd.DataFrame({"target": target, "split": split, **ids, "label": np.concatenate(values)}))
    return pd.concat(tables, ignore_index=True)


def _choose_queries(positives: pd.Series, n: int, mean: float | None, rng: Rng) -> NDArray[np.object_]:
    """Draw `n` queries without replacement, tilted by exp(tilt * positives) so that their mean comes out as wanted."""
    counts, noise = positives.to_numpy(), rng.gumbel(size=len(positives))

    def draw(tilt: float) -> NDArray[np.intp]:
        """Places of `n` queries by Gumbel top-k, always from the same noise."""
        return np.argsort(-(tilt * counts + noise), kind="stable")[:n]

    if mean is None:
        return positives.index[draw(0.0)].to_numpy()
    low, high = -5.0, 5.0  # the mean grows with the tilt: bisection
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if counts[draw(middle)].mean() < mean else (low, middle)
    return positives.index[draw(high)].to_numpy()
