"""Batches of positive pairs: seeded hard negatives, documents prepared once, masks of known positives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confitlib.corpus import SIDES, Corpus, Side, Split, known_positive_mask, other
from confitlib.encoder import TextEncoder
from confitlib.encoder.model import length_sorted_batches
from confitlib.mining import Negatives
from confitlib.text import texts
from confitlib.training.distributed import FILLER

Rows = NDArray[np.intp]
NO_ROWS: Rows = np.empty(0, dtype=np.intp)


class PositivePairs(torch.utils.data.Dataset):
    """The positive pairs of a split, each with hard negatives drawn by (seed, epoch, pair).

    Documents are row numbers of the corpus frames. A draw does not depend on earlier ones, so an interrupted run
    continues with the same negatives.
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
        self.negatives = {side: _rows_by_query(self.corpus, side, negatives.get(side)) for side in SIDES}

    def __len__(self) -> int:
        return len(self.rows["resume"])

    def __getitem__(self, pair: int) -> dict[str, Any] | None:
        if pair == FILLER:
            return None
        rng = np.random.default_rng((self.seed, self.epoch, pair))
        item: dict[str, Any] = {side: int(self.rows[side][pair]) for side in SIDES}
        for side in SIDES:
            pool = self.negatives[side].get(item[other(side)], NO_ROWS)
            item[f"negative_{side}s"] = rng.choice(pool, min(self.per_pair, len(pool)), replace=False)
        return item


def _rows_by_query(corpus: Corpus, side: Side, negatives: Negatives | None) -> dict[int, Rows]:
    """Rows of a side's hard negatives by the row of their query, in table order."""
    if negatives is None or negatives.table.empty:
        return {}
    if negatives.target != side:
        raise ValueError(f"negatives for {side}s hold {negatives.target}s: pass them under {negatives.target!r}")
    rows = corpus.positions(side, negatives.table["negative_id"])
    queries = corpus.positions(other(side), negatives.table["query_id"])
    order = np.argsort(queries, kind="stable")
    starts = np.flatnonzero(np.diff(queries[order], prepend=-1))
    parts = np.split(rows[order], starts[1:])
    return {int(query): part for query, part in zip(queries[order][starts], parts, strict=True)}


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Every pair once an epoch, neighbours of similar length, so that batches carry little padding.

    A permutation drawn by (seed, epoch) is cut into windows of `window` batches; each is sorted by `lengths`
    (tokens of a pair) and cut into batches, whose order is drawn as well. Pairs of an incomplete batch come last.
    """

    def __init__(self, pairs: PositivePairs, lengths: Rows, batch_size: int, window: int = 50) -> None:
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


class DocumentStore:
    """Model inputs of every document of a side, prepared once: token ids, or vectors in adapter mode (`frozen`).

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
        self.vectors = torch.from_numpy(encoder.embed_frozen(documents, cache=cache)) if frozen else None
        self.tokens = [] if frozen else encoder.tokenize(documents)
        self.lengths = np.array([1] * len(documents) if frozen else list(map(len, self.tokens)), dtype=np.intp)

    def features(self, rows: Rows) -> dict[str, Any]:
        """`parts`: encoder inputs of some documents of similar length each; `places`: where each row went.

        A part holds no more tokens than suit the device either: a CPU trains 1.4 times as fast on these as on a batch
        that is padded to its longest document.
        """
        most = self.chunk or max(1, len(rows))
        parts = list(length_sorted_batches(self.lengths[rows], most, self.encoder.tokens_at_once))
        places = torch.from_numpy(np.concatenate(parts).argsort())
        return {"parts": [self._inputs(rows[part]) for part in parts], "places": places}

    def _inputs(self, rows: Rows) -> dict[str, Tensor]:
        if self.vectors is not None:
            return {"vectors": self.vectors[torch.from_numpy(rows)]}
        return self.encoder.collate([self.tokens[row] for row in rows])


class PairCollator:
    """Turns positive pairs into one batch: both sides' documents, positives first, their rows and the masks.

    `stores`: for each side an object whose `features(rows)` gives the model's inputs, such as a `DocumentStore`.
    A candidate is masked for an anchor when mining would never pick it as a negative: known positives, their
    augmented copies and documents of the same text. The anchor's own positive is never masked.
    """

    def __init__(self, stores: Mapping[Side, Any], corpus: Corpus, negatives_per_batch: int | None) -> None:
        self.stores, self.cap, self.n_jobs = stores, negatives_per_batch, len(corpus.jobs)
        positives = known_positive_mask(corpus, "job").tocoo()
        self.positives = np.sort(self._pair_keys(*(rows.astype(np.intp) for rows in positives.coords)))

    def __call__(self, items: list[dict[str, Any] | None]) -> dict[str, Any]:
        pairs = [item for item in items if item is not None]
        batch: dict[str, Any] = {}
        for side in SIDES:
            # rows of a side: its document of each pair, then hard negatives  [pairs + negatives]
            positives = np.array([pair[side] for pair in pairs], dtype=np.intp)
            negatives = np.concatenate([NO_ROWS, *(pair[f"negative_{side}s"] for pair in pairs)]).astype(np.intp)
            rows = np.concatenate([positives, negatives[: self.cap]])
            batch[f"{side}_rows"] = torch.from_numpy(rows)
            # a process without pairs embeds in step all the same
            batch[f"{side}s"] = self.stores[side].features(rows if len(rows) else np.zeros(1, dtype=np.intp))
        return batch | self.masks(batch["resume_rows"].numpy(), batch["job_rows"].numpy(), len(pairs))

    def masks(self, resumes: Rows, jobs: Rows, pairs: int) -> dict[str, Tensor]:
        """`masked_jobs` `[pairs, len(jobs)]` and `masked_resumes` `[pairs, len(resumes)]` of documents by row.

        The first `pairs` rows of both sides are the pairs of the batch.
        """
        return {
            "masked_jobs": self._mask(self._pair_keys(resumes[:pairs, None], jobs)),
            "masked_resumes": self._mask(self._pair_keys(resumes, jobs[:pairs, None])),
        }

    def _mask(self, keys: NDArray[np.int64]) -> Tensor:
        places = np.searchsorted(self.positives, keys).clip(max=len(self.positives) - 1)
        masked = self.positives[places] == keys
        np.fill_diagonal(masked, False)
        return torch.from_numpy(masked)

    def _pair_keys(self, resumes: Rows, jobs: Rows) -> NDArray[np.int64]:
        return resumes.astype(np.int64) * self.n_jobs + jobs
