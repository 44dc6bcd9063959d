"""Which documents must never be mined for a query: its known positives, their copies and their twins by text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from confitlib.corpus import Corpus, Side
from confitlib.groups import copy_groups, twin_groups

REASONS = ("labelled positive", "augmented copy", "same text")


def removal(corpus: Corpus, target: Side) -> csr_array:
    """Why a document is kept from a query: int8 codes `[queries, documents]` in frame order, 0 = it is not.

    A pair that is positive in any split or candidate list has code 3; code 2 extends this to augmented copies
    (the optional column `copy_of` names the original), code 1 to documents of the same text (case and spacing
    aside), on both sides: a reposted job shares the positives of its first posting. `REASONS[3 - code]` is
    the reason.
    """
    labelled = corpus.known_positives()
    copies = _extended(labelled, copy_groups(corpus.resumes), copy_groups(corpus.jobs))
    twins = _extended(labelled, twin_groups(corpus, "resume"), twin_groups(corpus, "job"))
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
