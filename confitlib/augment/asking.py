"""Requests to a language model for every task, and what is wrong with its replies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from string import Template

import numpy as np
import pandas as pd

from confitlib.augment.pairs import AcceptedPairs
from confitlib.augment.prompts import NOUNS, language_of_corpus, load_prompt
from confitlib.augment.syneg import read_self_check
from confitlib.augment.tasks import TASKS, Task, without_fence
from confitlib.corpus import SIDES, Corpus, Side, other
from confitlib.llm.checks import all_of, common, not_empty
from confitlib.llm.requests import Check, Request, prompt
from confitlib.llm.safety import escape, fence
from confitlib.llm.tasks import Task as RequestTask
from confitlib.llm.tasks import register
from confitlib.text import SOURCES, Language, texts, words
from confitlib.util import generator_of

SHINGLE = 5
LEAKED = 0.3
EXAMPLE = re.compile(r"\[The start of the example \w+\]\n(.*?)\n?\[The end of the example \w+\]", re.DOTALL)
SOURCE = "|".join(source for by_language in SOURCES.values() for source in by_language.values())
HEADING = re.compile(rf"^(?:{SOURCE}): section [^:\n]*:", re.MULTILINE)


@dataclass(frozen=True, eq=False)
class Asking:
    """How the documents of one side are asked about.

    `shots`: accepted training pairs shown, drawn for each document by `seed`, never its own (None: as many as the
    task wants). `official`: the released HyRe prompt and clean-up instead of the kit's. Raises ValueError where the
    task has no official form.
    """

    task: Task
    corpus: Corpus
    side: Side
    seed: int = 0
    shots: int | None = None
    official: bool = False

    def __post_init__(self) -> None:
        if self.official and (self.task.name != "hyre" or self.shots not in (None, 1)):
            raise ValueError(f"official=True is the released HyRe prompt with one example, not {self.task.name!r}")

    def requests(self, ids: Sequence[str], model: str, variants: int = 1) -> list[Request]:
        """`variants` requests for every document in a row; sampling is left to the server, as in the released code."""
        return [
            Request(model, prompt(content), sample=sample, about=name, source=str(self._texts[self.side][name]))
            for name, content in zip(ids, map(self.content, ids), strict=True)
            for sample in range(variants)
        ]

    def content(self, name: str) -> str:
        """The prompt for one document; texts of documents are fenced and cannot close their fence."""
        shown = [self._pair(own, partner) for own, partner in self.examples(name).itertuples(index=False)]
        if self.official:
            return self._official(name, shown)
        nouns, own, wanted = NOUNS[self._language], self.side, self.task.writes(self.side)
        values = {"given": nouns[own], "wanted": nouns[wanted], "document": self._fenced("target", own, name)}
        if self.task.checked:
            values["example"] = shown[0][f"example_{wanted}"] if shown else ""
        elif self.task.shots:
            values["examples"] = "\n\n".join(self._parts["example"].substitute(pair) for pair in shown)
        return self._parts["user"].substitute(values)

    def examples(self, name: str) -> pd.DataFrame:
        """The pairs shown with a document (`own`, `partner`): drawn by seed and its id alone, whoever else is asked.

        For `syneg` a pair of its own; for all others one that it may see (`AcceptedPairs`).
        """
        shots = self.task.shots if self.shots is None else self.shots
        if not shots:
            return pd.DataFrame(columns=["own", "partner"])
        table = self._pairs.pairs
        options = np.flatnonzero(table["own"] == name) if self.task.checked else self._pairs.allowed(name)
        rng = generator_of(self.seed, name)
        return table.iloc[rng.choice(options, min(shots, len(options)), replace=False)]

    @property
    def check(self) -> Check:
        """What is wrong with a reply to one of these requests, or None; the released code looks at nothing."""
        return not_empty if self.official else check_of(self.task)

    @cached_property
    def _texts(self) -> dict[Side, pd.Series]:
        return {side: texts(self.corpus, side, hyre=False) for side in SIDES}

    @cached_property
    def _pairs(self) -> AcceptedPairs:
        return AcceptedPairs(self.corpus, self.side)

    @cached_property
    def _language(self) -> Language:
        return language_of_corpus(self.corpus, self.side)

    @cached_property
    def _parts(self) -> dict[str, Template]:
        return load_prompt(self.task.name, "official" if self.official else self._language)

    def _fenced(self, role: str, side: Side, name: str) -> str:
        return fence(f"{role} {side}", str(self._texts[side][name]))

    def _pair(self, own: str, partner: str) -> dict[str, str]:
        pair = {self.side: own, other(self.side): partner}
        return {f"example_{side}": self._fenced("example", side, name) for side, name in pair.items()}

    def _official(self, name: str, shown: Sequence[dict[str, str]]) -> str:
        if not shown:
            raise ValueError(f"the released prompt needs an example, and {self.side} {name!r} may see no accepted pair")
        return self._parts["user"].substitute(shown[0], document=escape(str(self._texts[self.side][name])))


def check_of(task: Task) -> Check:
    """What is wrong with a reply to a request of a task, or None."""
    kept = [sections_kept] if task.same_side or task.checked else []
    return all_of(common, no_example, *([self_checked] if task.checked else []), *kept)


def requests_of(task: Task, corpus: Corpus, model: str, seed: int) -> list[Request]:
    """All requests of a task about a corpus: the documents and variants that its augmentation asks for by default."""
    asked = {side: Asking(task, corpus, side, seed) for side in task.sides}
    return [
        one
        for side, asking in asked.items()
        for one in asking.requests(task.documents(corpus, side, seed), model, task.variants)
    ]


def no_example(request: Request, reply: str) -> str | None:
    """A reply repeats less than 30 % of the word runs (five long) of any example in its prompt (our choice)."""
    shown = EXAMPLE.findall(request.messages[0]["content"])
    return "the reply repeats the example" if any(overlap(text, reply) > LEAKED for text in shown) else None


def sections_kept(request: Request, reply: str) -> str | None:
    """A reply opens with and has the section headings of its model: the accepted document shown, or the source."""
    shown = EXAMPLE.findall(request.messages[0]["content"])
    wanted = HEADING.findall(shown[0] if shown else request.source)
    document = without_fence(read_self_check(reply)[0])
    found = HEADING.findall(document)
    if found != wanted or (wanted and not document.startswith(wanted[0])):
        return f"sections not kept: {found} instead of {wanted}"
    return None


def self_checked(request: Request, reply: str) -> str | None:
    """A SyNeg reply ends in a self-check that calls its document unsuitable."""
    return read_self_check(reply)[1]


def overlap(text: str, within: str) -> float:
    """The share of a text's runs of five words (or of all its words, if it has fewer) that `within` holds too."""
    own, others = words(text), words(within)
    size = min(SHINGLE, len(own))
    runs = _runs(own, size)
    return len(runs & _runs(others, size)) / max(1, len(runs))


def _runs(tokens: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)} if size else set()


for _task in TASKS.values():
    register(RequestTask(_task.name, partial(requests_of, _task), check_of(_task)))
