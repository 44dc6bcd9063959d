"""What evaluation asks of a ranker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from confitlib.corpus import Side


class Scorer(Protocol):
    """A ranker: it has a name and scores pairs of documents; higher scores are better."""

    @property
    def name(self) -> str: ...

    def score(self, resume_ids: Sequence[str], job_ids: Sequence[str], target: Side = "resume") -> NDArray[Any]:
        """Scores of every pair, `[len(resume_ids), len(job_ids)]`; `target` is the side that is ranked."""
        ...

    def score_pairs(self, resume_ids: Sequence[str], job_ids: Sequence[str]) -> NDArray[Any]:
        """Scores of aligned pairs, `[len(resume_ids)]`."""
        ...


def checked(ranker: Scorer, scores: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The scores as an array; raises ValueError naming the ranker if their shape is not the one asked for."""
    scores = np.asarray(scores)
    if scores.shape != shape:
        raise ValueError(f"ranker {ranker.name!r} gave scores of shape {scores.shape}, asked for {shape}")
    return scores
