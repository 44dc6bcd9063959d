"""Rankers that compare words: BM25 and TF-IDF."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from confitlib.corpus import SIDES, Corpus, Side, other
from confitlib.rankers.base import Ranker, Scores
from confitlib.text import Variant, WordIndex, check_variant, texts, words


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
    0.14
    """

    def __init__(self, variant: Variant = "okapi", unique: bool = False) -> None:
        self.variant, self.unique = variant, unique
        self.name = {"okapi": "BM25", "bm25l": "BM25L"}[check_variant(variant)]

    def index(self, corpus: Corpus) -> Self:
        """Tokenise both sides and index each for being ranked."""
        self.corpus = corpus
        self._words = {side: [words(text) for text in texts(corpus, side)] for side in SIDES}
        self._indexes = {side: WordIndex(self._words[side], self.variant, self.unique) for side in SIDES}
        return self

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

    def index(self, corpus: Corpus) -> Self:
        """Vectors of every document."""
        self.corpus = corpus
        self._vectors = {side: self.vectorizer.transform(texts(corpus, side)) for side in SIDES}
        return self

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Cosine of every pair."""
        rows = self.rows(resume_ids, job_ids)
        resumes, jobs = (self._vectors[side][rows[side]] for side in SIDES)
        return (resumes @ jobs.T).toarray().astype(np.float32)
