"""What every matching system is: `fit` a corpus, `index` another one, `score` pairs; and three that count words."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize
from torch import nn

from confitlib.corpus import SIDES, Corpus, Side, other
from confitlib.encoder import Embeddings
from confitlib.text import Variant, WordIndex, texts, words
from confitlib.util import checked

Rows = NDArray[np.intp]
Scores = NDArray[np.float32]


class Ranker(BaseEstimator):
    """Base of all rankers, scikit-learn style: constructor arguments are the parameters.

    A subclass has a `name` for tables and a `score`; it may `learn`, and `prepare` documents. Higher scores mean a
    better fit. `corpus`: the one indexed last. `n_parameters`: how many numbers `learn` has set by labels
    (trained weights, nodes of trees).
    """

    name: str = "ranker"
    corpus: Corpus
    n_parameters: int = 0

    def fit(self, corpus: Corpus) -> Self:
        """Learn from the training split, then make every document of the corpus scorable."""
        return self.learn(corpus).index(corpus)

    def learn(self, corpus: Corpus) -> Self:
        """Learn from the training and validation splits; rankers without parameters learn nothing."""
        return self

    def index(self, corpus: Corpus) -> Self:
        """Make the documents of a corpus, which may be another than the one learnt from, scorable by id."""
        self.corpus = corpus
        self.prepare(corpus)
        return self

    def prepare(self, corpus: Corpus) -> None:
        """Keep what `score` needs of the documents to be indexed."""

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

    def rows(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> dict[Side, Rows]:
        """Row numbers of documents in the frames of the indexed corpus.

        Raises RuntimeError before `fit` or `index`, KeyError naming an unknown id.
        """
        if not hasattr(self, "corpus"):
            raise RuntimeError(f"{self.name} has no documents to score yet: call fit(corpus), or index(corpus), first")
        return {"resume": self.corpus.positions("resume", resume_ids), "job": self.corpus.positions("job", job_ids)}


class VectorRanker(Ranker):
    """Scores by inner products of the documents' vectors, which `prepare` puts into `embeddings`."""

    embeddings: Embeddings

    def vectors(self, target: Side) -> Embeddings:
        """The vectors to compare when this side is ranked."""
        return self.embeddings

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Inner products of all pairs; cosines where vectors have length one."""
        rows, vectors = self.rows(resume_ids, job_ids), self.vectors(target)
        return np.asarray(vectors.resumes[rows["resume"]] @ vectors.jobs[rows["job"]].T, dtype=np.float32)

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """Inner products of the given pairs, resumes being ranked."""
        rows, vectors = self.rows(resume_ids, job_ids), self.vectors("resume")
        return np.einsum("nd,nd->n", vectors.resumes[rows["resume"]], vectors.jobs[rows["job"]])


@checked
class BM25(Ranker):
    """BM25 with the whole opposite document as the query.

    `variant`: "okapi" (ConFit v2's choice, k1 1.5, b 0.75) or "bm25l" (ConFit v1's, delta 0.5). `unique` counts
    every word of the query once; the official scripts count it as often as it occurs, which lets the commonest
    words of a long document drown the rest. The ranked side is indexed with the statistics of all its documents
    in the corpus; the official scripts use those of the test candidates only (test_bm25.py, test_bm25_v2.py).
    English and Chinese words.

    >>> from confitlib import BM25, compose, evaluate_ranking
    >>> corpus = compose("tiny").corpus
    >>> result = evaluate_ranking(BM25().fit(corpus), corpus, "resume")
    >>> round(result.means()["ndcg@10"], 2)
    0.16
    """

    def __init__(self, variant: Variant = "okapi", unique: bool = False) -> None:
        self.variant, self.unique = variant, unique
        self.name = {"okapi": "BM25", "bm25l": "BM25L"}[variant]

    def prepare(self, corpus: Corpus) -> None:
        """Tokenise both sides and index each for being ranked."""
        self._words = {side: [words(text) for text in texts(corpus, side)] for side in SIDES}
        self._indexes = {side: WordIndex(self._words[side], self.variant, self.unique) for side in SIDES}

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """BM25 of every pair, the target side being the indexed documents."""
        rows = self.rows(resume_ids, job_ids)
        index, queries = self._indexes[target], self._words[other(target)]
        by_query = np.empty((len(rows[other(target)]), len(rows[target])), dtype=np.float32)
        for scores, query in zip(by_query, rows[other(target)], strict=True):
            scores[:] = index.scores(queries[query])[rows[target]]
        return by_query.T if target == "resume" else by_query


class TfIdf(Ranker):
    """Cosine of TF-IDF vectors over words that two training documents of either side hold."""

    name = "TF-IDF"

    def learn(self, corpus: Corpus) -> Self:
        """Vocabulary and document frequencies of the training documents."""
        training = [text for side in SIDES for text in texts(corpus, side).loc[corpus.pool(side, "train")]]
        self.vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True, min_df=2).fit(training)
        return self

    def prepare(self, corpus: Corpus) -> None:
        """Vectors of every document."""
        self._vectors = {side: self.vectorizer.transform(texts(corpus, side)) for side in SIDES}

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Cosine of every pair."""
        rows = self.rows(resume_ids, job_ids)
        resumes, jobs = (self._vectors[side][rows[side]] for side in SIDES)
        return (resumes @ jobs.T).toarray().astype(np.float32)


class CountTable(VectorRanker):
    """Which words of resumes go with which words of jobs, counted over the accepted training pairs.

    TF-IDF vectors of each side, reduced to `dimensions` and whitened over the accepted pairs (`ridge` times the mean
    variance is added), are compared in the `rank` directions that vary most together: a canonical correlation. It
    knows nothing but counts. A system that is not ahead of it has learnt no more than which words occur together.
    """

    name = "count table"

    def __init__(self, dimensions: int = 300, rank: int = 100, ridge: float = 0.1) -> None:
        self.dimensions, self.rank, self.ridge = dimensions, rank, ridge

    def learn(self, corpus: Corpus) -> Self:
        """The common directions of both sides of the accepted training pairs."""
        accepted, self._maps, white = corpus.labelled("train", 1), {}, []
        for side in SIDES:
            # 1. reduced TF-IDF vectors of the accepted documents, centred  [pairs, dimensions]
            training = texts(corpus, side)[corpus.pool(side, "train")]
            vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True, min_df=2)
            size = min(self.dimensions, len(vectorizer.fit(training).vocabulary_) - 1)
            reduce = make_pipeline(vectorizer, TruncatedSVD(size, random_state=0)).fit(training)
            vectors = pd.DataFrame(reduce.transform(training), training.index).loc[accepted[f"{side}_id"]].to_numpy()
            centre = vectors.mean(axis=0)
            # 2. a map that makes their covariance the identity, nearly
            values, axes = np.linalg.eigh(np.cov((vectors - centre).T, bias=True))
            whiten = axes / np.sqrt(np.maximum(values, 0) + self.ridge * values.mean()) @ axes.T
            white.append((vectors - centre) @ whiten)
            self._maps[side] = reduce, centre, whiten
        # 3. the directions in which both sides vary together
        left, shared, right = np.linalg.svd(white[0].T @ white[1] / len(accepted))
        weights = np.sqrt(shared[: self.rank])
        self._directions = {"resume": left[:, : len(weights)] * weights, "job": right[: len(weights)].T * weights}
        self.n_parameters = sum(part.size for part in self._directions.values())
        return self

    def prepare(self, corpus: Corpus) -> None:
        """Unit vectors of every document in the common directions."""
        vectors = []
        for side in SIDES:
            reduce, centre, whiten = self._maps[side]
            found = (reduce.transform(texts(corpus, side)) - centre) @ whiten @ self._directions[side]
            vectors.append(normalize(found).astype(np.float32))
        self.embeddings = Embeddings(*vectors)


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
