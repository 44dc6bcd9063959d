"""Second stages: rankers that put the top of another ranker's list into a better order."""

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from tqdm.auto import tqdm

from confitlib.augment.tasks import NOUNS, language_of_corpus, load_prompt
from confitlib.corpus import Corpus, Side, other
from confitlib.llm import Client, Request, prompt
from confitlib.llm.requests import fence
from confitlib.rankers.base import Ranker, Rows, Scores
from confitlib.rankers.dense import RawEmbed
from confitlib.text import texts
from confitlib.util import check_range

CHARACTERS = 4_000  # shown of each document: whole ones of the market, the start of longer ones
Lists = Sequence[tuple[str, list[str]]]  # queries, each with its best candidates, best first


class Reranker(Ranker):
    """Base of re-rankers: `retriever` ranks all candidates of a query, `reorder` puts its `top` ones in a new order.

    The retriever's best scores are given to the top candidates in their new order. So every candidate keeps a score,
    those below the cut keep theirs, and nobody rises above or falls below the cut. Pairs outside a list are scored by
    the retriever alone.
    """

    retriever: Ranker
    top: int

    def learn(self, corpus: Corpus) -> Self:
        """Let the retriever learn."""
        self.n_parameters = self.retriever.learn(corpus).n_parameters
        return self

    def prepare(self, corpus: Corpus) -> None:
        """Index the documents in the first stage too."""
        self.retriever.index(corpus)

    @abstractmethod
    def reorder(self, target: Side, lists: Lists) -> Iterable[Sequence[int]]:
        """For every query and its candidates, best first, their places in the new order (a permutation)."""

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Scores of the retriever, reassigned among the top candidates of each query."""
        # 1. the retriever's scores, and the best candidates of each query
        ids = {"resume": list(resume_ids), "job": list(job_ids)}
        scores = np.array(self.retriever.score(ids["resume"], ids["job"], target), dtype=np.float32)
        by_query = scores.T if target == "resume" else scores  # a view: what is assigned to it is in `scores`
        if not by_query.size:
            return scores
        tops = np.argsort(-by_query, axis=1, kind="stable")[:, : self.top]  # [queries, top]
        queries = zip(ids[other(target)], tops, strict=True)
        lists = [(query, [ids[target][place] for place in top]) for query, top in queries]
        # 2. their scores in the new order
        orders = tqdm(self.reorder(target, lists), f"{self.name}: {target}s", len(lists), unit="list", delay=2)
        for row, top, order in zip(by_query, tops, orders, strict=True):
            reassign_top_scores(row, top, order)
        return scores

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """The retriever's scores: a second stage orders lists."""
        return self.retriever.score_pairs(resume_ids, job_ids)


def reassign_top_scores(row: Scores, top: Rows, order: Sequence[int]) -> None:
    """Give the best scores of a row to the places `top[order]`, best first, in place; ties become strict.

    A tie is broken upwards by the least amount, so that no candidate of the top falls below the cut.
    """
    best = row[top].copy()
    below = np.delete(row, top).max(initial=-np.inf)
    for place in reversed(range(len(best))):
        least = np.nextafter(below, np.float32(np.inf)) if np.isfinite(below) else best[place]
        best[place] = below = max(best[place], least)
    row[top[np.asarray(order, dtype=np.intp)]] = best


@dataclass(eq=False, repr=False)
class LLMReranker(Reranker):
    """Re-orders the `top` candidates of `retriever` by a language model's replies, as ConFit v3 does with its top 20.

    `retriever`: any ranker. `store`: the file of recorded replies; what it lacks is asked of the endpoint in the
    environment (`Client`), and without one the order stays. `window`: how many candidates a request shows (None: the
    whole list), see `window_starts`. A reply is repaired where it can be: numbers that repeat or name nobody are
    dropped, candidates it forgets follow in their old order. `faults` counts the replies with each of these, and those
    `unanswered`.
    """

    retriever: Ranker = field(default_factory=lambda: RawEmbed("static"))
    store: str = "replies.jsonl"
    model: str = "gpt-4o-mini"
    top: int = 20
    window: int | None = None
    stride: int = 2
    passes: int = 1

    def __post_init__(self) -> None:
        check_range(self, "window", least=2)
        check_range(self, "stride", "passes", least=1)
        if self.window is not None and self.stride >= self.window:
            raise ValueError(f"stride={self.stride} must be less than window={self.window}: windows have to overlap")
        self.name = f"{self.retriever.name} + {self.model}"
        self.faults: Counter[str] = Counter()

    def reorder(self, target: Side, lists: Lists) -> list[list[int]]:
        """Candidates in the order of the model's replies; adds to `faults`."""
        client, no_number = Client(self.store, model=self.model), "no candidate number in the reply"
        orders = [list(range(len(candidates))) for _, candidates in lists]
        size = max(map(len, orders), default=0)
        window = self.window or size
        for start in window_starts(size, window, self.stride, self.passes):
            # 1. a reply to the window of each list; one without any number is asked for again
            cut = slice(start, start + window)
            shown = [(query, [ids[k] for k in order[cut]]) for (query, ids), order in zip(lists, orders, strict=True)]
            requests = self.requests(self.corpus, target, shown)
            answers = client.complete(requests, check=lambda _, reply: None if re.search(r"\d", reply) else no_number)
            # 2. its order; without a reply the one before stays
            for answer, order in zip(answers, orders, strict=True):
                places, faults = list(range(len(order[cut]))), Counter(["unanswered"])
                if answer.text is not None:
                    places, faults = parse_order(answer.text, len(places))
                order[cut] = [order[cut][place] for place in places]
                self.faults.update(faults)
        return orders

    def requests(self, corpus: Corpus, target: Side, lists: Lists) -> list[Request]:
        """One request a query, for a server or a batch file; equal lists give equal requests."""
        documents = {side: texts(corpus, side).str.slice(stop=CHARACTERS) for side in (target, other(target))}
        template = load_prompt("rerank", language := language_of_corpus(corpus, other(target)))["user"]
        given = NOUNS[language][other(target)]
        requests = []
        for query, candidates in lists:
            shown = [f"[{n}]\n{fence('candidate', documents[target][one])}" for n, one in enumerate(candidates, 1)]
            document = fence(given, documents[other(target)][query])
            parts = {"given": given, "count": len(candidates), "document": document, "candidates": "\n\n".join(shown)}
            requests.append(Request(self.model, prompt(template.substitute(parts)), temperature=0.0, about=query))
        return requests


def window_starts(count: int, window: int, stride: int, passes: int = 1) -> list[int]:
    """Where the windows over a list of `count` begin: from its end to its top, pass after pass.

    A pass carries `window - stride` candidates all the way up. Source: ConFit v3 (windows of 4, stride 2),
    reranking/list_prompt_based_reranker.py:83-118, which skips the top where the stride does not meet it; we do not.
    """
    return [*range(count - window, 0, -stride), 0] * passes


def parse_order(reply: str, count: int) -> tuple[list[int], Counter[str]]:
    """The order a reply gives to `count` candidates, as places from 0, and the faults repaired on the way.

    Numbers in square brackets count; without any, all numbers do. Every candidate is in the order exactly once:
    repeated and unknown numbers are dropped, forgotten candidates are appended in their old order.
    """
    numbers = [int(number) - 1 for number in re.findall(r"\[(\d+)\]", reply) or re.findall(r"\d+", reply)]
    valid = [number for number in numbers if 0 <= number < count]
    order = list(dict.fromkeys(valid))
    forgotten = [number for number in range(count) if number not in set(order)]
    faults = {"unknown": len(valid) < len(numbers), "repeated": len(order) < len(valid), "forgotten": bool(forgotten)}
    return [*order, *forgotten], Counter(fault for fault, present in faults.items() if present)
