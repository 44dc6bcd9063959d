"""Hypothetical documents without an LLM: retrieved from the training split and recombined section by section."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from confitlib.augment.pairs import AcceptedPairs
from confitlib.augment.written import OFFLINE, Written
from confitlib.corpus import Corpus, Side, other
from confitlib.text import TEXT, join_fields, texts, words

Section = tuple[str, str]
ROWS = 512


@dataclass(frozen=True)
class OfflineWriter:
    """Writes what the nearest training documents were accepted with, recombined section by section.

    For a job: the `neighbours` nearest distinct resumes, taken from the accepted pairs of the training jobs most
    similar to it (cosine of TF-IDF); then, for each section of the nearest, that section of whichever of them is
    most similar to the job. A section is a field, or a paragraph (a line, if there are no blank lines) of a single
    text, known by its place. Variant number i takes the i-th `neighbours` resumes. A document never sees the pairs
    of its own (`AcceptedPairs`). Works the same for resumes. Ours; it draws nothing, so it needs no seed.
    """

    neighbours: int = 5

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours={self.neighbours} must be at least 1")

    @property
    def name(self) -> str:
        """Who writes, as tables and notes say it."""
        return OFFLINE

    def write(self, corpus: Corpus, side: Side, ids: Sequence[str], variants: int = 1) -> Written:
        """`variants` texts of the other side for every id, fewer where the training split has no more to offer."""
        library = _Library(AcceptedPairs(corpus, side))
        found = dict(zip(ids, library.nearest(ids, self.neighbours * variants), strict=True))
        written = {}
        for name, partners in found.items():
            parts = [partners[start : start + self.neighbours] for start in range(0, len(partners), self.neighbours)]
            written[name] = [library.compose(name, part) for part in parts]
        problems = {name: "no training pair it may see" for name, options in written.items() if not options}
        return Written(self.name, {name: options for name, options in written.items() if options}, problems, found)


class _Library:
    """The training documents as TF-IDF vectors: whole ones to retrieve by, sections to recombine."""

    def __init__(self, pairs: AcceptedPairs) -> None:
        corpus, self.pairs, self.side = pairs.corpus, pairs, pairs.side
        self.own, self.partner = (texts(corpus, side, hyre=False) for side in (self.side, other(self.side)))
        training = [self.own.loc[corpus.pool(self.side, "train")], self.partner.loc[self._partners]]
        self.vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True)
        self.vectorizer.fit([text for part in training for text in part])

    @cached_property
    def _partners(self) -> list[str]:
        return list(dict.fromkeys(self.pairs.pairs["partner"]))

    @cached_property
    def _vectors(self) -> csr_array:
        return csr_array(self.vectorizer.transform(self.own))

    @cached_property
    def sections(self) -> dict[str, list[Section]]:
        """The sections of every document that was accepted, by id."""
        frame, fields = self.pairs.corpus.documents(other(self.side)), self.pairs.corpus.fields(other(self.side))
        if fields == [TEXT]:
            return {name: split_text(str(frame.loc[name, TEXT])) for name in self._partners}
        rows = frame.loc[self._partners, fields].astype("str").fillna("")
        return {str(name): list(zip(fields, row, strict=True)) for name, *row in rows.itertuples(name=None)}

    @cached_property
    def _section_vectors(self) -> dict[str, csr_array]:
        flat = [text for sections in self.sections.values() for _, text in sections]
        matrix, stops = csr_array(self.vectorizer.transform(flat)), np.cumsum([len(s) for s in self.sections.values()])
        return {
            name: matrix[stop - len(sections) : stop]
            for (name, sections), stop in zip(self.sections.items(), stops.tolist(), strict=True)
        }

    def nearest(self, ids: Sequence[str], most: int) -> Iterator[list[str]]:
        """For every id the distinct partners of its nearest neighbours, at most `most`, nearest first."""
        own, place = np.unique(self.pairs.pairs["own"], return_inverse=True)
        pool = self._vectors[self.own.index.get_indexer(pd.Index(own))]
        rows = self.own.index.get_indexer(pd.Index(ids))
        for start in range(0, len(ids), ROWS):
            similar = (self._vectors[rows[start : start + ROWS]] @ pool.T).toarray()
            for name, scores in zip(ids[start : start + ROWS], similar, strict=True):
                yield self._closest_partners(name, scores[place], most)

    def _closest_partners(self, name: str, scores: NDArray[np.float64], most: int) -> list[str]:
        allowed = self.pairs.allowed(name)
        order = allowed[np.argsort(-scores[allowed], kind="stable")]
        ranked = self.pairs.pairs["partner"].to_numpy()[order]
        return list(dict.fromkeys(ranked.tolist()))[:most]

    def compose(self, name: str, partners: Sequence[str]) -> str:
        """Each section of the first partner, in the version of whichever partner is most similar to the document."""
        wanted = self._vectors[self.own.index.get_indexer(pd.Index([name]))]
        scored: dict[str, list[tuple[float, str]]] = {}
        for partner in partners:
            likeness = (self._section_vectors[partner] @ wanted.T).toarray()[:, 0]
            for (key, text), score in zip(self.sections[partner], likeness, strict=True):
                scored.setdefault(key, []).append((float(score), text))
        best = {key: max(options, key=lambda option: option[0])[1] for key, options in scored.items()}
        return self._joined([(key, best[key]) for key, _ in self.sections[partners[0]]])

    def _joined(self, sections: Sequence[Section]) -> str:
        fields = self.pairs.corpus.fields(other(self.side))
        if fields == [TEXT]:
            return "\n".join(text for _, text in sections).strip()
        return join_fields(dict(sections), other(self.side))


def split_text(text: str) -> list[Section]:
    """Paragraphs of a text, or its lines if no blank line parts them, each known by its place."""
    parts = [part.strip() for part in text.split("\n\n")]
    if len(parts) == 1:
        parts = text.split("\n")
    return [(str(place), part) for place, part in enumerate(part for part in parts if part.strip())]
