"""Paraphrased copies of documents, by an LLM or, offline, by the most similar lines of other documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from confitlib.augment.written import OFFLINE, Written
from confitlib.corpus import Corpus, Side
from confitlib.text import join_fields, words

ROWS = 1024
LIKE, EQUAL = 0.3, 0.9


def paraphrase_offline(
    corpus: Corpus, side: Side, ids: Sequence[str], variants: int = 1, seed: int = 0, like: float = LIKE
) -> Written:
    """Every line of a document replaced by the most similar line that the same field of another one holds.

    Lines are those of training documents; a line stays where none has a TF-IDF cosine from `like` up to 0.9 with it
    (a more similar one differs in a number at most). Variant i takes the i-th such line. This keeps the subject, not
    every fact: a stand-in for a paraphrase, named as such. Ours; it draws nothing.
    """
    frame, fields = corpus.documents(side).fillna(""), corpus.fields(side)
    training = frame.loc[corpus.pool(side, "train")]
    swaps = {name: _swaps(frame.loc[list(ids), name], training[name], variants, like) for name in fields}
    written = {
        name: [
            join_fields({field: _swapped(str(frame.loc[name, field]), swaps[field], i) for field in fields}, side)
            for i in range(variants)
        ]
        for name in ids
    }
    return Written(OFFLINE, written)


def _swaps(documents: pd.Series, training: pd.Series, variants: int, like: float) -> Mapping[str, list[str]]:
    """For every line of the documents, the lines that may stand in for it, most similar first."""
    asked, pool = (_lines(part) for part in (documents, training))
    try:
        vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True).fit(pool)
    except ValueError:  # a field without words
        return {}
    known, found = vectorizer.transform(pool), {}
    for start in range(0, len(asked), ROWS):
        likeness = (vectorizer.transform(asked[start : start + ROWS]) @ known.T).toarray()
        likeness[likeness > EQUAL] = 0
        order = np.argsort(-likeness, axis=1, kind="stable")[:, :variants]
        for line, row, best in zip(asked[start : start + ROWS], likeness, order, strict=True):
            found[line] = [pool[place] for place in best if row[place] >= like]
    return found


def _lines(documents: pd.Series) -> list[str]:
    """The distinct lines of documents, in order."""
    return list(dict.fromkeys(line for text in documents.astype(str) for line in text.split("\n") if line.strip()))


def _swapped(text: str, swaps: Mapping[str, list[str]], variant: int) -> str:
    lines = [swaps.get(line, []) for line in text.split("\n")]
    return "\n".join(
        options[variant] if variant < len(options) else line
        for line, options in zip(text.split("\n"), lines, strict=True)
    )
