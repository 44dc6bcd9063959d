"""Text: resumes and job posts composed from the phrase bank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.market.phrases import Bank, Occupation, Skill, phrases
from confitlib.market.world import CITIES, Latents

T = TypeVar("T")

THIS_YEAR = 2024
POSITIONS = (1, 2, 3, 3)  # employers named on a resume, by level
ALSO_SHOWN = 0.4  # share of the listed skills that a bullet shows as well
DUTIES = 3  # responsibilities named by a job post
# Applicants and employers do not use the same titles for the same work, and titles are a loose
# guide to it: some are those of a neighbouring occupation.
RESUME_TITLES, JOB_TITLES = slice(0, -1), slice(-1, None)
BORROWED_TITLES = 0.2
# "a 12% rise": numbers that would need "an" are left out.
AN = (8, 11, 18)
COUNTS = tuple(n for n in range(3, 41) if n not in AN)
PERCENTAGES = tuple(n for n in range(5, 61) if n not in AN)
TEAMS = tuple([n for n in range(*sizes) if n not in AN] for sizes in ((2, 6), (3, 8), (4, 10), (6, 17)))  # by level
SCHOOLS = ("University of {city}", "{city} University of Applied Sciences", "{city} Institute of Technology")
DEGREE_NOTES = ("vocational qualification", "bachelor's level", "master's level", "doctorate")
ABOUT = (
    "An established name in {industry} with {staff} employees, based in {city}.",
    "We work in {industry}. Our {city} office is home to {staff} people.",
    "A growing organisation in {industry}; about {staff} colleagues, most of them in {city}.",
    "Family-owned for two generations, active in {industry}, {staff} staff across the {city} area.",
    "Our business is {industry}. From {city} we serve clients in several countries with a staff of {staff}.",
)


class Dice:
    """Cheap single draws from one seeded generator (uniform numbers are drawn in bulk)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._rolls: Iterator[float] = iter(())

    def roll(self) -> float:
        """A uniform number in [0, 1)."""
        for number in self._rolls:
            return number
        self._rolls = iter(self._rng.random(1 << 14).tolist())
        return next(self._rolls)

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self.roll() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self.roll() * len(options))]

    def shuffled(self, options: Iterable[T]) -> list[T]:
        """All options in random order."""
        return sorted(options, key=lambda _: self.roll())


@dataclass(frozen=True)
class Sheet:
    """What the writer of one document knows: the latents spelled out, and which phrases are allowed."""

    occupation: Occupation
    neighbours: Sequence[Occupation]
    level: int
    years: int
    city: str
    degree: int
    skills: Sequence[Skill]
    held_out: bool


def write_resumes(bank: Bank, latents: Latents, held_out: NDArray[np.bool_], rng: np.random.Generator) -> pd.DataFrame:
    """Compose a resume per row of the latents: title, summary, skills, experience, education, location.

    Half of the skills (rounded down) are listed by name; bullets show all the others. Rows marked
    `held_out` use the held-out phrases.
    """
    dice = Dice(rng)
    return pd.DataFrame([_resume(sheet, dice) for sheet in _sheets(bank, latents, held_out)])


def write_jobs(bank: Bank, latents: Latents, held_out: NDArray[np.bool_], rng: np.random.Generator) -> pd.DataFrame:
    """Compose a job post per row of the latents: title, skills, requirements, responsibilities, about, location.

    Every required skill has a requirement and one of the employers' names for it. Rows marked
    `held_out` use the held-out phrases.
    """
    dice = Dice(rng)
    return pd.DataFrame([_job(sheet, dice) for sheet in _sheets(bank, latents, held_out)])


def _sheets(bank: Bank, latents: Latents, held_out: NDArray[np.bool_]) -> Iterator[Sheet]:
    for row in range(len(latents)):
        occupation = bank.occupations[latents.occupation[row]]
        yield Sheet(
            occupation=occupation,
            neighbours=bank.neighbours[occupation.family],
            level=int(latents.level[row]),
            years=int(latents.years[row]),
            city=CITIES[latents.city[row]],
            degree=int(latents.degree[row]),
            skills=[bank.skills[code] for code in np.flatnonzero(latents.skills[row])],
            held_out=bool(held_out[row]),
        )


def _resume(sheet: Sheet, dice: Dice) -> dict[str, str]:
    skills = dice.shuffled(sheet.skills)
    listed, unlisted = skills[: len(skills) // 2], skills[len(skills) // 2 :]
    terms = [dice.pick(skill.resume_terms) for skill in listed]
    summary = dice.pick(phrases(sheet.occupation.summaries, "summaries", sheet.held_out))
    shown = dice.shuffled([*unlisted, *(skill for skill in listed if dice.roll() < ALSO_SHOWN)])
    bullets = [dice.pick(phrases(skill.bullets, "bullets", sheet.held_out)) for skill in shown]
    return {
        "title": _title(sheet, RESUME_TITLES, dice),
        "summary": fill(summary, sheet, terms, dice),
        "skills": ", ".join(terms),
        "experience": _experience(sheet, [fill(bullet, sheet, terms, dice) for bullet in bullets], dice),
        "education": _education(sheet, dice),
        "location": sheet.city,
    }


def _job(sheet: Sheet, dice: Dice) -> dict[str, str]:
    skills = dice.shuffled(sheet.skills)
    terms = [dice.pick(skill.job_terms) for skill in skills]
    asked = [dice.pick(phrases(skill.requirements, "requirements", sheet.held_out)) for skill in skills]
    duties = dice.shuffled(phrases(sheet.occupation.responsibilities, "responsibilities", sheet.held_out))[:DUTIES]
    return {
        "title": _title(sheet, JOB_TITLES, dice),
        "skills": ", ".join(dice.shuffled(terms)),
        "requirements": _lines(fill(line, sheet, terms, dice) for line in asked),
        "responsibilities": _lines(fill(line, sheet, terms, dice) for line in duties),
        "about": _about(sheet, dice),
        "location": sheet.city,
    }


def _title(sheet: Sheet, part: slice, dice: Dice) -> str:
    occupation = dice.pick(sheet.neighbours) if dice.roll() < BORROWED_TITLES else sheet.occupation
    return dice.pick(occupation.titles[sheet.level][part])


def fill(sentence: str, sheet: Sheet, terms: Sequence[str], dice: Dice) -> str:
    """Fill the slots of a sentence in agreement with the document's level, years and listed skills."""
    if "{" not in sentence:
        return sentence
    first, second = dice.shuffled(terms)[:2]
    return sentence.format(
        n=dice.pick(COUNTS),
        pct=dice.pick(PERCENTAGES),
        team=dice.pick(TEAMS[sheet.level]),
        years=sheet.years,
        skill_a=first,
        skill_b=second,
    )


def _lines(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _experience(sheet: Sheet, bullets: Sequence[str], dice: Dice) -> str:
    """Employers from the latest to the first; the years add up and the bullets are dealt over them."""
    first = THIS_YEAR - sheet.years
    later = dice.shuffled(range(first + 1, THIS_YEAR))[: POSITIONS[sheet.level] - 1]
    parts, until = [], "present"
    starts = sorted([first, *later], reverse=True)
    for position, start in enumerate(starts):
        industry = dice.pick(dice.pick(sheet.neighbours).industries)
        parts += [f"{industry}, {start} to {until}", _lines(bullets[position :: len(starts)])]
        until = str(start)
    return "\n".join(parts)


def _education(sheet: Sheet, dice: Dice) -> str:
    city = dice.pick(CITIES)
    school = f"{city} College" if sheet.degree == 0 else dice.pick(SCHOOLS).format(city=city)
    year = THIS_YEAR - sheet.years - dice.integer(0, 1)
    return f"{dice.pick(sheet.occupation.degrees)}, {school}, {year} ({DEGREE_NOTES[sheet.degree]})"


def _about(sheet: Sheet, dice: Dice) -> str:
    industry, staff = dice.pick(sheet.occupation.industries), dice.integer(2, 90) * 10
    return dice.pick(ABOUT).format(industry=industry, staff=staff, city=sheet.city)
