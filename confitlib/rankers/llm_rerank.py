"""A listwise second stage: a language model orders the top candidates of every query."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from confitlib.augment.tasks import NOUNS, language_of_corpus, load_prompt
from confitlib.corpus import Corpus, Side, other
from confitlib.llm import Answer, Client, Request, prompt
from confitlib.llm.requests import fence
from confitlib.rankers.base import Ranker
from confitlib.rankers.dense import RawEmbed
from confitlib.rankers.rerank import Reranker
from confitlib.text import texts


class LLMReranker(Reranker):
    """Re-orders the `top` candidates of `first` by one request a query, as ConFit v3 does with its top 20.

    `first`: any ranker, by default `RawEmbed("static")`. `store`: the file of recorded replies; what it lacks is
    asked of the endpoint in the environment (`Client`), and without one the first stage's order stays. `characters`:
    how much of each document is shown. A reply is repaired where it can be: numbers that repeat or name nobody are
    dropped, candidates it forgets follow in the first stage's order. `faults` counts the lists with each of these,
    and those `unanswered`.
    """

    def __init__(
        self,
        first: Ranker | None = None,
        store: str = "replies.jsonl",
        model: str = "gpt-4o-mini",
        top: int = 20,
        characters: int = 1_500,
    ) -> None:
        self.first = RawEmbed("static") if first is None else first
        self.store, self.model, self.top, self.characters = store, model, top, characters
        self.faults: Counter[str] = Counter()

    @property
    def name(self) -> str:  # type: ignore[override]
        """Names both stages."""
        return f"{self.first.name} + {self.model}"

    def reorder(self, target: Side, lists: Sequence[tuple[str, list[str]]]) -> list[list[int]]:
        """Candidates in the order of the model's replies; adds to `faults`."""
        requests = self.requests(self.corpus, target, lists)
        answers = Client(self.store, model=self.model).complete(requests, check=names_a_candidate)
        orders = []
        for answer, (_, candidates) in zip(answers, lists, strict=True):
            order, faults = _order_of(answer, len(candidates))
            self.faults.update(faults)
            orders.append(order)
        return orders

    def requests(self, corpus: Corpus, target: Side, lists: Sequence[tuple[str, list[str]]]) -> list[Request]:
        """One request a query, for a server or a batch file; equal lists give equal requests."""
        documents = {side: texts(corpus, side).str.slice(stop=self.characters) for side in (target, other(target))}
        template = load_prompt("rerank", language := language_of_corpus(corpus, other(target)))["user"]
        given = NOUNS[language][other(target)]
        made = []
        for query, candidates in lists:
            shown = [f"[{n}]\n{fence('candidate', documents[target][one])}" for n, one in enumerate(candidates, 1)]
            document = fence(given, documents[other(target)][query])
            parts = {"given": given, "count": len(candidates), "document": document, "candidates": "\n\n".join(shown)}
            made.append(Request(self.model, prompt(template.substitute(parts)), temperature=0.0, about=query))
        return made


def names_a_candidate(request: Request, reply: str) -> str | None:
    """A reply holds a number."""
    return None if re.search(r"\d", reply) else "no candidate number in the reply"


def parse_order(reply: str, count: int) -> tuple[list[int], Counter[str]]:
    """The order a reply gives to `count` candidates, as places from 0, and the faults repaired on the way.

    Numbers in square brackets count; without any, all numbers do. Every candidate is in the order exactly once:
    repeated and unknown numbers are dropped, forgotten candidates are appended in their old order.
    """
    numbers = [int(number) - 1 for number in re.findall(r"\[(\d+)\]", reply) or re.findall(r"\d+", reply)]
    known = [number for number in numbers if 0 <= number < count]
    order = list(dict.fromkeys(known))
    forgotten = [number for number in range(count) if number not in set(order)]
    found = {"unknown": len(known) < len(numbers), "repeated": len(order) < len(known), "forgotten": bool(forgotten)}
    return [*order, *forgotten], Counter(fault for fault, present in found.items() if present)


def _order_of(answer: Answer, count: int) -> tuple[list[int], Counter[str]]:
    """The order of an answer; without a text the first stage's."""
    if answer.text is None:
        return list(range(count)), Counter(["unanswered"])
    return parse_order(answer.text, count)
