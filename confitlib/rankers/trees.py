"""Gradient-boosted trees on pairs of document vectors: TF-IDF, bag of words or embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

import lightgbm
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.preprocessing import normalize

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import load_encoder
from confitlib.rankers.base import Ranker, Scores
from confitlib.rankers.pair_training import Rows, sampled_pairs
from confitlib.text import texts, words

PAIRS_A_CHUNK = 2**15
SETTINGS = {"deterministic": True, "force_row_wise": True, "num_threads": 1, "verbosity": -1}


class Trees(Ranker):
    """LightGBM on features of a pair: how its two documents' reduced vectors differ and agree.

    `vectors`: "tfidf", "bow" (word counts), or the name of an encoder; reduced to `dim` by a truncated SVD of the
    training documents of both sides. Features are the products and absolute differences of the coordinates and the
    cosine (our choice: ConFit v1 concatenates both vectors, from which trees hardly find an agreement).
    `objective`: "binary" is a classifier, "lambdarank" a ranker with one group a job. `sampled`: random and hard
    negatives for each accepted pair, (7, 1) as in ConFit v1's ablation.
    """

    def __init__(
        self,
        vectors: str = "tfidf",
        objective: Literal["binary", "lambdarank"] = "binary",
        sampled: tuple[int, int] = (7, 1),
        dim: int = 64,
        rounds: int = 150,
        leaves: int = 15,
        learning_rate: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.vectors, self.objective, self.sampled, self.dim = vectors, objective, sampled, dim
        self.rounds, self.leaves, self.learning_rate, self.seed = rounds, leaves, learning_rate, seed

    @property
    def name(self) -> str:  # type: ignore[override]
        """Names the vectors and the objective."""
        return f"trees on {self.vectors}" + (", ranker" if self.objective == "lambdarank" else "")

    def learn(self, corpus: Corpus) -> Self:
        """Fit the reduction on the training documents, then the trees on the training pairs."""
        # 1. the reduction; words of one document alone, or of more than half of all, are left out
        training = [text for side in SIDES for text in texts(corpus, side).loc[corpus.pool(side, "train")]]
        kinds = {"tfidf": TfidfVectorizer(analyzer=words, sublinear_tf=True, min_df=2, max_df=0.5),
                 "bow": CountVectorizer(analyzer=words, min_df=2, max_df=0.5)}  # fmt: skip
        self._vectorizer = kinds[self.vectors].fit(training) if self.vectors in kinds else None
        wide = self._wide(training)
        svd = TruncatedSVD(min(self.dim, min(wide.shape) - 1), random_state=self.seed).fit(wide)
        self._components = svd.components_.astype(np.float32)
        # 2. training pairs, those of a job together
        random, hard = self.sampled
        pairs = sampled_pairs(corpus, "train", random=random, hard=hard, seed=self.seed)
        pairs = pairs.take(np.argsort(pairs.rows["job"], kind="stable"))
        groups = np.unique(pairs.rows["job"], return_counts=True)[1] if self.objective == "lambdarank" else None
        # 3. the trees
        self._reduce(corpus)
        data = lightgbm.Dataset(self._features(pairs.rows), pairs.labels, group=groups)
        settings = {"objective": self.objective, "num_leaves": self.leaves, "learning_rate": self.learning_rate}
        self.model = lightgbm.train({**SETTINGS, **settings, "seed": self.seed}, data, num_boost_round=self.rounds)
        return self

    def _wide(self, documents: list[str]) -> NDArray[np.float32]:
        """Vectors before the reduction: a sparse matrix of words, or embeddings."""
        if self._vectorizer is not None:
            return normalize(self._vectorizer.transform(documents))
        return load_encoder(self.vectors).encode(documents, progress=False)

    def _reduce(self, corpus: Corpus) -> None:
        """Reduced unit vectors of every document."""
        wide = {side: self._wide(texts(corpus, side).tolist()) for side in SIDES}
        self._vectors = {side: normalize(wide[side] @ self._components.T).astype(np.float32) for side in SIDES}

    def _features(self, pairs: dict[Side, Rows]) -> NDArray[np.float32]:
        """`[n, 2 d + 1]`: products, absolute differences, and the cosine of unit vectors."""
        resumes, jobs = (self._vectors[side][pairs[side]] for side in SIDES)
        products = resumes * jobs
        return np.hstack([products, np.abs(resumes - jobs), products.sum(axis=1, keepdims=True)])

    @property
    def n_parameters(self) -> int:
        """The nodes of all trees: splits and leaves."""
        return int(sum(2 * tree["num_leaves"] - 1 for tree in self.model.dump_model()["tree_info"]))

    def index(self, corpus: Corpus) -> Self:
        """Reduced vectors of every document."""
        self.corpus = corpus
        self._reduce(corpus)
        return self

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """The trees' raw output for every pair."""
        resumes, jobs = list(resume_ids), list(job_ids)
        scores = self.score_pairs(np.repeat(resumes, len(jobs)), np.tile(jobs, len(resumes)))
        return scores.reshape(len(resumes), len(jobs))

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """The trees' raw output for the given pairs, chunk by chunk."""
        rows = {"resume": self.corpus.positions("resume", resume_ids), "job": self.corpus.positions("job", job_ids)}
        scores = np.empty(len(rows["job"]), dtype=np.float32)
        for start in range(0, len(scores), PAIRS_A_CHUNK):
            chunk = slice(start, start + PAIRS_A_CHUNK)
            features = self._features({side: rows[side][chunk] for side in SIDES})
            scores[chunk] = self.model.predict(features, raw_score=True, num_threads=1)
        return scores
