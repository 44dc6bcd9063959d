"""The phrase bank: what employers and applicants write about every skill and occupation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

GENERAL = "general"

# The first phrases of each list serve training documents, the rest valid and test documents.
TRAIN_PHRASES = {"bullets": 7, "requirements": 5, "summaries": 4, "responsibilities": 7}


@dataclass(frozen=True)
class Skill:
    """A skill with the words that applicants and employers use for it."""

    id: str
    name: str
    family: str
    resume_terms: tuple[str, ...]
    job_terms: tuple[str, ...]
    bullets: tuple[str, ...]
    requirements: tuple[str, ...]


@dataclass(frozen=True)
class Occupation:
    """An occupation: its core and adjacent skills, titles by level, and its sentences."""

    id: str
    name: str
    family: str
    core: tuple[str, ...]
    adjacent: tuple[str, ...]
    titles: tuple[tuple[str, ...], ...]
    summaries: tuple[str, ...]
    responsibilities: tuple[str, ...]
    industries: tuple[str, ...]
    degrees: tuple[str, ...]


@dataclass(frozen=True)
class Bank:
    """All skills and occupations, in the order of the files (families by name, general last)."""

    skills: tuple[Skill, ...]
    occupations: tuple[Occupation, ...]

    @property
    def families(self) -> list[str]:
        """The twelve families of occupations."""
        return list(dict.fromkeys(occupation.family for occupation in self.occupations))

    @cached_property
    def neighbours(self) -> dict[str, list[Occupation]]:
        """The occupations of every family."""
        return {name: [entry for entry in self.occupations if entry.family == name] for name in self.families}

    def first(self, n: int) -> Bank:
        """A bank of the first `n` families and the general skills."""
        kept = {*self.families[:n], GENERAL}
        skills = tuple(skill for skill in self.skills if skill.family in kept)
        return Bank(skills, tuple(entry for entry in self.occupations if entry.family in kept))


def phrases(options: Sequence[str], kind: str, held_out: bool) -> Sequence[str]:
    """The part of a phrase list that a training document (or a held-out one) may use."""
    return options[TRAIN_PHRASES[kind] :] if held_out else options[: TRAIN_PHRASES[kind]]


@cache
def load_bank() -> Bank:
    """Read the phrase bank shipped with the package."""
    folder = files("confitlib.market") / "phrases"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    contents = [json.loads((folder / name).read_text(encoding="utf-8")) for name in names]
    contents.sort(key=lambda content: content["family"] == GENERAL)
    skills = [_skill(key, entry, content["family"]) for content in contents for key, entry in content["skills"].items()]
    occupations = [
        _occupation(key, entry, content["family"])
        for content in contents
        for key, entry in content.get("occupations", {}).items()
    ]
    return Bank(tuple(skills), tuple(occupations))


def _skill(key: str, entry: dict[str, Any], family: str) -> Skill:
    lists = {field: tuple(entry[field]) for field in ("resume_terms", "job_terms", "bullets", "requirements")}
    return Skill(id=key, name=entry["name"], family=family, **lists)


def _occupation(key: str, entry: dict[str, Any], family: str) -> Occupation:
    fields = ("core", "adjacent", "summaries", "responsibilities", "industries", "degrees")
    lists = {field: tuple(entry[field]) for field in fields}
    titles = tuple(tuple(options) for options in entry["titles"].values())
    return Occupation(id=key, name=entry["name"], family=family, titles=titles, **lists)
