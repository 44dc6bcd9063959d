"""Rankers that ask for hypothetical documents when they index: HyDE averages them in, HyQE re-scores with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from confitlib.augment import TASKS, Generator, generate
from confitlib.corpus import SIDES, Corpus, Side, other
from confitlib.encoder import TextEncoder
from confitlib.rankers.base import Scores
from confitlib.rankers.dense import RawEmbed, Vectors, averaged

Hypotheses = tuple[NDArray[np.intp], Vectors]


class _Hypothesising(RawEmbed):
    """An untrained encoder that has documents written for those of the validation and test splits.

    `writer`, `seed`: see `confitlib.augment.generate`; a saved ranker keeps the name of its writer.
    """

    task: str
    writer: Generator
    n: int
    seed: int

    def index(self, corpus: Corpus) -> Self:
        """Embed every document of the corpus, and what is written for the held-out ones."""
        self.corpus, model = corpus, self._model()
        self.reports: dict[Side, Any] = {}
        self.embeddings = self._embed(model, corpus)
        self._hypotheses = {side: self._written(corpus, side, model) for side in SIDES}
        return self

    def _written(self, corpus: Corpus, side: Side, model: TextEncoder) -> Hypotheses:
        """Row numbers of documents of a side, one for every text written for them, and unit vectors of the texts."""
        ids = TASKS[self.task].documents(corpus, side, self.seed)
        written = generate(self.task, corpus, side, ids, generator=self.writer, variants=self.n, seed=self.seed)
        self.reports[side] = written.report()
        flat = [(name, text) for name, options in written.texts.items() for text in options]
        vectors = model.encode([text for _, text in flat], progress=False, cache=self._cache(model))
        return corpus.positions(side, [name for name, _ in flat]), vectors

    def _blocks(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> dict[Side, NDArray[np.intp]]:
        return {
            "resume": self.corpus.positions("resume", resume_ids),
            "job": self.corpus.positions("job", job_ids),
        }

    def _parameters(self) -> dict[str, Any]:
        named = self.writer if isinstance(self.writer, str) else self.writer.model
        return {**super()._parameters(), "writer": named}


class HyDE(_Hypothesising):
    """HyDE: the query vector is the mean of the query's and of `n` hypothetical documents' vectors.

    A job that ranks resumes asks for hypothetical resumes, a resume that ranks jobs for hypothetical jobs; no
    training. Source: Gao et al. 2022 (arXiv 2212.10496); texttron/hyde (n=8). Vectors have unit length, which is
    our choice.
    """

    name = "HyDE"
    task = "hyde"

    def __init__(
        self,
        encoder: str = "minilm",
        max_length: int | None = None,
        writer: Generator = "auto",
        n: int = 8,
        seed: int = 0,
        cache: str | None = None,
    ) -> None:
        super().__init__(encoder, max_length, hyre=False, cache=cache)
        self.writer, self.n, self.seed = writer, n, seed

    def index(self, corpus: Corpus) -> Self:
        """Embed the corpus and average hypothetical documents into the held-out queries."""
        super().index(corpus)
        self._queries = {side: averaged(self.embeddings.of(side), *self._hypotheses[side]) for side in SIDES}
        return self

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Cosine of every pair, the query side being averaged."""
        rows = self._blocks(resume_ids, job_ids)
        vectors = {target: self.embeddings.of(target), other(target): self._queries[other(target)]}
        return np.asarray(vectors["resume"][rows["resume"]] @ vectors["job"][rows["job"]].T, dtype=np.float32)

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """Cosine of the given pairs, the jobs being averaged."""
        rows = self._blocks(resume_ids, job_ids)
        resumes, jobs = self.embeddings.resumes[rows["resume"]], self._queries["job"][rows["job"]]
        return np.einsum("nd,nd->n", resumes, jobs)


class HyQE(_Hypothesising):
    """HyQE: the top `first_n` candidates are re-scored by the hypothetical queries they would answer.

    `score + weight * max_j cos(hypothetical query j of the candidate, query)`, `n` of them a candidate. The other
    candidates get the smallest bonus of the top and so stay below it (our choice; the released code drops them); a
    candidate that nothing was written for gets none. `score_pairs` re-scores every pair.
    Source: Zhou et al. 2024 (arXiv 2410.15262); zwc662/hyqe (weight 0.5 for E5-large-v2, first_n 10 to 30, n=1).
    """

    name = "HyQE"
    task = "hyqe"

    def __init__(
        self,
        encoder: str = "minilm",
        max_length: int | None = None,
        writer: Generator = "auto",
        n: int = 1,
        weight: float = 0.5,
        first_n: int = 30,
        seed: int = 0,
        cache: str | None = None,
    ) -> None:
        super().__init__(encoder, max_length, hyre=False, cache=cache)
        self.writer, self.n, self.weight, self.first_n, self.seed = writer, n, weight, first_n, seed

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Re-scored cosine of every pair; each query's candidates are the target documents of this call."""
        rows = self._blocks(resume_ids, job_ids)
        queries = self.embeddings.of(other(target))[rows[other(target)]]
        plain = self.embeddings.of(target)[rows[target]] @ queries.T
        scores = rescored(plain, self._bonus(target, rows[target], queries), self.first_n, self.weight)
        return np.asarray(scores if target == "resume" else scores.T, dtype=np.float32)

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """The formula for every given pair, as if all were among the first; resumes are the candidates."""
        rows = self._blocks(resume_ids, job_ids)
        scores = super().score_pairs(self.corpus.resumes.index[rows["resume"]], self.corpus.jobs.index[rows["job"]])
        for job in np.unique(rows["job"]):
            pairs = np.flatnonzero(rows["job"] == job)
            bonus = self._bonus("resume", rows["resume"][pairs], self.embeddings.jobs[[job]])
            scores[pairs] += self.weight * bonus[:, 0]
        return scores

    def _bonus(self, target: Side, candidates: NDArray[np.intp], queries: Vectors) -> Vectors:
        """The best match of each candidate's hypothetical queries with each query, `[candidates, queries]`."""
        documents, vectors = self._hypotheses[target]
        best = np.full((len(self.corpus.documents(target)), len(queries)), -np.inf, dtype=np.float32)
        wanted = np.isin(documents, candidates)
        np.maximum.at(best, documents[wanted], vectors[wanted] @ queries.T)
        chosen = best[candidates]
        return np.where(np.isneginf(chosen), 0, chosen).astype(np.float32)


def rescored(scores: Vectors, bonus: Vectors, first_n: int, weight: float) -> Vectors:
    """Scores `[candidates, queries]` plus weighted bonus for the `first_n` best of each query, the rest below them."""
    top = np.argsort(-scores, axis=0, kind="stable")[:first_n]
    chosen = np.take_along_axis(bonus, top, axis=0)
    changed = scores + weight * (chosen.min(axis=0) if len(top) else 0)
    np.put_along_axis(changed, top, np.take_along_axis(scores, top, axis=0) + weight * chosen, axis=0)
    return changed
