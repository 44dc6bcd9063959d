"""Reasons for which documents are kept from a query, looked up and counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from confitlib.corpus import REASONS


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
