"""What can be written for a document: one task each, with the examples it needs and its offline stand-in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from confitlib.augment.copies import draw_originals
from confitlib.augment.lines import paraphrase_offline
from confitlib.augment.offline import OfflineWriter
from confitlib.augment.syneg import read_self_check, synthetic_offline
from confitlib.augment.written import Written
from confitlib.corpus import SIDES, Corpus, Side, other

Offline = Callable[[Corpus, Side, Sequence[str], int, int], Written]
Chooser = Callable[[Corpus, Side, int], list[str]]

COPIES = 500


@dataclass(frozen=True)
class Task:
    """One kind of writing.

    `sides`: whose documents it is asked for. `offline`: what writes without an LLM. `documents`: those it is asked
    for by default, and `variants` how often. `shots`: accepted pairs that the prompt shows. `same_side`: the reply
    rewrites the document; else it is a document of the other side. `checked`: the prompt shows what the document was
    accepted with, and the reply ends in a self-check.
    """

    name: str
    sides: tuple[Side, ...]
    offline: Offline
    documents: Chooser
    variants: int = 1
    shots: int = 0
    same_side: bool = False
    checked: bool = False

    def writes(self, side: Side) -> Side:
        """The side of the reply to a document of `side`."""
        return side if self.same_side else other(side)

    def document_in(self, reply: str) -> str:
        """The document of a checked reply, without self-check, code fence and blank lines around it."""
        return without_fence(read_self_check(reply)[0] if self.checked else reply)


def without_fence(reply: str) -> str:
    """A reply without the code fence and blank lines that models like to put around it."""
    fenced = re.fullmatch(r"```[\w-]*\n(.*?)\n?```", reply.strip(), flags=re.DOTALL)
    return (fenced[1] if fenced else reply).strip()


def _hypothetical(corpus: Corpus, side: Side, ids: Sequence[str], variants: int, seed: int) -> Written:
    return OfflineWriter().write(corpus, side, ids, variants)


def every(corpus: Corpus, side: Side, seed: int) -> list[str]:
    """All documents of a side."""
    return corpus.documents(side).index.tolist()


def held_out(corpus: Corpus, side: Side, seed: int) -> list[str]:
    """The documents of a side that validation and test use."""
    return list(dict.fromkeys([*corpus.pool(side, "valid"), *corpus.pool(side, "test")]))


def some_training(corpus: Corpus, side: Side, seed: int) -> list[str]:
    """500 training documents of a side, drawn by seed (as many as ConFit v1 had rewritten)."""
    return draw_originals(corpus, side, COPIES, seed)


def all_training(corpus: Corpus, side: Side, seed: int) -> list[str]:
    """All training documents of a side."""
    return draw_originals(corpus, side, None, seed)


TASKS = {
    task.name: task
    for task in (
        Task("hyre", ("job",), _hypothetical, every, shots=1),
        Task("hyjob", ("resume",), _hypothetical, every, shots=1),
        Task("hyde", SIDES, _hypothetical, held_out, variants=8),
        Task("hyqe", SIDES, _hypothetical, held_out),
        Task("paraphrase", SIDES, paraphrase_offline, some_training, same_side=True),
        Task("syneg", SIDES, synthetic_offline, all_training, shots=1, checked=True),
    )
}


def task_named(name: str, side: Side) -> Task:
    """A task by name; raises ValueError if there is none, or not for documents of this side."""
    if name not in TASKS:
        raise ValueError(f"task {name!r} is unknown: use one of {', '.join(TASKS)}")
    if side not in TASKS[name].sides:
        raise ValueError(f"task {name!r} is asked for {TASKS[name].sides[0]}s, not for {side}s")
    return TASKS[name]


def official_clean(reply: str) -> str:
    """What the released clean-up makes of a reply: markers go, and one that is cut off leaves its tail.

    `"Jane\\n[The end of the target resume"` becomes `"Janethe target resume"`, because a lazy `.*?` at the end of a
    pattern matches nothing. Source: src/utils/convert_by_llm.py lines 68-72 of the official code.
    """
    whole = re.sub(r"\n?\[The (?:start|end) of [^\]\n]*\]\n?", "", reply)
    return re.sub(r"\n?\[The (?:start|end) of ", "", whole)
