"""What can be written for a document: one task each, with the examples it needs and its offline stand-in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from confitlib.augment.offline import OfflineWriter
from confitlib.augment.paraphrase import paraphrase_offline
from confitlib.augment.syneg import read_self_check, synthetic_offline
from confitlib.augment.written import Written
from confitlib.corpus import SIDES, Corpus, Side, other

Offline = Callable[[Corpus, Side, Sequence[str], int, int], Written]


@dataclass(frozen=True)
class Task:
    """One kind of writing.

    `sides`: whose documents it is asked for. `offline`: what writes without an LLM. `shots`: accepted pairs that the
    prompt shows. `same_side`: the reply rewrites the document; else it is a document of the other side. `checked`:
    the prompt shows what the document was accepted with, and the reply ends in a self-check.
    """

    name: str
    sides: tuple[Side, ...]
    offline: Offline
    shots: int = 0
    same_side: bool = False
    checked: bool = False

    def writes(self, side: Side) -> Side:
        """The side of the reply to a document of `side`."""
        return side if self.same_side else other(side)

    def document_in(self, reply: str) -> str:
        """The document of a checked reply, without self-check, code fence and blank lines around it."""
        document = read_self_check(reply)[0] if self.checked else reply
        fenced = re.fullmatch(r"```[\w-]*\n(.*?)\n?```", document.strip(), flags=re.DOTALL)
        return (fenced[1] if fenced else document).strip()


def _hypothetical(corpus: Corpus, side: Side, ids: Sequence[str], variants: int, seed: int) -> Written:
    return OfflineWriter().write(corpus, side, ids, variants)


TASKS = {
    task.name: task
    for task in (
        Task("hyre", ("job",), _hypothetical, shots=1),
        Task("hyjob", ("resume",), _hypothetical, shots=1),
        Task("hyde", SIDES, _hypothetical),
        Task("hyqe", SIDES, _hypothetical),
        Task("paraphrase", SIDES, paraphrase_offline, same_side=True),
        Task("syneg", SIDES, synthetic_offline, shots=1, checked=True),
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
