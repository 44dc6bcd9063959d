"""The latent world: who can do what, who asks for what, and which pairs truly fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from confitlib.corpus import Side
from confitlib.market.texts import CITIES, GENERAL, Bank

LEVELS = ("entry", "mid", "senior", "lead")
LEVEL_SHARES = (0.20, 0.35, 0.30, 0.15)
DEGREES = ("vocational", "bachelor", "master", "doctorate")
DEGREE_SHARES = (0.20, 0.45, 0.30, 0.05)
# How strongly an occupation draws on its core, adjacent and general skills.
SKILL_WEIGHTS: dict[Side, tuple[float, float, float]] = {"resume": (1.0, 0.3, 0.06), "job": (1.0, 0.25, 0.03)}
# Fewest and most, by level: skills that a resume holds or a job requires, and years of experience.
SKILLS = {"resume": ((7, 9), (8, 10), (9, 11), (9, 12)), "job": ((5, 7),) * 4}
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
        fewest, most = np.array(ranges).T
        return rng.integers(fewest[level], most[level] + 1)

    count = in_range(SKILLS[side])
    return Latents(
        occupation=occupation,
        level=level.astype(np.int8),
        city=rng.integers(len(CITIES), size=n),
        degree=rng.choice(len(DEGREES), size=n, p=DEGREE_SHARES),
        years=in_range(YEARS[side]),
        skills=_draw_skills(skill_weights(bank, side)[occupation], count, rng),
    )


def skill_weights(bank: Bank, side: Side) -> NDArray[np.float64]:
    """The weight of every skill for every occupation, `[n_occupations, n_skills]`."""
    core, adjacent, general = SKILL_WEIGHTS[side]
    ids = [skill.id for skill in bank.skills]
    table = np.zeros((len(bank.occupations), len(ids)))
    table[:, [skill.family == GENERAL for skill in bank.skills]] = general
    for row, occupation in enumerate(bank.occupations):
        table[row, [ids.index(skill) for skill in occupation.core]] = core
        table[row, [ids.index(skill) for skill in occupation.adjacent]] = adjacent
    return table


def _draw_skills(
    weights: NDArray[np.float64], count: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Weighted draws without replacement: the `count` earliest of exponential arrivals."""
    with np.errstate(divide="ignore"):
        arrival = rng.standard_exponential(weights.shape) / weights
    last = np.take_along_axis(np.sort(arrival, axis=1), count[:, None] - 1, axis=1)
    return (arrival <= last).astype(np.float32)


def coverage(resumes: Latents, jobs: Latents) -> NDArray[np.float32]:
    """The share of each job's required skills that each resume holds, `[n_resumes, n_jobs]`."""
    return (resumes.skills @ jobs.skills.T) / jobs.skills.sum(axis=1)


def level_gap(resumes: Latents, jobs: Latents) -> NDArray[np.int8]:
    """The difference in level of each pair, `[n_resumes, n_jobs]`."""
    return np.abs(resumes.level[:, None] - jobs.level[None, :])


def fit(resumes: Latents, jobs: Latents) -> NDArray[np.float32]:
    """Coverage less a penalty for the level gap, `[n_resumes, n_jobs]`."""
    return coverage(resumes, jobs) - np.float32(LEVEL_PENALTY) * level_gap(resumes, jobs)


def suitable(shared: NDArray[np.float32], jobs: Latents, gap: NDArray[np.int8]) -> NDArray[np.bool_]:
    """The truth of pairs by skills shared and level gap: two thirds of the skills covered, and levels close enough.

    `shared` holds whole numbers, which are exact in float32.
    """
    return (3 * shared >= 2 * jobs.skills.sum(axis=1)) & (gap <= LEVEL_REACH)


def suitable_rows(resumes: Latents, jobs: Latents) -> NDArray[np.bool_]:
    """The truth of each resume with the job of the same row, `[n]`."""
    shared = np.einsum("ij,ij->i", resumes.skills, jobs.skills)
    return suitable(shared, jobs, np.abs(resumes.level - jobs.level))


def suitable_pairs(resumes: Latents, jobs: Latents) -> sparse.csr_array:
    """The truth of every pair as sparse booleans, `[n_resumes, n_jobs]`, in bounded memory."""
    parts = []
    for rows in blocks(len(resumes), len(jobs)):
        some = resumes.rows(rows)
        parts.append(sparse.csr_array(suitable(some.skills @ jobs.skills.T, jobs, level_gap(some, jobs))))
    return sparse.vstack(parts, format="csr")


def blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Row slices whose dense block of pairs stays within a fixed memory."""
    step = max(1, BLOCK_CELLS // max(n_columns, 1))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def describe(latents: Latents, bank: Bank, ids: pd.Index) -> pd.DataFrame:
    """Latents as a readable frame: family, occupation, level, city, degree, years, skills."""
    names = np.array([skill.id for skill in bank.skills])
    occupations = [bank.occupations[code] for code in latents.occupation]
    return pd.DataFrame(
        {
            "family": [occupation.family for occupation in occupations],
            "occupation": [occupation.id for occupation in occupations],
            "level": np.take(LEVELS, latents.level),
            "city": np.take(CITIES, latents.city),
            "degree": np.take(DEGREES, latents.degree),
            "years": latents.years,
            "skills": [tuple(names[row > 0].tolist()) for row in latents.skills],
        },
        index=ids,
    )
