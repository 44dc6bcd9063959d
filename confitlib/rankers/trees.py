"""Gradient-boosted trees on pairs of document vectors: TF-IDF, bag of words or embeddings."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

import lightgbm
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.preprocessing import normalize

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import load_encoder
from confitlib.rankers.base import Ranker, Rows, Scores
from confitlib.rankers.pair_training import sampled_pairs
from confitlib.text import texts, words

SETTINGS = {"deterministic": True, "force_row_wise": True, "num_threads": 1, "verbosity": -1}


@dataclass(eq=False, repr=False)
class Trees(Ranker):
    """LightGBM on features of a pair: how its two documents' reduced vectors differ and agree.

    `vectors`: "tfidf", "bow" (word counts), or the name of an encoder; reduced to `dim` by a truncated SVD of the
    training documents of both sides. Features are the products and absolute differences of the coordinates and the
    cosine (our choice: ConFit v1 concatenates both vectors, from which trees hardly find an agreement).
    `objective`: "binary" is a classifier, "lambdarank" a ranker with one group a job. `sampled`: random and hard
    negatives for each accepted pair, (7, 1) as in ConFit v1's ablation.
    """

    vectors: str = "tfidf"
    objective: Literal["binary", "lambdarank"] = "binary"
    sampled: tuple[int, int] = (7, 1)
    dim: int = 64
    rounds: int = 150
    leaves: int = 15
    learning_rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        self.name = f"trees on {self.vectors}" + (", ranker" if self.objective == "lambdarank" else "")

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
        pairs = sampled_pairs(corpus, "train", *self.sampled, seed=self.seed).sort_values("job", kind="stable")
        groups = np.unique(pairs["job"], return_counts=True)[1] if self.objective == "lambdarank" else None
        # 3. the trees
        self.index(corpus)
        features = self._features(pairs["resume"].to_numpy(), pairs["job"].to_numpy())
        data = lightgbm.Dataset(features, pairs["label"], group=groups)
        settings = {"objective": self.objective, "num_leaves": self.leaves, "learning_rate": self.learning_rate}
        self.model = lightgbm.train({**SETTINGS, **settings, "seed": self.seed}, data, num_boost_round=self.rounds)
        self.n_parameters = len(self.model.trees_to_dataframe())  # splits and leaves
        return self

    def _wide(self, documents: list[str]) -> NDArray[np.float32]:
        """Vectors before the reduction: a sparse matrix of words, or embeddings."""
        if self._vectorizer is not None:
            return normalize(self._vectorizer.transform(documents))
        return load_encoder(self.vectors).encode(documents, progress=False)

    def _features(self, resumes: Rows, jobs: Rows) -> NDArray[np.float32]:
        """`[n, 2 d + 1]`: products, absolute differences, and the cosine; one job may face n resumes."""
        people, posts = self._vectors["resume"][resumes], self._vectors["job"][jobs]
        products = people * posts
        return np.hstack([products, np.abs(people - posts), products.sum(axis=1, keepdims=True)])

    def prepare(self, corpus: Corpus) -> None:
        """Reduced unit vectors of every document."""
        wide = {side: self._wide(texts(corpus, side).tolist()) for side in SIDES}
        self._vectors = {side: normalize(wide[side] @ self._components.T).astype(np.float32) for side in SIDES}

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """The trees' raw output for every pair, job by job."""
        rows = self.rows(resume_ids, job_ids)
        scores = np.empty((len(rows["resume"]), len(rows["job"])), dtype=np.float32)
        for column in range(len(rows["job"])):
            features = self._features(rows["resume"], rows["job"][[column]])
            scores[:, column] = self.model.predict(features, raw_score=True, num_threads=1)
        return scores
