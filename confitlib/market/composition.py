"""Text: resumes and job posts composed from the phrase bank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from confitlib.market.phrases import Bank, Occupation, Skill, phrases
from confitlib.market.world import CITIES, LEVELS, Latents

T = TypeVar("T")

THIS_YEAR = 2024
POSITIONS = (1, 2, 3, 3)  # employers named on a resume, by level
TEAM_SIZES = ((2, 5), (3, 7), (4, 9), (6, 16))
SCHOOLS = ("University of {city}", "{city} University of Applied Sciences", "{city} Institute of Technology")
# "a 12% rise" must read well after "a" whatever the number: none of these starts with a vowel sound.
COUNTS = tuple(n for n in range(3, 41) if n not in (8, 11, 18))
PERCENTAGES = tuple(n for n in range(5, 61) if n not in (8, 11, 18))
# Applicants and employers do not use the same titles for the same work.
RESUME_TITLES, JOB_TITLES = slice(0, -1), slice(-1, None)
BORROWED_TITLES = 0.2
ABOUT = (
    "An established name in {industry} with {staff} employees, based in {city}.",
    "We work in {industry}. Our {city} office is home to {staff} people.",
    "A growing organisation in {industry}; about {staff} colleagues, most of them in {city}.",
    "Family-owned for two generations, active in {industry}, {staff} staff across the {city} area.",
    "Our business is {industry}. From {city} we serve clients in several countries with a staff of {staff}.",
)


class Dice:
    """Cheap single draws from one seeded generator (uniform numbers drawn in bulk)."""

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

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All options in random order."""
        return sorted(options, key=lambda _: self.roll())


def write_resumes(bank: Bank, latents: Latents, held_out: Sequence[bool], rng: np.random.Generator) -> pd.DataFrame:
    """Compose one resume a row: title, location, summary, skills, experience, education."""
    dice = Dice(rng)
    return pd.DataFrame([_resume(bank, latents, row, bool(held_out[row]), dice) for row in range(len(latents))])


def write_jobs(bank: Bank, latents: Latents, held_out: Sequence[bool], rng: np.random.Generator) -> pd.DataFrame:
    """Compose one job post a row: title, location, requirements, responsibilities, skills, about."""
    dice = Dice(rng)
    return pd.DataFrame([_job(bank, latents, row, bool(held_out[row]), dice) for row in range(len(latents))])


def _skills_of(bank: Bank, latents: Latents, row: int) -> list[Skill]:
    return [bank.skills[code] for code in np.flatnonzero(latents.skills[row])]


def _resume(bank: Bank, latents: Latents, row: int, held_out: bool, dice: Dice) -> dict[str, str]:
    occupation, level = bank.occupations[latents.occupation[row]], int(latents.level[row])
    years, city = int(latents.years[row]), CITIES[latents.city[row]]
    skills = dice.shuffled(_skills_of(bank, latents, row))
    half = len(skills) // 2
    listed, shown = skills[: len(skills) - half], skills[len(skills) - half :]
    terms = [dice.pick(skill.resume_terms) for skill in listed]
    summary = dice.pick(phrases(occupation.summaries, "summaries", held_out))
    told = shown + [skill for skill in listed if dice.roll() < 0.4]
    bullets = [dice.pick(phrases(skill.bullets, "bullets", held_out)) for skill in dice.shuffled(told)]
    return {
        "title": _title(bank, occupation, level, RESUME_TITLES, dice),
        "summary": fill(summary, dice, level, years, terms),
        "skills": ", ".join(terms),
        "experience": _experience(
            bank, occupation, level, years, [fill(b, dice, level, years, terms) for b in bullets], dice
        ),
        "education": _education(occupation, int(latents.degree[row]), years, city, dice),
        "location": city,
    }


def _job(bank: Bank, latents: Latents, row: int, held_out: bool, dice: Dice) -> dict[str, str]:
    occupation, level = bank.occupations[latents.occupation[row]], int(latents.level[row])
    years, city = int(latents.years[row]), CITIES[latents.city[row]]
    skills = dice.shuffled(_skills_of(bank, latents, row))
    terms = [dice.pick(skill.job_terms) for skill in skills]
    asked = [dice.pick(phrases(skill.requirements, "requirements", held_out)) for skill in skills]
    duties = dice.shuffled(phrases(occupation.responsibilities, "responsibilities", held_out))[:3]
    about = dice.pick(ABOUT).format(
        industry=dice.pick(occupation.industries), city=city, staff=dice.integer(2, 90) * 10
    )
    return {
        "title": _title(bank, occupation, level, JOB_TITLES, dice),
        "skills": ", ".join(terms),
        "requirements": _lines(fill(line, dice, level, years, terms) for line in asked),
        "responsibilities": _lines(fill(line, dice, level, years, terms) for line in duties),
        "about": about,
        "location": city,
    }


def fill(sentence: str, dice: Dice, level: int, years: int, terms: Sequence[str]) -> str:
    """Fill the slots of a sentence in agreement with the document's level, years and listed skills."""
    if "{" not in sentence:
        return sentence
    first, second = dice.shuffled(terms)[:2]
    return sentence.format(
        n=dice.pick(COUNTS),
        pct=dice.pick(PERCENTAGES),
        team=_team(level, dice),
        years=years,
        skill_a=first,
        skill_b=second,
    )


def _team(level: int, dice: Dice) -> int:
    size = dice.integer(*TEAM_SIZES[level])
    return size + 1 if size in (8, 11) else size  # "a 9-person team", never "a 8-person team"


def _lines(sentences: Iterator[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _title(bank: Bank, occupation: Occupation, level: int, part: slice, dice: Dice) -> str:
    """A title of the occupation or, at times, of a neighbouring one: titles are a loose guide to the work."""
    if dice.roll() < BORROWED_TITLES:
        occupation = dice.pick(bank.neighbours(occupation))
    return dice.pick(occupation.titles[level][part])


def _experience(bank: Bank, occupation: Occupation, level: int, years: int, bullets: list[str], dice: Dice) -> str:
    """Positions from the latest to the first, the bullets dealt over them, the years adding up."""
    positions = min(POSITIONS[level], years, len(bullets))
    starts = _spread(THIS_YEAR - years, positions, dice)
    parts, until = [], "present"
    for position, start in enumerate(starts):
        industry = dice.pick(dice.pick(bank.neighbours(occupation)).industries)
        header = f"{industry}, {start} to {until}"
        parts.append("\n".join([header, *(f"- {line}" for line in bullets[position::positions])]))
        until = str(start)
    return "\n".join(parts)


def _spread(first: int, positions: int, dice: Dice) -> list[int]:
    """Start years of the positions, latest first; the earliest is `first`."""
    later = dice.shuffled(range(first + 1, THIS_YEAR))[: positions - 1]
    return sorted([first, *later], reverse=True)


def _education(occupation: Occupation, degree: int, years: int, city: str, dice: Dice) -> str:
    subject, year = dice.pick(occupation.degrees), THIS_YEAR - years - dice.integer(0, 1)
    if degree == 0:
        return f"{subject}, {city} College, {year} (vocational qualification)"
    levels = ("", "bachelor's level", "master's level", "doctorate")
    school = dice.pick(SCHOOLS).format(city=dice.pick(CITIES))
    return f"{subject}, {school}, {year} ({levels[degree]})"
