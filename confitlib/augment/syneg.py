"""Synthetic hard negatives: documents written to look like a match and not to be one."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from confitlib.augment.offline import split_text
from confitlib.augment.pairs import AcceptedPairs
from confitlib.augment.written import OFFLINE, Written
from confitlib.corpus import Corpus, Side, other
from confitlib.text import TEXT, join_fields, texts, words
from confitlib.util import generator_of

VERDICT = re.compile(r"\n\s*(?:Self-check|自检)\s*[::：]\s*(.*)\s*$", re.IGNORECASE)
UNSUITABLE = re.compile(r"unsuitable|不合适|不符合", re.IGNORECASE)


def synthetic_offline(corpus: Corpus, side: Side, ids: Sequence[str], variants: int = 1, seed: int = 0) -> Written:
    """Near misses without an LLM: an accepted document with half of its sections taken from a similar stranger.

    For a query of `side`: one of the documents it was accepted with and a stranger, drawn by seed from the ten
    accepted documents of other queries that are most similar to it (TF-IDF). Every second section comes from the
    stranger. Self-check: the result must be less similar to the query than the accepted document it was made from,
    else the query gets none. Ours; the stand-in for SyNeg's prompt, named as such.
    """
    maker = _NearMisses(corpus, side)
    rngs = {name: generator_of(seed, name) for name in ids}
    made = {name: [maker.make(name, rng) for _ in range(variants)] for name, rng in rngs.items()}
    written = {name: [text for text in options if text] for name, options in made.items()}
    answered = set(maker.pairs.pairs["own"])
    reasons = {True: "no near miss that passes the self-check", False: "no accepted document to start from"}
    problems = {name: reasons[name in answered] for name, options in written.items() if not options}
    return Written(OFFLINE, {name: options for name, options in written.items() if options}, problems)


class _NearMisses:
    """Accepted documents of the other side, cut into sections, with their TF-IDF vectors."""

    def __init__(self, corpus: Corpus, side: Side, strangers: int = 10) -> None:
        self.corpus, self.side, self.strangers = corpus, side, strangers
        self.pairs = AcceptedPairs(corpus, side)
        self.own, self.partner = texts(corpus, side, hyre=False), texts(corpus, other(side), hyre=False)
        self.ids = list(dict.fromkeys(self.pairs.pairs["partner"]))
        self.vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True).fit(self.partner.loc[self.ids])
        self.vectors = self.vectorizer.transform(self.partner.loc[self.ids])

    def make(self, name: str, rng: np.random.Generator) -> str | None:
        """A near miss for a query, or None without an accepted document, a stranger, or a passed self-check."""
        accepted = self.pairs.pairs.loc[self.pairs.pairs["own"] == name, "partner"].tolist()
        if not accepted:
            return None
        base = accepted[rng.integers(len(accepted))]
        strangers = self._strangers(name, base)
        if not len(strangers):
            return None
        text = self._crossed(base, self.ids[strangers[rng.integers(len(strangers))]])
        return text if self._less_similar(name, text, base) else None

    def _strangers(self, name: str, base: str) -> NDArray[np.intp]:
        allowed = set(self.pairs.pairs["partner"].to_numpy()[self.pairs.allowed(name)])
        likeness = (self.vectors @ self.vectors[[self.ids.index(base)]].T).toarray()[:, 0]
        ranked = [place for place in np.argsort(-likeness, kind="stable") if self.ids[place] in allowed]
        return np.array(ranked[: self.strangers], dtype=np.intp)

    def _crossed(self, base: str, stranger: str) -> str:
        """Every second section of the base replaced by the stranger's."""
        own, foreign = self._sections(base), dict(self._sections(stranger))
        mixed = {key: foreign.get(key, text) if place % 2 else text for place, (key, text) in enumerate(own)}
        fields = self.corpus.fields(other(self.side))
        return "\n".join(mixed.values()) if fields == [TEXT] else join_fields(mixed, other(self.side))

    def _sections(self, name: str) -> list[tuple[str, str]]:
        fields = self.corpus.fields(other(self.side))
        row = self.corpus.documents(other(self.side)).loc[name, fields].fillna("")
        return split_text(str(row[TEXT])) if fields == [TEXT] else [(field, str(row[field])) for field in fields]

    def _less_similar(self, name: str, text: str, base: str) -> bool:
        query, made, accepted = self.vectorizer.transform([self.own[name], text, self.partner[base]])
        return float((query @ made.T).sum()) < float((query @ accepted.T).sum())


def read_self_check(reply: str) -> tuple[str, str | None]:
    """The document of a SyNeg reply, and what is wrong: no self-check, or one that calls the document suitable."""
    verdict = VERDICT.search("\n" + reply)
    if verdict is None:
        return reply, "no self-check at the end"
    document = ("\n" + reply)[: verdict.start()].strip()
    return document, None if UNSUITABLE.search(verdict[1]) else "the self-check calls it suitable"
