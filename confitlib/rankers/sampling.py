"""Training pairs for systems that judge one pair at a time: accepted pairs and seeded negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from confitlib.corpus import SIDES, Corpus, Side, Split, known_positive_mask
from confitlib.mining.strategies import codes_at

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class JudgedPairs:
    """Row numbers of the documents of each pair, and its label (1 or 0)."""

    rows: dict[Side, Rows]
    labels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


def judged_pairs(corpus: Corpus, split: Split) -> JudgedPairs:
    """The labelled pairs of a split; raises ValueError unless some are accepted and some rejected."""
    return _both_labels(_labelled(corpus, split), corpus, split, "sample random negatives")


def sampled_pairs(
    corpus: Corpus, split: Split, *, random: int = 7, hard: int = 1, seed: int = 0, epoch: int = 0
) -> JudgedPairs:
    """Every accepted pair of a split with `random` made negatives and `hard` labelled rejections of its own.

    A made negative keeps the job or the resume of its pair (a fair coin) and draws the other document from the
    split; known positives are never made one. A rejection shares the job of its pair, or else the resume; pairs
    without one have none. 7 and 1 are those of ConFit v1's tree ablation (README of jasonyux/ConFit). Raises
    ValueError for a split without accepted pairs or for sampling that leaves no negative.
    """
    rng = np.random.default_rng((seed, epoch))
    accepted = _labelled(corpus, split, 1)
    if not len(accepted):
        raise ValueError(f"corpus {corpus.name!r} has no accepted pair in split {split!r}: nothing to learn from")
    parts = [accepted, _random_negatives(corpus, split, accepted, random, rng)]
    parts.append(_rejections(accepted, _labelled(corpus, split, 0), hard, rng))
    return _both_labels(_joined(parts), corpus, split, "sample more negatives")


def _labelled(corpus: Corpus, split: Split, label: int | None = None) -> JudgedPairs:
    table = corpus.labelled(split, label)
    rows = {side: corpus.positions(side, table[f"{side}_id"]) for side in SIDES}
    return JudgedPairs(rows, table["label"].to_numpy(np.float32))


def _both_labels(pairs: JudgedPairs, corpus: Corpus, split: Split, remedy: str) -> JudgedPairs:
    for label, name in ((1, "accepted"), (0, "rejected or sampled negative")):
        if not (pairs.labels == label).any():
            what = f"corpus {corpus.name!r} has no {name} pair in split {split!r}"
            raise ValueError(f"{what}: add labels to the corpus, or {remedy}")
    return pairs


def _random_negatives(
    corpus: Corpus, split: Split, accepted: JudgedPairs, count: int, rng: np.random.Generator
) -> JudgedPairs:
    kept = {side: np.repeat(accepted.rows[side], count) for side in SIDES}
    pools = {side: corpus.positions(side, corpus.pool(side, split)) for side in SIDES}
    drawn = {side: pools[side][rng.integers(0, len(pools[side]), len(kept[side]))] for side in SIDES}
    draws_job = rng.random(len(kept["job"])) < 0.5
    resumes = np.where(draws_job, kept["resume"], drawn["resume"])
    jobs = np.where(draws_job, drawn["job"], kept["job"])
    unknown = codes_at(known_positive_mask(corpus, "job"), resumes, jobs) == 0
    rows: dict[Side, Rows] = {"resume": resumes[unknown], "job": jobs[unknown]}
    return JudgedPairs(rows, np.zeros(int(unknown.sum()), dtype=np.float32))


def _rejections(accepted: JudgedPairs, rejected: JudgedPairs, count: int, rng: np.random.Generator) -> JudgedPairs:
    """Up to `count` rejections for each accepted pair, drawn without replacement among those of its job or resume."""
    by_job, by_resume = (_by_document(rejected.rows[side]) for side in ("job", "resume"))
    none = np.empty(0, dtype=np.intp)
    chosen = [none]
    for resume, job in zip(accepted.rows["resume"], accepted.rows["job"], strict=True):
        pool = by_job.get(int(job), by_resume.get(int(resume), none))
        chosen.append(rng.choice(pool, min(count, len(pool)), replace=False))
    places = np.concatenate(chosen)
    return JudgedPairs({side: rejected.rows[side][places] for side in SIDES}, rejected.labels[places])


def _by_document(rows: Rows) -> dict[int, Rows]:
    order = np.argsort(rows, kind="stable")
    documents, starts = np.unique(rows[order], return_index=True)
    return dict(zip(documents.tolist(), np.split(order, starts[1:]), strict=True))


def _joined(parts: list[JudgedPairs]) -> JudgedPairs:
    rows = {side: np.concatenate([part.rows[side] for part in parts]) for side in SIDES}
    return JudgedPairs(rows, np.concatenate([part.labels for part in parts]))
