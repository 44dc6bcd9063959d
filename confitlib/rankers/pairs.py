"""Batches of judged pairs for pairwise training, with seeded negatives drawn inside the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from confitlib.corpus import SIDES, Corpus, Side, Split, known_positive_mask
from confitlib.mining.strategies import codes_at

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class PairBatch:
    """`documents`: row numbers of the documents of a batch, each once; `pairs`: places among these, and `labels`."""

    documents: dict[Side, Rows]
    pairs: dict[Side, Rows]
    labels: NDArray[np.float32]


class PairBatches:
    """The judged pairs of a split in batches of `size`.

    The pairs of a job stay together, so that a batch encodes few jobs. For each accepted pair, `sampled` times
    another pair of the batch lends its resume or its job to make a negative; known positives (and their copies
    and twins by text) are never made one. `rejections=False` leaves the labelled rejections out.

    Raises ValueError for a split without what this needs.
    """

    def __init__(
        self, corpus: Corpus, split: Split, *, size: int = 64, rejections: bool = True, sampled: int = 4
    ) -> None:
        _check(corpus, split, rejections, sampled)
        judged = corpus.labelled(split) if rejections else corpus.labelled(split, 1)
        self.rows: dict[Side, Rows] = {side: corpus.positions(side, judged[f"{side}_id"]) for side in SIDES}
        self.labels = judged["label"].to_numpy(np.float32)
        self.known, self.size, self.sampled = known_positive_mask(corpus, "job"), size, sampled

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def epoch(self, rng: np.random.Generator) -> Iterator[PairBatch]:
        """All batches in random order of the jobs and of each job's pairs."""
        job_order = rng.permutation(self.known.shape[1])[self.rows["job"]]
        order = np.lexsort((rng.random(len(self.labels)), job_order))
        for start in range(0, len(order), self.size):
            yield self._batch(order[start : start + self.size], rng)

    def _batch(self, chosen: Rows, rng: np.random.Generator) -> PairBatch:
        negatives = self._negatives(chosen, rng)
        rows = {side: np.concatenate([self.rows[side][chosen], negatives[side]]) for side in SIDES}
        labels = np.concatenate([self.labels[chosen], np.zeros(len(negatives["job"]), dtype=np.float32)])
        found = {side: np.unique(rows[side], return_inverse=True) for side in SIDES}
        return PairBatch({side: found[side][0] for side in SIDES}, {side: found[side][1] for side in SIDES}, labels)

    def _negatives(self, chosen: Rows, rng: np.random.Generator) -> dict[Side, Rows]:
        anchors = np.repeat(chosen[self.labels[chosen] == 1], self.sampled)
        lenders = chosen[rng.integers(0, len(chosen), len(anchors))]
        lends_job = rng.random(len(anchors)) < 0.5
        jobs = self.rows["job"][np.where(lends_job, lenders, anchors)]
        resumes = self.rows["resume"][np.where(lends_job, anchors, lenders)]
        unknown = codes_at(self.known, resumes, jobs) == 0
        return {"resume": resumes[unknown], "job": jobs[unknown]}


def _check(corpus: Corpus, split: Split, rejections: bool, sampled: int) -> None:
    have = {label: len(corpus.labelled(split, label)) for label in (0, 1)}
    if not have[1]:
        raise ValueError(f"corpus {corpus.name!r} has no accepted pair in split {split!r}: nothing to learn from")
    if rejections and not have[0]:
        raise ValueError(
            f"corpus {corpus.name!r} has no rejected pair in split {split!r}: "
            "set rejections=False in PairTraining to learn from accepted pairs and sampled negatives"
        )
    if not rejections and not sampled:
        raise ValueError("rejections=False and sampled=0 leave no negative: sample at least one")
