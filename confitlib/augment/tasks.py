"""What can be written for a document: one task each, its prompt with examples, and the checks of its replies."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from string import Template
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import COPY_OF, NEGATIVE_FOR, SIDES, Corpus, Side, duplicate_groups, other
from confitlib.llm.requests import RUN, Check, Request, common, escape, fence, prompt, runs
from confitlib.text import SOURCES, Language, language_of, texts, words
from confitlib.util import generator_of, read_yaml

LEAKED = 0.3
NOUNS: dict[Language, dict[Side, str]] = read_yaml(Path(__file__).with_name("nouns.yaml"), dict)
EXAMPLE = re.compile(r"\[The start of the example \w+\]\n(.*?)\n?\[The end of the example \w+\]", re.DOTALL)
SOURCE = "|".join(source for by_language in SOURCES.values() for source in by_language.values())
HEADING = re.compile(rf"^(?:{SOURCE}): section [^:\n]*:", re.MULTILINE)
FENCED = re.compile(r"```[\w-]*\n(.*?)\n?```", re.DOTALL)
VERDICT = re.compile(r"\n\s*(?:Self-check|自检)\s*[::：]\s*(.*)\s*$", re.IGNORECASE)
UNSUITABLE = re.compile(r"unsuitable|不合适|不符合", re.IGNORECASE)


@dataclass(frozen=True)
class Task:
    """One kind of writing.

    `sides`: whose documents it is asked for. `pool`: for which of them by default (`count` of the training ones, drawn
    by seed), and `variants` how often. `shows_pair`: the prompt shows an accepted pair. `same_side`: the reply rewrites
    the document; else it is a document of the other side. `checked`: the prompt shows what the document was accepted
    with, and the reply ends in a self-check.
    """

    name: str
    sides: Sequence[Side] = SIDES
    pool: Literal["all", "held out", "training"] = "all"
    count: int | None = None
    variants: int = 1
    shows_pair: bool = False
    same_side: bool = False
    checked: bool = False

    def documents(self, corpus: Corpus, side: Side, seed: int) -> list[str]:
        """The documents of a side that the task is asked for by default."""
        if self.pool == "training":
            return draw_originals(corpus, side, self.count, seed)
        if self.pool == "held out":
            return list(dict.fromkeys([*corpus.pool(side, "valid"), *corpus.pool(side, "test")]))
        return corpus.documents(side).index.tolist()

    def check(self, request: Request, reply: str) -> str | None:
        """What is wrong with a reply to a request of the task, or None.

        A good reply repeats less than 30 % of the five-word runs of any example in its prompt (our choice). Where it
        follows another document, the accepted one in the prompt or the one that it rewrites, it has the same section
        headings in the same order and begins with the first.
        """
        examples = EXAMPLE.findall(request.messages[0]["content"])
        # 1. what holds for every task, copied examples, and the self-check where one is asked for
        fault = common(request, reply)
        if fault is None and any(overlap(example, reply) > LEAKED for example in examples):
            fault = "the reply repeats the example"
        if fault is None and self.checked:
            fault = read_self_check(reply)[1]
        # 2. the headings of the document that it follows
        if fault is None and (self.checked or self.same_side):
            document, wanted = self.document_in(reply), HEADING.findall(examples[0] if examples else request.source)
            headings = HEADING.findall(document)
            if headings != wanted or (wanted and not document.startswith(wanted[0])):
                fault = f"sections not kept: {headings} instead of {wanted}"
        return fault

    def document_in(self, reply: str) -> str:
        """The document of a reply, without self-check, code fence and blank lines around it."""
        document = (read_self_check(reply)[0] if self.checked else reply).strip()
        fenced = FENCED.fullmatch(document)
        return fenced[1].strip() if fenced else document


TASKS = {name: Task(name, **one) for name, one in read_yaml(Path(__file__).with_name("tasks.yaml"), dict).items()}
COPIES = TASKS["paraphrase"].count


def task_named(name: str) -> Task:
    """A task by name; raises ValueError if there is none."""
    if name not in TASKS:
        raise ValueError(f"task {name!r} is unknown: use one of {', '.join(TASKS)}")
    return TASKS[name]


@dataclass(frozen=True)
class Generations:
    """Texts written for documents, by id; a document that none could be written for is in `problems` with the reason.

    `generator` labels who wrote. `sources` names, by id, the documents that the offline writer took from.
    """

    generator: str
    texts: Mapping[str, Sequence[str]]
    problems: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def first(self) -> dict[str, str]:
        """The first text of every document that has one."""
        return {name: options[0] for name, options in self.texts.items()}

    def report(self) -> str:
        """One line: how many documents by whom, and why the others have none."""
        done, reasons = len(self.texts), Counter(problem.split(":")[0] for problem in self.problems.values())
        missing = "".join(f"; {count:,} without: {reason}" for reason, count in reasons.most_common())
        return f"{done:,} documents by the {self.generator}{missing}"


def draw_originals(corpus: Corpus, side: Side, count: int | None, seed: int) -> list[str]:
    """`count` training documents of a side drawn with a seed (None, or more than there are: all), in frame order.

    Copies and synthetic documents are no originals.
    """
    frame = corpus.documents(side).loc[corpus.pool(side, "train")]
    ids = frame.index[is_original(frame, COPY_OF, NEGATIVE_FOR)].to_numpy()
    if count is not None and count < len(ids):
        ids = ids[np.sort(np.random.default_rng([seed, SIDES.index(side)]).choice(len(ids), count, replace=False))]
    return list(ids)


def is_original(frame: pd.DataFrame, *columns: str) -> NDArray[np.bool_]:
    """Which documents have nothing in the given columns."""
    return np.asarray((frame.reindex(columns=list(columns), fill_value="").fillna("") == "").all(axis=1))


class AcceptedPairs:
    """Accepted training pairs of original documents, seen from one side: `own` is of that side, `partner` of the other.

    Labels of validation and test are never read. `allowed` leaves out the pairs that would tell a document its own
    answer: its own, those of its copies and duplicates, and every pair with a partner that they were accepted with.
    Raises ValueError for a corpus without an accepted training pair.
    """

    def __init__(self, corpus: Corpus, side: Side) -> None:
        pairs = corpus.labelled("train", 1)[[f"{side}_id", f"{other(side)}_id"]].set_axis(["own", "partner"], axis=1)
        for column, frame in (("own", corpus.documents(side)), ("partner", corpus.documents(other(side)))):
            pairs = pairs[pairs[column].isin(frame.index[is_original(frame, COPY_OF)])]
        if pairs.empty:
            raise ValueError(f"corpus {corpus.name!r} has no accepted training pair to write from")
        self.pairs = pairs.reset_index(drop=True)
        # copies and duplicates share a number: of all documents of the side, and of both columns of the pairs
        groups = [duplicate_groups(corpus, one).astype("category").cat.codes for one in (side, other(side))]
        self._groups, partners = groups
        self._own = self._groups.loc[self.pairs["own"]].to_numpy()
        self._partner = partners.loc[self.pairs["partner"]].to_numpy()

    def allowed(self, name: str) -> NDArray[np.intp]:
        """Rows of `pairs` that document `name` may see, in label order."""
        same = self._own == self._groups[name]
        return np.flatnonzero(~same & ~np.isin(self._partner, self._partner[same]))


@cache
def load_prompt(task: str, version: str) -> dict[str, Template]:
    """The parts of a prompt (`# part` in `prompts/{task}.{version}.md`) by name.

    `version` is a language, or "official" for released HyRe. Raises ValueError for a prompt that is not there.
    """
    path = Path(__file__).parents[1] / "prompts" / f"{task}.{version}.md"
    if not path.is_file():
        raise ValueError(f"no prompt {path.name}: task {task!r} has no version {version!r}")
    parts = re.split(r"^# (\w+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: Template(text.strip("\n")) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def language_of_corpus(corpus: Corpus, side: Side) -> Language:
    """The language of most of the first 50 documents of a side."""
    frame = corpus.documents(side).head(50)[corpus.fields(side)].astype("str").fillna("")
    chinese = sum(language_of(" ".join(row)) == "zh" for row in frame.itertuples(index=False))
    return "zh" if 2 * chinese > len(frame) else "en"


class PromptBuilder:
    """Builds the prompts of a task for documents of one side.

    Examples are accepted training pairs, drawn for each document by `seed`, never its own. `official`: the released
    HyRe prompt and clean-up instead of the kit's. Raises ValueError where the task has no official form.
    """

    def __init__(self, task: Task, corpus: Corpus, side: Side, seed: int = 0, official: bool = False) -> None:
        if official and task.name != "hyre":
            raise ValueError(f"official=True is the released HyRe prompt, not {task.name!r}")
        self.task, self.side, self.seed, self.official = task, side, seed, official
        self.texts = {one: texts(corpus, one, hyre=False) for one in SIDES}
        self.language = language_of_corpus(corpus, side)
        self.parts = load_prompt(task.name, "official" if official else self.language)
        self.pairs = AcceptedPairs(corpus, side) if task.shows_pair else None
        self.check: Check | None = None if official else task.check  # the released code looks at nothing
        self.document_in = official_clean if official else task.document_in

    def requests(self, ids: Sequence[str], model: str, variants: int = 1) -> list[Request]:
        """`variants` requests for every document in a row; sampling is left to the server, as in the released code."""
        own = self.texts[self.side]
        asked = [Request(model, prompt(self.prompt(name)), about=name, source=str(own[name])) for name in ids]
        return [replace(one, sample=i) for one in asked for i in range(variants)]

    def prompt(self, name: str) -> str:
        """The prompt for one document; texts of documents are fenced and cannot close their fence."""
        # 1. the document, and the pair that is shown with it
        text, example = str(self.texts[self.side][name]), {}
        for side, one in self.example(name).items():
            example[f"example_{side}"] = fence(f"example {side}", str(self.texts[side][one]))
        if self.official and not example:
            raise ValueError(f"the released prompt needs an example, and {self.side} {name!r} may see no accepted pair")
        # 2. the released prompt, or the kit's
        if self.official:
            return self.parts["user"].substitute(example, document=escape(text))
        nouns, writes = NOUNS[self.language], self.side if self.task.same_side else other(self.side)
        values = {"given": nouns[self.side], "wanted": nouns[writes], "document": fence(f"target {self.side}", text)}
        if self.task.checked:
            values["example"] = example.get(f"example_{writes}", "")
        elif self.pairs is not None:
            values["examples"] = self.parts["example"].substitute(example) if example else ""
        return self.parts["user"].substitute(values)

    def example(self, name: str) -> dict[Side, str]:
        """The ids of the pair shown with a document: drawn by seed and its id alone, whoever else is asked for.

        For `syneg` a pair of its own; for all others one that it may see (`AcceptedPairs`). Empty where there is none.
        """
        if self.pairs is None:
            return {}
        table = self.pairs.pairs
        options = np.flatnonzero(table["own"] == name) if self.task.checked else self.pairs.allowed(name)
        if not len(options):
            return {}
        own, partner = table.iloc[generator_of(self.seed, name).choice(options, 1, replace=False)[0]]
        return {self.side: own, other(self.side): partner}


def requests_of(task: Task, corpus: Corpus, model: str, seed: int) -> list[Request]:
    """All requests of a task about a corpus: the documents and variants that its augmentation asks for by default."""
    asked = [(PromptBuilder(task, corpus, side, seed), task.documents(corpus, side, seed)) for side in task.sides]
    return [one for builder, ids in asked for one in builder.requests(ids, model, task.variants)]


# Reading replies


def official_clean(reply: str) -> str:
    """What the released clean-up makes of a reply: markers go, and one that is cut off leaves its tail.

    `"Jane\\n[The end of the target resume"` becomes `"Janethe target resume"`, because a lazy `.*?` at the end of a
    pattern matches nothing. Source: src/utils/convert_by_llm.py lines 68-72 of the official code.
    """
    return re.sub(r"\n?\[The (?:start|end) of ", "", re.sub(r"\n?\[The (?:start|end) of [^\]\n]*\]\n?", "", reply))


def read_self_check(reply: str) -> tuple[str, str | None]:
    """The document of a SyNeg reply, and what is wrong: no self-check, or one that calls the document suitable."""
    verdict = VERDICT.search("\n" + reply)
    if verdict is None:
        return reply, "no self-check at the end"
    document = ("\n" + reply)[: verdict.start()].strip()
    return document, None if UNSUITABLE.search(verdict[1]) else "the self-check calls it suitable"


def overlap(text: str, within: str) -> float:
    """The share of a text's runs of five words (or of all its words, if it has fewer) that `within` holds too."""
    size = min(RUN, len(words(text)))
    wanted = runs(words(text), size)
    return len(wanted & runs(words(within), size)) / max(1, len(wanted))
