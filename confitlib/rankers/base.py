"""What every matching system is: `fit` a corpus, `index` another one, `score` pairs of documents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import nn

from confitlib.corpus import Corpus, Side
from confitlib.mining import Embeddings

Rows = NDArray[np.intp]
Scores = NDArray[np.float32]


class Ranker(BaseEstimator):
    """Base of all rankers, scikit-learn style: constructor arguments are the parameters.

    A subclass has a `name` for tables and a `score`; it may `learn`, and prepare documents in `index`. Higher scores
    mean a better fit.
    """

    name: str = "ranker"

    def fit(self, corpus: Corpus) -> Self:
        """Learn from the training split, then make every document of the corpus scorable."""
        return self.learn(corpus).index(corpus)

    def learn(self, corpus: Corpus) -> Self:
        """Learn from the training and validation splits; rankers without parameters learn nothing."""
        return self

    def index(self, corpus: Corpus) -> Self:
        """Make the documents of a corpus, which may be another than the one learnt from, scorable by id."""
        self.corpus = corpus
        return self

    @abstractmethod
    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Scores of all pairs, `[n_resumes, n_jobs]`; `target` is the side that will be ranked."""

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """Scores of the pairs (resume_ids[i], job_ids[i]), `[n]`; a job is scored with all its resumes at once."""
        pairs = pd.DataFrame({"resume": list(resume_ids), "job": list(job_ids)})
        scores = np.empty(len(pairs), dtype=np.float32)
        for job, group in pairs.groupby("job"):
            scores[group.index] = self.score(group["resume"], [str(job)])[:, 0]
        return scores

    @property
    def corpus(self) -> Corpus:
        """The indexed corpus; raises RuntimeError before `fit` or `index`."""
        if "_corpus" not in vars(self):
            raise RuntimeError(f"{self.name} has no documents to score yet: call fit(corpus), or index(corpus), first")
        return self._corpus

    @corpus.setter
    def corpus(self, corpus: Corpus) -> None:
        self._corpus = corpus

    @property
    def n_parameters(self) -> int:
        """How many numbers a fitted ranker has set by labels: trained weights, nodes of trees; 0 if it trains none."""
        return 0

    def rows(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> dict[Side, Rows]:
        """Row numbers of documents in the frames of the indexed corpus; raises KeyError naming an unknown id."""
        return {"resume": self.corpus.positions("resume", resume_ids), "job": self.corpus.positions("job", job_ids)}


class VectorRanker(Ranker):
    """Scores by inner products of the documents' vectors, which `index` puts into `embeddings`."""

    embeddings: Embeddings

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Inner products of all pairs; cosines where vectors have length one."""
        rows = self.rows(resume_ids, job_ids)
        product = self.embeddings.resumes[rows["resume"]] @ self.embeddings.jobs[rows["job"]].T
        return np.asarray(product, dtype=np.float32)

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """Inner products of the given pairs."""
        rows = self.rows(resume_ids, job_ids)
        return np.einsum("nd,nd->n", self.embeddings.resumes[rows["resume"]], self.embeddings.jobs[rows["job"]])


def named_for_jobs(corpus: Corpus, names: str | Mapping[str, str], parameter: str) -> pd.Series:
    """What a column of the jobs, or a mapping of their ids, names for each; raises ValueError for a job without."""
    if isinstance(names, str) and names not in corpus.jobs.columns:
        raise ValueError(f"{parameter}={names!r} is no column of the jobs: {corpus.fields('job')}")
    named = corpus.jobs[names] if isinstance(names, str) else corpus.jobs.index.to_series().map(names)
    if named.isna().any():
        raise ValueError(f"{parameter} names nothing for job {named.index[named.isna()][0]!r}: give every job one")
    return named


def trained_weights(network: nn.Module) -> int:
    """How many weights of a network training changes."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
