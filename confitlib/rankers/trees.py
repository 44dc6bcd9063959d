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
from confitlib.rankers.sampling import JudgedPairs, Rows, judged_pairs, sampled_pairs
from confitlib.text import texts, words

Vectors = NDArray[np.float32]
PAIRS_A_CHUNK = 2**15
COMMON = 0.5  # words in a larger share of the documents are left out (our choice)
MODEL, REDUCTION, VOCABULARY = "trees.txt", "reduction.npz", "vocabulary.json"


class Trees(Ranker):
    """LightGBM on features of a pair: how its two documents' reduced vectors differ and agree.

    `vectors`: "tfidf", "bow" (word counts), or the name of an encoder; reduced to `dim` by a truncated SVD of the
    training documents of both sides. Features are the products and absolute differences of the coordinates and the
    cosine (our choice: ConFit v1 concatenates both vectors, from which trees hardly find an agreement).
    `objective`: "binary" is a classifier, "lambdarank" a ranker with one group a job. `sampled`: random and hard
    negatives for each accepted pair, (7, 1) as in ConFit v1's ablation, or None for the labelled pairs alone.
    """

    def __init__(
        self,
        vectors: str = "tfidf",
        objective: Literal["binary", "lambdarank"] = "binary",
        sampled: tuple[int, int] | None = (7, 1),
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
        training = {side: texts(corpus, side).loc[corpus.pool(side, "train")].tolist() for side in SIDES}
        self._fit_reduction([*training["resume"], *training["job"]])
        pairs = self._pairs(corpus)
        vectors = {side: self._reduced(texts(corpus, side).tolist()) for side in SIDES}
        data = lightgbm.Dataset(_features(vectors, pairs.rows), pairs.labels, group=self._groups(pairs))
        self.model = lightgbm.train(self._settings(), data, num_boost_round=self.rounds)
        return self

    def _pairs(self, corpus: Corpus) -> JudgedPairs:
        """Training pairs, those of a job together."""
        if self.sampled is None:
            pairs = judged_pairs(corpus, "train")
        else:
            random, hard = self.sampled
            pairs = sampled_pairs(corpus, "train", random=random, hard=hard, seed=self.seed)
        order = np.argsort(pairs.rows["job"], kind="stable")
        return JudgedPairs({side: pairs.rows[side][order] for side in SIDES}, pairs.labels[order])

    def _groups(self, pairs: JudgedPairs) -> Rows | None:
        return np.unique(pairs.rows["job"], return_counts=True)[1] if self.objective == "lambdarank" else None

    def _settings(self) -> dict[str, object]:
        return {
            "objective": self.objective,
            "num_leaves": self.leaves,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,  # `deterministic` needs the layout to be named
            "num_threads": 1,
            "verbosity": -1,
        }

    def _fit_reduction(self, documents: list[str]) -> None:
        if self.vectors in ("tfidf", "bow"):
            self._vectorizer = self._new_vectorizer()
            self._vectorizer.fit(documents)
        found = self._wide(documents)
        svd = TruncatedSVD(min(self.dim, min(found.shape) - 1), random_state=self.seed).fit(found)
        self._components = svd.components_.astype(np.float32)

    def _new_vectorizer(self, vocabulary: list[str] | None = None) -> CountVectorizer:
        """TF-IDF, or counts of the words that are neither everywhere nor in one document alone."""
        limits = {"min_df": 2, "max_df": COMMON} if vocabulary is None else {}
        if self.vectors == "bow":
            return CountVectorizer(analyzer=words, vocabulary=vocabulary, **limits)
        return TfidfVectorizer(analyzer=words, sublinear_tf=True, vocabulary=vocabulary, **limits)

    def _wide(self, documents: list[str]) -> NDArray[np.float32]:
        """Vectors before the reduction: a sparse matrix of words, or embeddings."""
        if self.vectors in ("tfidf", "bow"):
            return normalize(self._vectorizer.transform(documents))
        return load_encoder(self.vectors).encode(documents, progress=False)

    def _reduced(self, documents: list[str]) -> Vectors:
        return normalize(self._wide(documents) @ self._components.T).astype(np.float32)

    @property
    def n_parameters(self) -> int:
        """The nodes of all trees: splits and leaves."""
        return int(sum(2 * tree["num_leaves"] - 1 for tree in self.model.dump_model()["tree_info"]))

    def index(self, corpus: Corpus) -> Self:
        """Reduced vectors of every document."""
        self.corpus = corpus
        self._vectors = {side: self._reduced(texts(corpus, side).tolist()) for side in SIDES}
        return self

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """The trees' raw output for every pair, chunk by chunk."""
        resumes, jobs = self.corpus.positions("resume", resume_ids), self.corpus.positions("job", job_ids)
        pairs: dict[Side, Rows] = {"resume": np.repeat(resumes, len(jobs)), "job": np.tile(jobs, len(resumes))}
        return self._predict(pairs).reshape(len(resumes), len(jobs))

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """The trees' raw output for the given pairs."""
        return self._predict(
            {"resume": self.corpus.positions("resume", resume_ids), "job": self.corpus.positions("job", job_ids)}
        )

    def _predict(self, pairs: dict[Side, Rows]) -> Scores:
        scores = np.empty(len(pairs["job"]), dtype=np.float32)
        for start in range(0, len(scores), PAIRS_A_CHUNK):
            chunk = slice(start, start + PAIRS_A_CHUNK)
            features = _features(self._vectors, {side: pairs[side][chunk] for side in SIDES})
            scores[chunk] = self.model.predict(features, raw_score=True, num_threads=1)
        return scores


def _features(vectors: dict[Side, Vectors], pairs: dict[Side, Rows]) -> NDArray[np.float32]:
    """`[n, 2 d + 1]`: products, absolute differences, and the cosine of unit vectors."""
    resumes, jobs = (vectors[side][pairs[side]] for side in SIDES)
    products = resumes * jobs
    return np.hstack([products, np.abs(resumes - jobs), products.sum(axis=1, keepdims=True)])
