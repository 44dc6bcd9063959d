"""Rankers that compare words: BM25 and TF-IDF."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
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
    """

    def __init__(
        self,
        variant: Variant = "okapi",
        unique: bool = False,
        k1: float = 1.5,
        b: float = 0.75,
        delta: float = 0.5,
    ) -> None:
        self.variant, self.unique, self.k1, self.b, self.delta = variant, unique, k1, b, delta
        self.name = {"okapi": "BM25", "bm25l": "BM25L"}[check_variant(variant)]

    def index(self, corpus: Corpus) -> Self:
        """Tokenise both sides and index each for being ranked."""
        self.corpus = corpus
        self._words = {side: [words(text) for text in texts(corpus, side)] for side in SIDES}
        self._indexes = {side: self._build(self._words[side]) for side in SIDES}
        return self

    def _build(self, documents: list[list[str]]) -> WordIndex:
        return WordIndex(documents, self.variant, self.unique, self.k1, self.b, self.delta)

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """BM25 of every pair, the target side being the indexed documents."""
        rows = {"resume": self.corpus.positions("resume", resume_ids), "job": self.corpus.positions("job", job_ids)}
        index, queries = self._indexes[target], self._words[other(target)]
        by_query = np.empty((len(rows[other(target)]), len(rows[target])), dtype=np.float32)
        for row, query in zip(by_query, rows[other(target)], strict=True):
            row[:] = index.scores(queries[query])[rows[target]]
        return by_query.T if target == "resume" else by_query


class TfIdf(Ranker):
    """Cosine of TF-IDF vectors over words seen in training documents of both sides."""

    name = "TF-IDF"

    def __init__(self, sublinear_tf: bool = True, min_df: int = 2) -> None:
        self.sublinear_tf, self.min_df = sublinear_tf, min_df

    def learn(self, corpus: Corpus) -> Self:
        """Vocabulary and document frequencies of the training documents."""
        training = [texts(corpus, side).loc[corpus.pool(side, "train")] for side in SIDES]
        self.vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=self.sublinear_tf, min_df=self.min_df)
        self.vectorizer.fit([*training[0], *training[1]])
        return self

    def index(self, corpus: Corpus) -> Self:
        """Vectors of every document."""
        self.corpus = corpus
        self._vectors = {side: self.vectorizer.transform(texts(corpus, side)) for side in SIDES}
        return self

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Cosine of every pair."""
        resumes = self._vectors["resume"][self.corpus.positions("resume", resume_ids)]
        jobs = self._vectors["job"][self.corpus.positions("job", job_ids)]
        return (resumes @ jobs.T).toarray().astype(np.float32)

    def _save_learnt(self, folder: Path) -> None:
        learnt = {"vocabulary": self.vectorizer.get_feature_names_out().tolist(), "idf": self.vectorizer.idf_.tolist()}
        (folder / "vectorizer.json").write_text(json.dumps(learnt))

    def _load_learnt(self, folder: Path) -> None:
        learnt = json.loads((folder / "vectorizer.json").read_text())
        vocabulary = learnt["vocabulary"]
        self.vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=self.sublinear_tf, vocabulary=vocabulary)
        self.vectorizer.idf_ = np.array(learnt["idf"])
