"""The inner loop of ranking: scores become sortable keys, and only those between two bounds are kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

IntArray = NDArray[np.intp]

CERTAINTY = 3.5  # standard deviations: about one window in 2,000 is missed
MAGNITUDE = 0x7FFFFFFF  # all bits of a float32 but its sign
POSITION = 0xFFFFFFFF
UNUSED = torch.iinfo(torch.int64).max


@dataclass(frozen=True, eq=False)
class Bracket:
    """The places in a sample of a pool's scores that surely enclose each window of ranks; all `[Q]`.

    Places count from the highest score of the sample; -1 and `sampled` stand for no bound.
    """

    top: IntArray
    bottom: IntArray
    sampled: int
    documents: int

    @classmethod
    def of(cls, start: IntArray, stop: IntArray, sampled: int, documents: int, times: float = 1.0) -> Bracket:
        """Around the ranks `[start, stop)` of so many documents; `times` widens the margin."""
        free = 1 - sampled / documents  # the larger the sample, the less is left to chance

        def place(rank: IntArray, side: int) -> IntArray:
            share = rank / documents
            margin = times * (CERTAINTY * np.sqrt(sampled * share * (1 - share) * free) + 1)
            return (share * sampled + side * margin).round().astype(np.intp).clip(-1, sampled)

        return cls(place(start, -1), place(stop, 1), sampled, documents)

    @cached_property
    def capacity(self) -> int:
        """How many scores a query may keep: the most that lie between two such places, but for rare luck."""
        widest = int((self.bottom - self.top).max(initial=0))
        likely = (widest + 4 * widest**0.5 + 1) / self.sampled
        return min(self.documents, int(likely * self.documents) + 1)

    def sieve(self, sample: torch.Tensor, rows: IntArray) -> Sieve:
        """An empty sieve for the queries at `rows`, whose scores of the sample `[R, sampled]` rise."""
        top, bottom = (torch.as_tensor(place[rows], device=sample.device)[:, None] for place in (self.top, self.bottom))
        last = self.sampled - 1
        high = sample.gather(1, (last - top).clamp(0, last)).masked_fill(top < 0, torch.inf)
        low = sample.gather(1, (last - bottom).clamp(0, last)).masked_fill(bottom > last, -torch.inf)
        lowest = torch.finfo(torch.float32).min  # no need to keep what was removed
        return Sieve.between(low[:, 0].clamp(min=lowest), high[:, 0], self.capacity)


@dataclass(frozen=True, eq=False)
class Sieve:
    """What `R` queries keep of the scores that pass: all between `low` and `high`, inclusive, both `[R]`.

    keys: `[R, capacity]`, see `encoded`; count: `[R]` how many lie between, at most `capacity` of them in `keys`;
    above: `[R]` how many lie above.
    """

    low: torch.Tensor
    high: torch.Tensor
    keys: torch.Tensor
    count: torch.Tensor
    above: torch.Tensor

    @classmethod
    def between(cls, low: torch.Tensor, high: torch.Tensor, capacity: int) -> Sieve:
        """An empty sieve."""
        keys = torch.full((len(low), capacity), UNUSED, device=low.device)
        count, above = (torch.zeros(len(low), dtype=torch.int64, device=low.device) for _ in range(2))
        return cls(low, high, keys, count, above)

    def add(self, scores: torch.Tensor, first: int, step: int) -> None:
        """Sift a tile of scores `[R, C]` of the documents `first, first + step, …`; one pass over it."""
        if scores.device.type == "cpu":
            parts = (self.low, self.high, self.keys, self.count, self.above)
            _sift(scores.numpy(), first, step, *(part.numpy() for part in parts))
        else:
            self.add_on_device(scores, first, step)

    def add_on_device(self, scores: torch.Tensor, first: int, step: int) -> None:
        """`add` in torch operations alone."""
        low, high = self.low[:, None], self.high[:, None]
        self.above.add_((scores > high).sum(dim=1))
        row, column = ((scores >= low) & (scores <= high)).nonzero(as_tuple=True)
        found = row.bincount(minlength=len(scores))
        slot = torch.arange(len(row), device=row.device) + (self.count - found.cumsum(0) + found)[row]
        fits = slot < self.keys.shape[1]
        row, column, slot = row[fits], column[fits], slot[fits]
        self.keys[row, slot] = encoded(scores[row, column], first + step * column)
        self.count.add_(found)

    def holds(self, start: IntArray, stop: IntArray) -> NDArray[np.bool_]:
        """Which queries kept all of their ranks `[start, stop)`, both `[R]`."""
        above, kept = self.above.cpu().numpy(), self.count.cpu().numpy()
        return (above <= start) & (above + kept >= stop) & (kept <= self.keys.shape[1])

    def at(self, row: IntArray, rank: IntArray) -> torch.Tensor:
        """The key at each rank of each row, flat; of no meaning for a rank that was not kept."""
        keys = self.ranked()
        slot = (row * keys.shape[1] + rank - self.above.cpu().numpy()[row]).clip(0, max(0, keys.numel() - 1))
        return keys.take(torch.as_tensor(slot, device=keys.device)).cpu()

    def ranked(self) -> torch.Tensor:
        """The kept keys in rank order, `UNUSED` ones last: `[R, fullest row]`."""
        used = max(1, min(int(self.count.max()), self.keys.shape[1]))
        return in_order(self.keys[:, :used])


def in_order(values: torch.Tensor) -> torch.Tensor:
    """Every row in rising order, in place on a CPU: numpy's vectorised sort is ten times as fast as torch's there."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    values.numpy().sort(axis=1)
    return values


def encoded(scores: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """int64 keys that rise as the score falls and, for equal scores, as the position in the pool rises.

    Keys never tie, so any sort gives the same ranking, on any device.
    """
    bits = (scores + 0.0).view(torch.int32)  # adding 0.0 turns -0.0 into 0.0
    rising = bits ^ ((bits >> 31) & MAGNITUDE)  # the bits of negative floats grow as these fall
    return (~rising).long() << 32 | positions


def decoded(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and scores of keys; the inverse of `encoded`."""
    rising = ~(keys >> 32).int()
    return keys & POSITION, (rising ^ ((rising >> 31) & MAGNITUDE)).view(torch.float32)


@njit(nogil=True, cache=True)
def _sift(
    scores: NDArray[np.float32],
    first: int,
    step: int,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    keys: NDArray[np.int64],
    count: NDArray[np.int64],
    above: NDArray[np.int64],
) -> None:
    """`Sieve.add` on a CPU. The first loop of a row has no branch: most scores are below the window."""
    bits = scores.view(np.int32)
    reached = np.empty(scores.shape[1] + 1, dtype=np.int32)
    for row in range(len(scores)):
        line, least, most, hits = scores[row], low[row], high[row], 0  # locals: three times as fast
        for column in range(len(line)):
            reached[hits] = column
            hits += line[column] >= least
        for column in reached[:hits]:
            if line[column] > most:
                above[row] += 1
                continue
            if count[row] < keys.shape[1]:
                number = np.int64(bits[row, column]) if line[column] != 0 else np.int64(0)  # -0.0 ties with 0.0
                rising = number ^ ((number >> 31) & MAGNITUDE)
                keys[row, count[row]] = (~rising << 32) | (first + step * np.int64(column))
            count[row] += 1
