"""The protocol every matching system follows: learn from a corpus, index its documents, score pairs."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import nn

from confitlib.corpus import Corpus, Side
from confitlib.mining import Embeddings

Scores = NDArray[np.float32]


class Ranker(BaseEstimator):
    """Base of all rankers, scikit-learn style: constructor arguments are the parameters.

    `fit` learns from the training split and indexes the corpus; `index` alone prepares to score another
    corpus with what was learnt. Higher scores mean a better fit.
    """

    name: str = "ranker"
    corpus: Corpus

    def fit(self, corpus: Corpus) -> Self:
        """Learn from the training split, then make every document of the corpus scorable."""
        return self.learn(corpus).index(corpus)

    def learn(self, corpus: Corpus) -> Self:
        """Learn from the training and validation splits; rankers without parameters learn nothing."""
        return self

    def index(self, corpus: Corpus) -> Self:
        """Make the documents of a corpus scorable by id."""
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
    def n_parameters(self) -> int:
        """How many numbers a fitted ranker has set by labels: trained weights, nodes of trees; 0 if it trains none."""
        return 0

    def save(self, folder: str | Path) -> None:
        """Write the parameters and whatever was learnt; `load_ranker` reads them back."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_learnt(folder)
        saved = {"ranker": type(self).__name__, "parameters": self._parameters()}
        (folder / "ranker.json").write_text(json.dumps(saved, indent=1))

    def _parameters(self) -> dict[str, Any]:
        """Constructor arguments as JSON values."""
        return {name: _as_json(value) for name, value in self.get_params(deep=False).items()}

    def _save_learnt(self, folder: Path) -> None:
        """Rankers that learn write their state here."""

    def _load_learnt(self, folder: Path) -> None:
        """Rankers that learn read their state here."""


class VectorRanker(Ranker):
    """Scores by inner products of the documents' vectors, which `index` puts into `embeddings`."""

    embeddings: Embeddings

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Inner products of all pairs; cosines where vectors have length one."""
        resumes, jobs = self._vectors_of(resume_ids, job_ids)
        return np.asarray(resumes @ jobs.T, dtype=np.float32)

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """Inner products of the given pairs."""
        return np.einsum("nd,nd->n", *self._vectors_of(resume_ids, job_ids))

    def _vectors_of(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> tuple[Scores, Scores]:
        rows = self.corpus.positions("resume", resume_ids), self.corpus.positions("job", job_ids)
        return self.embeddings.resumes[rows[0]], self.embeddings.jobs[rows[1]]


def _as_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return dict(value) if isinstance(value, Mapping) else value


def from_json(default: Any, value: Any) -> Any:
    """A constructor argument from its JSON value: settings and tuples are recognised by the argument's default."""
    if is_dataclass(default) and not isinstance(default, type):
        return replace(default, **value)
    return tuple(value) if isinstance(default, tuple) and value is not None else value


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
