"""What may be learnt from: the accepted training pairs, and which of them a document must not see."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import COPY_OF, Corpus, Side, duplicate_groups, other


class AcceptedPairs:
    """Accepted training pairs of original documents, seen from one side: `own` is of that side, `partner` of the other.

    Labels of validation and test are never read. `allowed` leaves out the pairs that would tell a document its own
    answer: its own, those of its copies and twins by text, and every pair with a partner that they were accepted with.
    Raises ValueError for a corpus without an accepted training pair.
    """

    def __init__(self, corpus: Corpus, side: Side) -> None:
        labels = corpus.labelled("train", 1)
        pairs = pd.DataFrame({"own": labels[f"{side}_id"], "partner": labels[f"{other(side)}_id"]})
        originals = pairs["own"].isin(_originals(corpus, side)) & pairs["partner"].isin(_originals(corpus, other(side)))
        self.corpus, self.side, self.pairs = corpus, side, pairs[originals].reset_index(drop=True)
        if self.pairs.empty:
            raise ValueError(f"corpus {corpus.name!r} has no accepted training pair to write from")

    def allowed(self, name: str) -> NDArray[np.intp]:
        """Rows of `pairs` that document `name` may see, in label order."""
        group = self._groups[self.side][name]
        partners = self._accepted_with.get(group, _NOTHING)
        own, partner = self._pair_groups
        return np.flatnonzero((own != group) & ~np.isin(partner, partners))

    @cached_property
    def _groups(self) -> dict[Side, pd.Series]:
        named = {side: duplicate_groups(self.corpus, side) for side in (self.side, other(self.side))}
        return {side: pd.Series(pd.factorize(groups)[0], index=groups.index) for side, groups in named.items()}

    @cached_property
    def _pair_groups(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        own = self._groups[self.side].loc[self.pairs["own"]].to_numpy()
        return own, self._groups[other(self.side)].loc[self.pairs["partner"]].to_numpy()

    @cached_property
    def _accepted_with(self) -> dict[int, NDArray[np.intp]]:
        own, partner = self._pair_groups
        groups = pd.Series(partner).groupby(own).indices
        return {int(own[places[0]]): partner[places] for places in groups.values()}


_NOTHING = np.empty(0, dtype=np.intp)


def _originals(corpus: Corpus, side: Side) -> pd.Index:
    frame = corpus.documents(side)
    copied = frame[COPY_OF].fillna("") != "" if COPY_OF in frame.columns else np.zeros(len(frame), dtype=bool)
    return frame.index[~np.asarray(copied)]
