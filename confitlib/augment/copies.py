"""Augmented copies: new documents of the training split that inherit the labels of their originals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from confitlib.corpus import COPY_OF, NEGATIVE_FOR, Corpus, Side


def draw_originals(corpus: Corpus, side: Side, count: int | None, seed: int) -> list[str]:
    """`count` training documents of a side drawn with a seed (None, or more than there are: all), in frame order.

    Copies and synthetic documents are no originals.
    """
    frame = corpus.documents(side).loc[corpus.pool(side, "train")]
    made = pd.Series(False, index=frame.index)
    for column in {COPY_OF, NEGATIVE_FOR} & set(frame.columns):
        made |= frame[column].fillna("") != ""
    ids = frame.index[~made].to_numpy()
    if count is None or count >= len(ids):
        return list(ids)
    rng = np.random.default_rng([seed, ("resume", "job").index(side)])
    return list(ids[np.sort(rng.choice(len(ids), count, replace=False))])


def with_copies(corpus: Corpus, side: Side, fields: Mapping[str, Mapping[str, str]], tag: str, note: str) -> Corpus:
    """A corpus with one more training document for every original in `fields` (id to its rewritten fields).

    A copy is called `{tag}-{original}`, names its original in `copy_of` and repeats its training labels; fields
    that are not rewritten are kept. On a market, a copy is suitable for whatever its original is suitable for.
    Source: ConFit v1, where an augmented document inherits the labels of its original. Raises ValueError where
    an id is taken.
    """
    frame, originals = corpus.documents(side), list(fields)
    names = {name: f"{tag}-{name}" for name in originals}
    taken = frame.index.intersection(list(names.values()))
    if len(taken):
        raise ValueError(f"{side} {taken[0]!r} is there already: these copies were made before, use another tag")
    rows = frame.loc[originals].assign(split="train", **{COPY_OF: originals})
    rows.update(pd.DataFrame.from_dict(dict(fields), orient="index"))
    rows.index = pd.Index([names[name] for name in originals], name=frame.index.name)
    inherited = _inherited(corpus, side, names)
    return add_documents(corpus, side, rows, inherited, corpus.positions(side, originals), note)


def add_documents(
    corpus: Corpus, side: Side, rows: pd.DataFrame, labels: pd.DataFrame, like: NDArray[np.intp] | None, note: str
) -> Corpus:
    """A corpus with more documents and labels; truth repeats that of the documents `like`, or says unsuitable."""
    frame = pd.concat([corpus.documents(side), rows])
    for column in {COPY_OF, NEGATIVE_FOR} & set(frame.columns):
        frame[column] = frame[column].fillna("")
    grown = corpus.with_documents(
        side,
        frame,
        labels=pd.concat([corpus.labels, labels], ignore_index=True),
        truth=_grown(corpus.truth, side, len(rows), like),
    )
    return replace(grown, notes=(*corpus.notes, note))


def _inherited(corpus: Corpus, side: Side, names: Mapping[str, str]) -> pd.DataFrame:
    labels = corpus.labelled("train")
    own = labels[labels[f"{side}_id"].isin(list(names))]
    return own.assign(**{f"{side}_id": own[f"{side}_id"].map(names)})


def _grown(truth: csr_array | None, side: Side, more: int, like: NDArray[np.intp] | None) -> csr_array | None:
    if truth is None:
        return None
    by_side = csr_array(truth if side == "resume" else truth.T)
    added = csr_array((more, by_side.shape[1]), dtype=bool) if like is None else by_side[like]
    grown = csr_array(vstack([by_side, added]))
    return csr_array(grown if side == "resume" else grown.T)


def side_name(side: Side, count: int) -> str:
    """ "1 resume", "500 jobs"."""
    return f"{count:,} {side}{'' if count == 1 else 's'}"
