"""The latent world: who can do what, who asks for what, and which pairs truly fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import gen_batches

from confitlib.corpus import Side
from confitlib.market.texts import CITIES, GENERAL, Bank

LEVELS = ("entry", "mid", "senior", "lead")
LEVEL_SHARES = (0.20, 0.35, 0.30, 0.15)
DEGREES = ("vocational", "bachelor", "master", "doctorate")
DEGREE_SHARES = (0.20, 0.45, 0.30, 0.05)
# How strongly an occupation draws on its core and adjacent skills, on others of its family, and on general ones.
SKILL_WEIGHTS: dict[Side, dict[str, float]] = {
    "resume": {"core": 1.0, "adjacent": 0.3, "family": 0.1, "general": 0.06},
    "job": {"core": 1.0, "adjacent": 0.25, "family": 0.0, "general": 0.03},
}
CAREERS = 0.8  # share of applicants who bring skills of a former occupation, of any family
# Fewest and most, by level: skills that a resume holds or a job requires, and years of experience.
SKILLS = {"resume": ((9, 10), (10, 12), (11, 14), (12, 15)), "job": ((5, 7),) * 4}
YEARS = {"resume": ((2, 3), (4, 6), (7, 10), (11, 20)), "job": ((2, 2), (3, 5), (5, 8), (8, 12))}

LEVEL_PENALTY = 0.15  # fit lost per level of difference
LEVEL_REACH = 1  # largest level difference of a suitable pair
BLOCK_CELLS = 4_000_000  # cells of one dense block of pairs


@dataclass(frozen=True)
class Latents:
    """What is true of the documents of one side, one row a document.

    `occupation, level, city, degree, years`: integer codes (years in years);
    `skills`: 0/1 matrix `[n, n_skills]`, held by a resume or required by a job.
    """

    occupation: NDArray[np.int64]
    level: NDArray[np.int8]
    city: NDArray[np.int64]
    degree: NDArray[np.int64]
    years: NDArray[np.int64]
    skills: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.occupation)

    def rows(self, rows: NDArray[np.intp] | slice) -> Latents:
        """The latents of some documents."""
        return Latents(**{name: values[rows] for name, values in vars(self).items()})


def draw_latents(bank: Bank, side: Side, n: int, rng: np.random.Generator) -> Latents:
    """Draw `n` applicants or positions: occupation, level, skills, city, degree and years."""
    occupation = rng.integers(len(bank.occupations), size=n)
    level = rng.choice(len(LEVELS), size=n, p=LEVEL_SHARES)

    def in_range(ranges: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
        """A number for each document within the range of its level."""
        fewest, most = np.array(ranges).T
        return rng.integers(fewest[level], most[level] + 1)

    # 1. how many skills, where, with which degree and how many years
    count = in_range(SKILLS[side])
    city, degree = rng.integers(len(CITIES), size=n), rng.choice(len(DEGREES), size=n, p=DEGREE_SHARES)
    years = in_range(YEARS[side])
    # 2. the weight of every skill for every occupation  [n_occupations, n_skills]
    table = np.zeros((len(bank.occupations), len(bank.skills)))
    for row, work in enumerate(bank.occupations.itertuples()):
        table[row, bank.skills["family"] == GENERAL] = SKILL_WEIGHTS[side]["general"]
        table[row, bank.skills["family"] == work.family] = SKILL_WEIGHTS[side]["family"]
        for kind in ("adjacent", "core"):
            table[row, bank.skills.index.isin(getattr(work, kind))] = SKILL_WEIGHTS[side][kind]
    weights = table[occupation]
    # 3. most applicants have done other work before: it has a share of their skills, any share being as likely
    if side == "resume":
        former = table[rng.integers(len(table), size=n)]
        share = rng.random((n, 1)) * (rng.random((n, 1)) < CAREERS)
        weights = (1 - share) * weights + share * former
    # 4. weighted draws without replacement: the `count` earliest of exponential arrivals
    with np.errstate(divide="ignore"):
        arrival = rng.standard_exponential((n, len(bank.skills))) / weights
    last = np.take_along_axis(np.sort(arrival, axis=1), count[:, None] - 1, axis=1)
    skills = (arrival <= last).astype(np.float32)
    return Latents(occupation, level.astype(np.int8), city, degree, years, skills)


def coverage(resumes: Latents, jobs: Latents) -> NDArray[np.float32]:
    """The share of each job's required skills that each resume holds, `[n_resumes, n_jobs]`."""
    return (resumes.skills @ jobs.skills.T) / jobs.skills.sum(axis=1)


def fit(resumes: Latents, jobs: Latents) -> NDArray[np.float32]:
    """Coverage less a penalty for the level gap, `[n_resumes, n_jobs]`."""
    gap = np.abs(resumes.level[:, None] - jobs.level)
    return coverage(resumes, jobs) - np.float32(LEVEL_PENALTY) * gap


def suitable(shared: NDArray[np.float32], jobs: Latents, gap: NDArray[np.int8]) -> NDArray[np.bool_]:
    """The truth of pairs by skills shared and level gap: two thirds of the skills covered, and levels close enough.

    `shared` holds whole numbers, which are exact in float32.
    """
    return (3 * shared >= 2 * jobs.skills.sum(axis=1)) & (gap <= LEVEL_REACH)


def suitable_pairs(resumes: Latents, jobs: Latents) -> sparse.csr_array:
    """The truth of every pair as sparse booleans, `[n_resumes, n_jobs]`, in bounded memory."""
    parts = []
    for rows in gen_batches(len(resumes), max(1, BLOCK_CELLS // len(jobs))):
        some = resumes.rows(rows)
        gap = np.abs(some.level[:, None] - jobs.level)
        parts.append(sparse.csr_array(suitable(some.skills @ jobs.skills.T, jobs, gap)))
    return sparse.vstack(parts, format="csr")


def describe(latents: Latents, bank: Bank, ids: pd.Index) -> pd.DataFrame:
    """Latents as a readable frame: family, occupation, level, city, degree, years, skills."""
    names = bank.skills.index.to_numpy()
    work = bank.occupations.iloc[latents.occupation]
    frame = pd.DataFrame({"family": work["family"].to_numpy(), "occupation": work.index}, index=ids)
    for column, values in (("level", LEVELS), ("city", CITIES), ("degree", DEGREES)):
        frame[column] = np.take(values, getattr(latents, column))
    skills = pd.Series([tuple(names[row > 0].tolist()) for row in latents.skills], index=ids)
    return frame.assign(years=latents.years, skills=skills)
