"""Batches of positive pairs: seeded hard negatives, documents prepared once, masks of known positives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confitlib.corpus import SIDES, Corpus, Side, Split, other
from confitlib.encoder import TextEncoder
from confitlib.encoder.batching import length_sorted_batches
from confitlib.mining import Negatives
from confitlib.mining.removal import known_positive_mask
from confitlib.text import texts

FILLER = -1  # stands for no pair, where the last batches of several processes have too few


class PositivePairs(torch.utils.data.Dataset):
    """The positive pairs of a split, each with hard negatives drawn by (seed, epoch, pair).

    Documents are row numbers of the corpus frames, so a draw does not depend on anything drawn before:
    an interrupted run continues with the same negatives.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: Split,
        negatives: Mapping[Side, Negatives] | None = None,
        per_pair: int = 1,
        seed: int = 0,
    ) -> None:
        labels = corpus.labelled(split, 1)
        if labels.empty:
            raise ValueError(f"corpus {corpus.name!r} has no accepted pair in split {split!r}: nothing to learn from")
        self.rows = {side: corpus.positions(side, labels[f"{side}_id"]) for side in SIDES}
        self.corpus, self.per_pair, self.seed, self.epoch = corpus, per_pair, seed, 0
        self.use(negatives or {})

    def use(self, negatives: Mapping[Side, Negatives]) -> None:
        """Draw from these hard negatives from now on."""
        self.negatives = {side: _pools(self.corpus, side, negatives.get(side)) for side in SIDES}

    def __len__(self) -> int:
        return len(self.rows["resume"])

    def __getitem__(self, pair: int) -> dict[str, Any] | None:
        if pair == FILLER:
            return None
        rng = np.random.default_rng((self.seed, self.epoch, pair))
        item: dict[str, Any] = {side: int(self.rows[side][pair]) for side in SIDES}
        for side in SIDES:
            pool = self.negatives[side].get(item[other(side)], _EMPTY)
            item[f"negative_{side}s"] = rng.choice(pool, min(self.per_pair, len(pool)), replace=False)
        return item


_EMPTY = np.empty(0, dtype=np.intp)


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Every pair once an epoch, neighbours of similar length, so that batches carry little padding.

    A permutation drawn by (seed, epoch) is cut into windows of `window` batches; each is sorted by `lengths`
    (tokens of a pair) and cut into batches, whose order is drawn as well. Pairs of an incomplete batch come last.
    """

    def __init__(self, pairs: PositivePairs, lengths: NDArray[np.intp], batch_size: int, window: int = 50) -> None:
        self.pairs, self.lengths, self.batch_size, self.window = pairs, lengths, batch_size, window

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.pairs.seed, self.pairs.epoch))
        order = rng.permutation(len(self))
        whole = len(order) - len(order) % self.batch_size
        step = self.window * self.batch_size
        windows = [order[start : min(start + step, whole)] for start in range(0, whole, step)]
        grouped = [window[np.argsort(self.lengths[window], kind="stable")] for window in windows]
        batches = np.concatenate([*grouped, order[:0]]).reshape(-1, self.batch_size)
        yield from rng.permutation(batches).ravel().tolist()
        yield from order[whole:].tolist()


class WholeBatches(torch.utils.data.Sampler[int]):
    """The order of another sampler, filled up with `FILLER` until every process has its share of the last batch."""

    def __init__(self, sampler: torch.utils.data.Sampler[int], multiple: int) -> None:
        self.sampler, self.multiple = sampler, multiple

    def __len__(self) -> int:
        return -(-self._pairs // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from [FILLER] * (len(self) - self._pairs)

    def set_epoch(self, epoch: int) -> None:
        """Hand the number of the epoch on to samplers that want it."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    @property
    def _pairs(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]


def _pools(corpus: Corpus, side: Side, negatives: Negatives | None) -> dict[int, NDArray[np.intp]]:
    """Hard negatives of a side by query row."""
    if negatives is None or negatives.table.empty:
        return {}
    if negatives.target != side:
        raise ValueError(f"negatives for {side}s hold {negatives.target}s: pass them under {negatives.target!r}")
    table = negatives.table
    rows = corpus.positions(side, table["negative_id"])
    queries = corpus.positions(other(side), table["query_id"])
    order = np.argsort(queries, kind="stable")
    starts = np.flatnonzero(np.diff(queries[order], prepend=-1))
    return {
        int(queries[order[start]]): part for start, part in zip(starts, np.split(rows[order], starts[1:]), strict=True)
    }


class DocumentStore:
    """Model inputs of every document of a side, prepared once: token ids, or vectors in adapter mode.

    `chunk`: the most documents of a part that the model embeds at a time.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        corpus: Corpus,
        side: Side,
        frozen: bool,
        cache: Path | None = None,
        chunk: int | None = None,
    ) -> None:
        self.encoder, self.chunk, documents = encoder, chunk, list(texts(corpus, side))
        if frozen:
            self.vectors: Tensor | None = torch.from_numpy(encoder.embed_frozen(documents, cache=cache))
            self.lengths = np.ones(len(documents), dtype=np.intp)
        else:
            self.vectors, self.tokens = None, encoder.tokenize(documents)
            self.lengths = np.array([len(ids) for ids in self.tokens], dtype=np.intp)

    def features(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        """`parts`: encoder inputs of some documents of similar length each; `places`: where each row went.

        A part holds no more tokens than suit the device either: a CPU trains 1.4 times as fast on these as on a batch
        that is padded to its longest document.
        """
        most, tokens = self.chunk or max(1, len(rows)), self.encoder.tokens_at_once
        parts = list(length_sorted_batches(self.lengths[rows], most, tokens))
        places = torch.from_numpy(np.concatenate(parts).argsort())
        return {"parts": [self._inputs(rows[part]) for part in parts], "places": places}

    def _inputs(self, rows: NDArray[np.intp]) -> dict[str, Tensor]:
        if self.vectors is not None:
            return {"vectors": self.vectors[torch.from_numpy(rows)]}
        return self.encoder.collate([self.tokens[row] for row in rows])


class Store(Protocol):
    """Model inputs of every document of a side."""

    def features(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        """Inputs of the documents in these rows, for one call of a model."""
        ...


class PairCollator:
    """Turns positive pairs into one batch: both sides' documents, positives first, their rows and the masks.

    A candidate is masked for an anchor when mining would never pick it as a negative: known positives, their
    augmented copies and documents of the same text. The anchor's own positive is never masked.
    """

    def __init__(self, stores: Mapping[Side, Store], corpus: Corpus, negatives_per_batch: int | None) -> None:
        self.stores, self.cap, self.n_jobs = stores, negatives_per_batch, len(corpus.jobs)
        known = known_positive_mask(corpus, "job").tocoo()
        self.known = np.sort(self._pair_keys(*(rows.astype(np.intp) for rows in known.coords)))

    def __call__(self, items: list[dict[str, Any] | None]) -> dict[str, Any]:
        pairs = [item for item in items if item is not None]
        rows = {side: self._candidates(pairs, side) for side in SIDES}
        return {
            "resumes": self._features("resume", rows["resume"]),
            "jobs": self._features("job", rows["job"]),
            "resume_rows": torch.from_numpy(rows["resume"]),
            "job_rows": torch.from_numpy(rows["job"]),
            **self.masks(rows["resume"], rows["job"], len(pairs)),
        }

    def masks(self, resumes: NDArray[np.intp], jobs: NDArray[np.intp], pairs: int) -> dict[str, Tensor]:
        """`masked_jobs` `[pairs, len(jobs)]` and `masked_resumes` `[pairs, len(resumes)]` of documents by row.

        The first `pairs` rows of both sides are the pairs of the batch.
        """
        return {
            "masked_jobs": self._mask(self._pair_keys(resumes[:pairs, None], jobs)),
            "masked_resumes": self._mask(self._pair_keys(resumes, jobs[:pairs, None])),
        }

    def _features(self, side: Side, rows: NDArray[np.intp]) -> dict[str, Any]:
        rows = rows if len(rows) else np.zeros(1, dtype=np.intp)  # a process without pairs embeds in step all the same
        return self.stores[side].features(rows)

    def _candidates(self, pairs: list[dict[str, Any]], side: Side) -> NDArray[np.intp]:
        rows = np.array([pair[side] for pair in pairs], dtype=np.intp)
        negatives = np.concatenate([_EMPTY, *(pair[f"negative_{side}s"] for pair in pairs)]).astype(np.intp)
        return np.concatenate([rows, negatives[: self.cap]])

    def _mask(self, pairs: NDArray[np.int64]) -> Tensor:
        places = np.searchsorted(self.known, pairs).clip(max=len(self.known) - 1)
        masked = self.known[places] == pairs
        np.fill_diagonal(masked, False)
        return torch.from_numpy(masked)

    def _pair_keys(self, resumes: NDArray[np.intp], jobs: NDArray[np.intp]) -> NDArray[np.int64]:
        return resumes.astype(np.int64) * self.n_jobs + jobs
