"""Second stages: rankers that put the top of another ranker's list into a better order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from confitlib.corpus import Corpus, Side, other
from confitlib.rankers.base import Ranker, Scores

FIRST = "first"  # the folder of the first stage


class Reranker(Ranker):
    """Base of re-rankers: `first` ranks all candidates of a query, `reorder` puts its `top` ones in a new order.

    The top candidates are dealt the first stage's own best scores anew, so every candidate keeps a score, those below
    the cut keep theirs, and nobody rises above or falls below the cut. Pairs outside a list are scored by the first
    stage alone.
    """

    first: Ranker
    top: int

    def learn(self, corpus: Corpus) -> Self:
        """Let the first stage learn."""
        self.first.learn(corpus)
        return self

    def index(self, corpus: Corpus) -> Self:
        """Index both stages."""
        self.corpus = corpus
        self.first.index(corpus)
        return self

    @abstractmethod
    def reorder(self, target: Side, lists: Sequence[tuple[str, list[str]]]) -> Iterable[Sequence[int]]:
        """For every query and its candidates, best first, their places in the new order (a permutation)."""

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Scores of the first stage, dealt anew among the top candidates of each query."""
        ids = {"resume": list(resume_ids), "job": list(job_ids)}
        scores = np.array(self.first.score(ids["resume"], ids["job"], target), dtype=np.float32)
        by_query = scores.T if target == "resume" else scores  # a view: dealing changes `scores`
        if not by_query.size:
            return scores
        tops = np.argsort(-by_query, axis=1, kind="stable")[:, : self.top]
        lists = [
            (query, [ids[target][place] for place in top]) for query, top in zip(ids[other(target)], tops, strict=True)
        ]
        for row, top, order in zip(by_query, tops, self._orders(target, lists), strict=True):
            deal(row, top, order)
        return scores

    def _orders(self, target: Side, lists: Sequence[tuple[str, list[str]]]) -> Iterator[Sequence[int]]:
        orders = self.reorder(target, lists)
        return iter(tqdm(orders, total=len(lists), desc=f"{self.name}: {target}s", unit="list", delay=2))

    @property
    def n_parameters(self) -> int:
        """What the first stage learns."""
        return self.first.n_parameters

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """The first stage's scores: a second stage orders lists."""
        return self.first.score_pairs(resume_ids, job_ids)

    def _save_learnt(self, folder: Path) -> None:
        self.first.save(folder / FIRST)

    def _parameters(self) -> dict[str, Any]:
        own = super()._parameters()
        del own["first"]  # saved in a folder of its own
        return own


def deal(row: NDArray[np.float32], top: NDArray[np.intp], order: Sequence[int]) -> None:
    """Give the best scores of a row to the places `top[order]`, best first, in place; ties become strict.

    A tie is broken upwards by the least amount, so that no candidate of the top falls below the cut.
    """
    best = row[top].copy()
    below = np.delete(row, top).max(initial=-np.inf)
    for place in reversed(range(len(best))):
        least = np.nextafter(below, np.float32(np.inf)) if np.isfinite(below) else best[place]
        best[place] = below = max(best[place], least)
    row[top[np.asarray(order, dtype=np.intp)]] = best
