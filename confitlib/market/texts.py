"""Text: resumes and job posts composed from a bank of phrases about every skill and occupation."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import Side
from confitlib.util import read_yaml

if TYPE_CHECKING:
    from confitlib.market.world import Latents

T = TypeVar("T")

GENERAL = "general"  # the family of the skills that every occupation may draw on
# The first phrases of each list serve training documents, the rest valid and test documents. Of titles the last one is
# the employers'; applicants of training documents have the first of their level, the others one that two levels share.
TRAIN_PHRASES = {"bullets": 7, "requirements": 5, "summaries": 4, "responsibilities": 7}
TRAIN_PHRASES |= {"resume_terms": 3, "industries": 2, "degrees": 2}
HELD_OUT_TITLES = ("mid", "mid", "senior", "senior")  # by level: whose second title held-out resumes use

THIS_YEAR = 2024
POSITIONS = (1, 2, 3, 3)  # employers named on a resume, by level
ALSO_SHOWN = 0.4  # share of the listed skills that a bullet shows as well
DUTIES = 3  # responsibilities named by a job post
# Titles are a loose guide to the work: this share is drawn from all occupations of the family.
BORROWED_TITLES: dict[Side, float] = {"resume": 0.5, "job": 0.2}
# "a 12% rise": numbers that would need "an" are left out.
AN = (8, 11, 18)
COUNTS = tuple(n for n in range(3, 41) if n not in AN)
PERCENTAGES = tuple(n for n in range(5, 61) if n not in AN)
TEAMS = tuple([n for n in range(*sizes) if n not in AN] for sizes in ((2, 6), (3, 8), (4, 10), (6, 17)))  # by level
WORDS = read_yaml(Path(__file__).with_name("texts.yaml"), dict)
CITIES: list[str] = WORDS["cities"]


class Bank(NamedTuple):
    """The phrase bank: frames by id, in the order of the files (families by name, general last).

    `skills`: name, family, resume_terms and job_terms (the words that applicants and employers use), bullets,
    requirements. `occupations`: name, family, core and adjacent (skill ids), titles by level, summaries,
    responsibilities, industries, degrees.
    """

    skills: pd.DataFrame
    occupations: pd.DataFrame


@cache
def load_bank(families: int = 12) -> Bank:
    """Read the phrase bank shipped with the package: the first families of occupations, and the general skills."""
    paths = sorted(Path(__file__).with_name("phrases").iterdir())
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    *special, general = sorted(contents, key=lambda content: content["family"] == GENERAL)

    def table(kind: str, sources: list[dict[str, Any]]) -> pd.DataFrame:
        """The skills or the occupations of some families, by id."""
        rows = [{"id": key, "family": each["family"], **row} for each in sources for key, row in each[kind].items()]
        return pd.DataFrame(rows).set_index("id")

    return Bank(table("skills", [*special[:families], general]), table("occupations", special[:families]))


def phrases(source: Any, kind: str, held_out: bool) -> Sequence[str]:
    """The phrases of a kind (of a row of the bank) that a training document, or a held-out one, may use."""
    options: Sequence[str] = getattr(source, kind)
    return options[TRAIN_PHRASES[kind] :] if held_out else options[: TRAIN_PHRASES[kind]]


class Dice:
    """Cheap single draws from one seeded generator (uniform numbers in [0, 1) are drawn in bulk)."""

    def __init__(self, rng: np.random.Generator) -> None:
        bulks = (rng.random(1 << 14).tolist() for _ in itertools.count())
        self.roll = itertools.chain.from_iterable(bulks).__next__

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
    """What the writer of one document knows: rows of the bank, latents, and which phrases are allowed."""

    occupation: Any
    neighbours: Sequence[Any]
    skills: Sequence[Any]
    level: int
    years: int
    city: str
    degree: int
    held_out: bool


def write_documents(
    bank: Bank, side: Side, latents: Latents, held_out: NDArray[np.bool_], rng: np.random.Generator
) -> pd.DataFrame:
    """Compose a resume or job post per row of the latents, one column a field; `held_out` rows use held-out phrases.

    A resume lists half of its skills (rounded down) by name, and its bullets show all the others. In a job post every
    required skill has a requirement and one of the employers' names for it.
    """
    write, dice = (_resume if side == "resume" else _job), Dice(rng)
    skills, occupations = list(bank.skills.itertuples()), list(bank.occupations.itertuples())
    families = {key: list(rows.itertuples()) for key, rows in bank.occupations.groupby("family")}
    documents = []
    for row, occupation in enumerate(occupations[code] for code in latents.occupation):
        members = [skills[code] for code in latents.skills[row].nonzero()[0].tolist()]
        level, years, degree = (int(values[row]) for values in (latents.level, latents.years, latents.degree))
        place, is_held_out = CITIES[latents.city[row]], bool(held_out[row])
        sheet = Sheet(occupation, families[occupation.family], members, level, years, place, degree, is_held_out)
        documents.append(write(sheet, dice))
    return pd.DataFrame(documents)


def _resume(sheet: Sheet, dice: Dice) -> dict[str, str]:
    """The fields of a resume."""
    # 1. half of the skills by name, bullets for the others and some of those
    skills = dice.shuffled(sheet.skills)
    listed, unlisted = skills[: len(skills) // 2], skills[len(skills) // 2 :]
    terms = [dice.pick(phrases(skill, "resume_terms", sheet.held_out)) for skill in listed]
    summary = dice.pick(phrases(sheet.occupation, "summaries", sheet.held_out))
    shown = dice.shuffled([*unlisted, *(skill for skill in listed if dice.roll() < ALSO_SHOWN)])
    bullets = [dice.pick(phrases(skill, "bullets", sheet.held_out)) for skill in shown]
    titles = _titles(sheet, "resume", dice)
    title = titles[HELD_OUT_TITLES[sheet.level]][1] if sheet.held_out else [*titles.values()][sheet.level][0]
    summary, *bullets = (_fill(sentence, sheet, terms, dice) for sentence in (summary, *bullets))
    # 2. employers from the latest to the first: the years add up, and the bullets are spread over them
    start, until, experience = THIS_YEAR - sheet.years, "present", []
    later = dice.shuffled(range(start + 1, THIS_YEAR))[: POSITIONS[sheet.level] - 1]
    starts = sorted([start, *later], reverse=True)
    for position, start in enumerate(starts):
        industry = dice.pick(phrases(dice.pick(sheet.neighbours), "industries", sheet.held_out))
        experience += [f"{industry}, {start} to {until}", _lines(bullets[position :: len(starts)])]
        until = str(start)
    # 3. education
    city = dice.pick(CITIES)
    subject = dice.pick(phrases(sheet.occupation, "degrees", sheet.held_out))
    school = f"{city} College" if sheet.degree == 0 else dice.pick(WORDS["schools"]).format(city=city)
    year, note = THIS_YEAR - sheet.years - dice.integer(0, 1), WORDS["degree_notes"][sheet.degree]
    return {
        "title": title,
        "summary": summary,
        "skills": ", ".join(terms),
        "experience": "\n".join(experience),
        "education": f"{subject}, {school}, {year} ({note})",
        "location": sheet.city,
    }


def _job(sheet: Sheet, dice: Dice) -> dict[str, str]:
    """The fields of a job post."""
    # 1. every required skill by name and by a requirement, and what else there is to do
    skills = dice.shuffled(sheet.skills)
    terms = [dice.pick(skill.job_terms) for skill in skills]
    requirements = [dice.pick(phrases(skill, "requirements", sheet.held_out)) for skill in skills]
    duties = dice.shuffled(phrases(sheet.occupation, "responsibilities", sheet.held_out))[:DUTIES]
    document = {
        "title": dice.pick([*_titles(sheet, "job", dice).values()][sheet.level][-1:]),
        "skills": ", ".join(dice.shuffled(terms)),
        "requirements": _lines(_fill(line, sheet, terms, dice) for line in requirements),
        "responsibilities": _lines(_fill(line, sheet, terms, dice) for line in duties),
    }
    # 2. who the employer is
    industry, staff = dice.pick(sheet.occupation.industries), dice.integer(2, 90) * 10
    about = dice.pick(WORDS["about"]).format(industry=industry, staff=staff, city=sheet.city)
    return {**document, "about": about, "location": sheet.city}


def _titles(sheet: Sheet, side: Side, dice: Dice) -> dict[str, list[str]]:
    """The titles of the occupation by level, or at times those of another one of its family."""
    borrows = dice.roll() < BORROWED_TITLES[side]
    return (dice.pick(sheet.neighbours) if borrows else sheet.occupation).titles


def _fill(sentence: str, sheet: Sheet, terms: Sequence[str], dice: Dice) -> str:
    """Fill the slots of a sentence in agreement with the document's level, years and listed skills."""
    if "{" not in sentence:
        return sentence
    first, second = dice.shuffled(terms)[:2]
    numbers = {"n": dice.pick(COUNTS), "pct": dice.pick(PERCENTAGES), "team": dice.pick(TEAMS[sheet.level])}
    return sentence.format(**numbers, years=sheet.years, skill_a=first, skill_b=second)


def _lines(sentences: Iterable[str]) -> str:
    """Sentences as a list, a line each."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
