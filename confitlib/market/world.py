"""The latent world: who can do what, who asks for what, and which pairs truly fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from confitlib.market.phrases import GENERAL, Bank

Weights = tuple[float, float, float]  # of core, adjacent and general skills
Ranges = tuple[tuple[int, int], ...]  # fewest and most, by level

LEVELS = ("entry", "mid", "senior", "lead")
LEVEL_SHARES = (0.20, 0.35, 0.30, 0.15)
YEARS_HELD = ((2, 3), (4, 6), (7, 10), (11, 20))  # fewest and most years of experience, by level
YEARS_ASKED = ((2, 2), (3, 5), (5, 8), (8, 12))
DEGREES = ("vocational", "bachelor", "master", "doctorate")
DEGREE_SHARES = (0.20, 0.45, 0.30, 0.05)
CITIES = (
    *("London", "Manchester", "Leeds", "Bristol", "Edinburgh", "Dublin", "Berlin", "Hamburg", "Munich", "Vienna"),
    *("Zurich", "Amsterdam", "Rotterdam", "Copenhagen", "Stockholm", "Toronto", "Boston", "Chicago", "Seattle"),
    *("Austin", "Singapore", "Sydney", "Melbourne", "Auckland"),
)

# How strongly an occupation draws on its own, its neighbouring and the general skills.
RESUME_WEIGHTS = (1.0, 0.3, 0.06)
JOB_WEIGHTS = (1.0, 0.25, 0.03)
SKILLS_HELD = ((7, 9), (8, 10), (9, 11), (9, 12))  # fewest and most skills of a resume, by level
SKILLS_ASKED = ((5, 7),) * 4

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


def draw_resumes(bank: Bank, n: int, rng: np.random.Generator) -> Latents:
    """Draw `n` applicants: occupation, level, skills held, city, degree and years."""
    return _draw(bank, n, RESUME_WEIGHTS, SKILLS_HELD, YEARS_HELD, rng)


def draw_jobs(bank: Bank, n: int, rng: np.random.Generator) -> Latents:
    """Draw `n` positions: occupation, level, about six required skills, city, degree and years."""
    return _draw(bank, n, JOB_WEIGHTS, SKILLS_ASKED, YEARS_ASKED, rng)


def _draw(bank: Bank, n: int, weights: Weights, skills: Ranges, years: Ranges, rng: np.random.Generator) -> Latents:
    occupation = rng.integers(len(bank.occupations), size=n)
    level = rng.choice(len(LEVELS), size=n, p=LEVEL_SHARES)
    count = _in_range(skills, level, rng)
    return Latents(
        occupation=occupation,
        level=level.astype(np.int8),
        city=rng.integers(len(CITIES), size=n),
        degree=rng.choice(len(DEGREES), size=n, p=DEGREE_SHARES),
        years=_in_range(years, level, rng),
        skills=_draw_skills(skill_weights(bank, weights)[occupation], count, rng),
    )


def _in_range(ranges: Ranges, level: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    fewest, most = np.array(ranges).T
    return rng.integers(fewest[level], most[level] + 1)


def skill_weights(bank: Bank, weights: Weights) -> NDArray[np.float64]:
    """The weight of every skill for every occupation, `[n_occupations, n_skills]`."""
    core, adjacent, general = weights
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


def suitable(resumes: Latents, jobs: Latents) -> NDArray[np.bool_]:
    """The truth of every pair, `[n_resumes, n_jobs]`: enough skills covered, and levels close enough."""
    hits = resumes.skills @ jobs.skills.T  # whole numbers, exact in float32
    return _is_suitable(hits, jobs.skills.sum(axis=1), level_gap(resumes, jobs))


def suitable_rows(resumes: Latents, jobs: Latents) -> NDArray[np.bool_]:
    """The truth of each resume with the job of the same row, `[n]`."""
    hits = np.einsum("ij,ij->i", resumes.skills, jobs.skills)
    return _is_suitable(hits, jobs.skills.sum(axis=1), np.abs(resumes.level - jobs.level))


def _is_suitable(hits: NDArray[np.float32], required: NDArray[np.float32], gap: NDArray[np.int8]) -> NDArray[np.bool_]:
    return (3 * hits >= 2 * required) & (gap <= LEVEL_REACH)


def blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Row slices whose dense block of pairs stays within a fixed memory."""
    step = max(1, BLOCK_CELLS // max(n_columns, 1))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def true_pairs(resumes: Latents, jobs: Latents) -> csr_array:
    """The suitability of every pair as sparse booleans, `[n_resumes, n_jobs]`, in bounded memory."""
    counts, columns = [np.zeros(1, dtype=np.int64)], []
    for rows in blocks(len(resumes), len(jobs)):
        block = suitable(resumes.rows(rows), jobs)
        counts.append(block.sum(axis=1))
        columns.append(np.nonzero(block)[1].astype(np.int32))
    indices = np.concatenate(columns)
    indptr = np.cumsum(np.concatenate(counts))
    return csr_array((np.ones(len(indices), dtype=bool), indices, indptr), shape=(len(resumes), len(jobs)))


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
