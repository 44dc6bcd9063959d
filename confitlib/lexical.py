"""BM25 over words, for the rankers and for mining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import bm25s
import numpy as np
from numpy.typing import NDArray

Variant = Literal["okapi", "bm25l"]

_METHODS = {"okapi": "robertson", "bm25l": "bm25l"}


def check_variant(variant: Variant) -> Variant:
    """The variant; raises ValueError for an unknown one."""
    if variant not in _METHODS:
        raise ValueError(f"variant={variant!r} is unknown; use one of {list(_METHODS)}")
    return variant


class WordIndex:
    """BM25 scores of documents, given as lists of words, for a query of words.

    `variant`: "okapi" (ConFit v2's choice) or "bm25l" (ConFit v1's). `unique` counts every word of the query once;
    the official scripts count it as often as it occurs.
    """

    def __init__(
        self,
        documents: Sequence[list[str]],
        variant: Variant = "okapi",
        unique: bool = False,
        k1: float = 1.5,
        b: float = 0.75,
        delta: float = 0.5,
    ) -> None:
        self.unique = unique
        self._index = bm25s.BM25(method=_METHODS[check_variant(variant)], k1=k1, b=b, delta=delta)
        self._size, self._worded = len(documents), any(documents)
        if self._worded:
            self._index.index(list(documents), show_progress=False)

    def scores(self, query: Sequence[str]) -> NDArray[np.float32]:
        """BM25 of every document, `[n_documents]`."""
        if not self._worded:
            return np.zeros(self._size, dtype=np.float32)
        counted = list(dict.fromkeys(query) if self.unique else query)
        return np.asarray(self._index.get_scores(counted), dtype=np.float32)
