"""The inner loop of ranking: scores become sortable keys, and only those between two bounds are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

MAGNITUDE = 0x7FFFFFFF  # all bits of a float32 but its sign
POSITION = 0xFFFFFFFF
UNUSED = torch.iinfo(torch.int64).max


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
