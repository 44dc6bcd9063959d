"""Which documents must never be mined for a query: its known positives, their copies and their twins by text."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from confitlib.corpus import COPY_OF, PLACEHOLDER, Corpus, Side

REASONS = ("labelled positive", "augmented copy", "same text")


def removal(corpus: Corpus, target: Side) -> csr_array:
    """Why a document is kept from a query: int8 codes `[queries, documents]` in frame order, 0 = it is not.

    A pair that is positive in any split or candidate list has code 3; code 2 extends this to augmented copies
    (the optional column `copy_of` names the original), code 1 to documents of the same text (case and spacing
    aside), on both sides: a reposted job shares the positives of its first posting. `REASONS[3 - code]` is
    the reason.
    """
    labelled = corpus.known_positives()
    copies = _extended(labelled, _copies(corpus.resumes), _copies(corpus.jobs))
    twins = _extended(labelled, _twins(corpus, "resume"), _twins(corpus, "job"))
    nested = [pairs.astype(np.int8) for pairs in (labelled, copies, twins)]
    codes = nested[0] + nested[1] + nested[2]  # each set holds the one before it
    return csr_array(codes.T if target == "resume" else codes)


def codes_at(codes: csr_array, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.int8]:
    """The codes of flat pairs."""
    if not len(rows):  # scipy answers an empty question with a matrix
        return np.zeros(0, dtype=np.int8)
    return np.asarray(codes[rows, columns]).astype(np.int8)


def count_reasons(query: NDArray[np.intp], codes: NDArray[np.int8], n_queries: int) -> NDArray[np.int64]:
    """How many pairs each query loses for each of `REASONS`, `[n_queries, 3]`, from flat pairs and their codes."""
    known = codes > 0
    cells = query[known] * len(REASONS) + (len(REASONS) - codes[known])
    return np.bincount(cells, minlength=n_queries * len(REASONS)).reshape(n_queries, len(REASONS))


def _extended(pairs: csr_array, resumes: csr_array, jobs: csr_array) -> csr_array:
    """Every pair whose groups hold a given pair; `resumes` and `jobs` map documents to groups, one-hot."""
    return csr_array(resumes @ (resumes.T @ pairs @ jobs) @ jobs.T)


def _copies(frame: pd.DataFrame) -> csr_array:
    """Groups of originals and their augmented copies."""
    ids = pd.Series(frame.index.astype(str))
    if COPY_OF not in frame.columns:
        return _grouped(ids)
    origin = frame[COPY_OF].fillna("").astype(str).reset_index(drop=True)
    return _grouped(ids, origin.where(origin != "", ids))


def _twins(corpus: Corpus, side: Side) -> csr_array:
    """Groups of documents with the same text, and of the copies of these."""
    ids = pd.Series(corpus.documents(side).index.astype(str))
    copies = pd.Series(_copies(corpus.documents(side)).indices)
    frame = corpus.documents(side)[corpus.fields(side)].fillna("").astype(str).reset_index(drop=True)
    fields = [frame[name].str for name in frame]
    hidden = np.any([field.fullmatch(PLACEHOLDER) for field in fields], axis=0)
    words = [field.casefold().str.split().str.join(" ") for field in fields]
    text = pd.Series(["\x1f".join(parts) for parts in zip(*words, strict=True)], dtype="str")
    said = ~hidden & (text.str.strip("\x1f") != "")  # absent or withheld text shows no likeness
    return _grouped("copy " + copies.astype(str), ("text " + text).where(said, "id " + ids))


def _grouped(*keys: pd.Series) -> csr_array:
    """Documents that share any key, directly or through others, as one group: one-hot `[documents, groups]`."""
    n, names = len(keys[0]), pd.factorize(pd.concat(keys))[0]
    rows = np.tile(np.arange(n), len(keys))
    size = n + int(names.max(initial=-1)) + 1
    shares = coo_array((np.ones(len(rows), dtype=bool), (rows, n + names)), shape=(size, size))
    labels = connected_components(shares, directed=False)[1][:n]
    return csr_array((np.ones(n, dtype=bool), (np.arange(n), labels)), shape=(n, int(labels.max(initial=-1)) + 1))
