"""Which documents must never be mined for a query: its known positives, their copies and their duplicates by text."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from confitlib.corpus import Corpus, Side
from confitlib.groups import copy_groups, twin_groups

REASONS = ("labelled positive", "augmented copy", "same text")


def known_positive_mask(corpus: Corpus, target: Side) -> csr_array:
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


def _extended(pairs: csr_array, resumes: csr_array, jobs: csr_array) -> csr_array:
    """Every pair whose groups hold a given pair; `resumes` and `jobs` map documents to groups, one-hot."""
    return csr_array(resumes @ (resumes.T @ pairs @ jobs) @ jobs.T)
