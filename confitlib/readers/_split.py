"""Cold-start splits for data that comes without any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import SIDES, SPLITS, Corpus, Side, other
from confitlib.groups import groups_of

FRACTIONS = (0.8, 0.1, 0.1)


def split_documents(corpus: Corpus, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> Corpus:
    """A cold-start split: every document gets one of train, valid and test, and so do the labels.

    The side with fewer labelled documents is dealt out at random, in `fractions` of its labels;
    each document of the other side follows most of its labels. Documents of the same text, such as a job that was
    posted twice, and copies go together. A label whose documents end in
    different splits cannot be used in a cold start: it is left out and counted in `notes`.
    Unlabelled documents are in train. Raises ValueError on a corpus with candidate lists, which
    belong to a split already, and on fractions that do not sum to 1.
    """
    if len(corpus.rankings):
        raise ValueError(f"corpus {corpus.name!r} has candidate lists, so its splits are given")
    _check(fractions)
    groups = {side: groups_of(corpus, side) for side in SIDES}
    labelled = {side: corpus.labels[f"{side}_id"].map(groups[side]) for side in SIDES}
    dealt: Side = "job" if labelled["job"].nunique() <= labelled["resume"].nunique() else "resume"
    first = _deal(labelled[dealt], fractions, seed)
    second = _follow(labelled[other(dealt)], labelled[dealt].map(first))
    split = _apply(corpus, {dealt: groups[dealt].map(first), other(dealt): groups[other(dealt)].map(second)})
    return replace(split, notes=(*split.notes, *empty_splits(split.labels["split"], fractions)))


def split_labels(n: int, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> NDArray[np.object_]:
    """A warm-start split: train, valid or test for each of `n` labels at random, in `fractions` of them."""
    _check(fractions)
    bounds = np.cumsum(fractions)[:-1]
    places = (np.random.default_rng(seed).permutation(n) + 0.5) / max(n, 1)
    return np.array(SPLITS, dtype=object)[np.searchsorted(bounds, places, side="right")]


def _check(fractions: Sequence[float]) -> None:
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions {tuple(fractions)}: give the shares of {SPLITS}, which sum to 1")


def empty_splits(splits: pd.Series, fractions: Sequence[float]) -> list[str]:
    """A note for each split that was to have labels and got none."""
    remedy = "give it a larger fraction, another seed or more labels, or name the splits in the data"
    wanted = [split for split, share in zip(SPLITS, fractions, strict=True) if share > 0]
    return [f"split {split!r} has no label: {remedy}" for split in wanted if not (splits == split).any()]


def _deal(ids: pd.Series, fractions: Sequence[float], seed: int) -> pd.Series:
    """Groups in random order, cut where the running number of labels passes each fraction."""
    labels = ids.value_counts().sort_index()
    shuffled = labels.iloc[np.random.default_rng(seed).permutation(len(labels))]
    middle = (shuffled.cumsum() - shuffled / 2) / max(int(shuffled.sum()), 1)
    bounds = np.cumsum(fractions)[:-1]
    chosen = np.searchsorted(bounds, middle.to_numpy(), side="right")
    return pd.Series(np.array(SPLITS, dtype=object)[chosen], index=shuffled.index)


def _follow(ids: pd.Series, splits: pd.Series) -> pd.Series:
    """The split of most labels of each group; ties go to the smaller split, which needs them more."""
    votes = pd.crosstab(ids, splits).reindex(columns=list(SPLITS), fill_value=0)
    scarce_first = votes[votes.sum().sort_values(kind="stable").index]
    return scarce_first.idxmax(axis=1)


def _apply(corpus: Corpus, splits: dict[Side, pd.Series]) -> Corpus:
    resume_split = corpus.labels["resume_id"].map(splits["resume"])
    kept = resume_split == corpus.labels["job_id"].map(splits["job"])
    crossing = int((~kept).sum())
    note = f"cold-start split: {crossing} of {len(kept)} labels join documents of two splits and are left out"
    return replace(
        corpus,
        resumes=_with_split(corpus.resumes, splits["resume"]),
        jobs=_with_split(corpus.jobs, splits["job"]),
        labels=corpus.labels.assign(split=resume_split)[kept].reset_index(drop=True),
        regime="cold",
        notes=(*corpus.notes, note),
    )


def _with_split(frame: pd.DataFrame, splits: pd.Series) -> pd.DataFrame:
    return frame.assign(split=frame.index.to_series().map(splits).fillna("train").astype("str"))
