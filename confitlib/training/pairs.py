"""Batches of positive pairs: seeded hard negatives, documents prepared once, masks of known positives."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from confitlib.corpus import SIDES, Corpus, Side, Split, known_positive_mask, other
from confitlib.encoder import TextEncoder
from confitlib.encoder.model import length_sorted_batches
from confitlib.encoder.vectors import Activations, Vectors
from confitlib.mining import Negatives

Rows = NDArray[np.intp]
Mined = Mapping[Side, Negatives]  # hard negatives by their own side
NO_ROWS: Rows = np.empty(0, dtype=np.intp)
FILLER = -1  # stands for no pair, where the last batches of several processes have too few


class PositivePairs(torch.utils.data.Dataset):
    """The positive pairs of a split, each with hard negatives drawn by (seed, epoch, pair).

    Documents are row numbers of the corpus frames. A draw does not depend on earlier ones, so an interrupted run
    continues with the same negatives.
    """

    def __init__(
        self, corpus: Corpus, split: Split, negatives: Mined | None = None, per_pair: int = 1, seed: int = 0
    ) -> None:
        labels = corpus.labelled(split, 1)
        if labels.empty:
            raise ValueError(f"corpus {corpus.name!r} has no accepted pair in split {split!r}: nothing to learn from")
        self.rows = {side: corpus.positions(side, labels[f"{side}_id"]) for side in SIDES}
        self.corpus, self.per_pair, self.seed, self.epoch = corpus, per_pair, seed, 0
        self.use(negatives or {})

    def use(self, negatives: Mined) -> None:
        """Draw from these hard negatives from now on; raises ValueError for those of the other side."""
        self.negatives: dict[Side, dict[int, Rows]] = {"resume": {}, "job": {}}  # of a side, by the row of the query
        for side, mined in negatives.items():
            if mined.target != side:
                raise ValueError(f"negatives for {side}s hold {mined.target}s: pass them under {mined.target!r}")
            asked = self.corpus.documents(other(side)).index[np.unique(self.rows[other(side)])]
            if unmined := len(asked.difference(mined.queries.index)):
                message = f"negatives of {side}s: {unmined} of {len(asked)} queries in training pairs were not mined"
                warnings.warn(message, stacklevel=2)
            rows = self.corpus.positions(side, mined.table["negative_id"])
            queries = self.corpus.positions(other(side), mined.table["query_id"])
            by_query: Any = pd.Series(rows).groupby(queries).indices
            self.negatives[side] = {query: rows[places] for query, places in by_query.items()}

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


class PairSampler(torch.utils.data.Sampler[int]):
    """Every pair once an epoch, in an order drawn by (seed, epoch), then `FILLER` up to an equal share a process.

    `batch_size`: pairs of a batch of all processes; `processes`: how many of them share it. With `lengths` (tokens of
    a pair) neighbours are of similar length, so that batches carry little padding: windows of 50 batches are sorted
    and cut into batches, whose order is drawn as well. Pairs of an incomplete batch come last.
    """

    def __init__(self, pairs: PositivePairs, batch_size: int, processes: int = 1, lengths: Rows | None = None) -> None:
        self.pairs, self.batch_size, self.lengths = pairs, batch_size, lengths
        self.filler = filler(len(pairs), batch_size, processes)

    def __len__(self) -> int:
        return len(self.pairs) + len(self.filler)

    def __iter__(self) -> Iterator[int]:
        n, seed, epoch = len(self.pairs), self.pairs.seed, self.pairs.epoch
        if self.lengths is None:
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + epoch)).numpy()
        else:
            rng = np.random.default_rng((seed, epoch))
            drawn, whole = rng.permutation(n), n - n % self.batch_size
            windows = np.arange(whole) // (50 * self.batch_size)
            batches = drawn[np.lexsort((self.lengths[drawn[:whole]], windows))].reshape(-1, self.batch_size)
            order = np.concatenate([rng.permutation(batches).ravel(), drawn[whole:]])
        yield from [*order.tolist(), *self.filler]


def filler(n: int, batch_size: int, processes: int) -> list[int]:
    """What follows `n` pairs, so that several processes have equal shares of the last batch of `batch_size`."""
    return [FILLER] * (-n % batch_size if processes > 1 else 0)


class DocumentStore:
    """Model inputs of every document of a side, prepared once: token ids, or in adapter mode their `frozen` vectors.

    `activations`: of the layers below the trained ones, beside the token ids, so that these need no computing.
    `chunk`: the most documents of a part that the model embeds at a time.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        documents: Sequence[str],
        frozen: Vectors | None = None,
        activations: Sequence[Activations] | Mapping[int, Activations] | None = None,
        chunk: int | None = None,
    ) -> None:
        self.encoder, self.activations, self.chunk = encoder, activations, chunk
        self.vectors = None if frozen is None else torch.from_numpy(frozen)
        self.tokens = encoder.tokenize(documents) if frozen is None else []
        self.lengths = np.array([len(ids) for ids in self.tokens] or [1] * len(documents), dtype=np.intp)

    def features(self, rows: Rows) -> dict[str, Any]:
        """`parts`: encoder inputs of some documents of similar length each; `places`: where each row went.

        A part holds no more tokens than suit the device either: a CPU trains 1.4 times as fast on these as on a batch
        that is padded to its longest document.
        """
        parts = [*length_sorted_batches(self.lengths[rows], self.chunk or len(rows), self.encoder.tokens_at_once)]
        places = torch.from_numpy(np.concatenate(parts).argsort())
        if self.vectors is not None:
            inputs = [{"vectors": self.vectors[torch.from_numpy(rows[part])]} for part in parts]
        else:
            inputs = [self.encoder.collate([self.tokens[row] for row in rows[part]]) for part in parts]
        if self.activations is not None:
            for part, features in zip(parts, inputs, strict=True):
                below = [torch.from_numpy(self.activations[row].astype(np.float32)) for row in rows[part]]
                features["activations"] = pad_sequence(below, batch_first=True)  # [documents, longest, dim]
        return {"parts": inputs, "places": places}


class PairCollator:
    """Turns positive pairs into one batch: both sides' documents, positives first, their rows and the masks.

    `stores`: for each side an object whose `features(rows)` gives the model's inputs, such as a `DocumentStore`.
    A candidate is masked for an anchor when mining would never pick it as a negative: known positives, their
    augmented copies and documents of the same text. The anchor's own positive is never masked.
    """

    def __init__(self, stores: Mapping[Side, Any], corpus: Corpus, negatives_per_batch: int | None) -> None:
        self.stores, self.cap, self.n_jobs = stores, negatives_per_batch, len(corpus.jobs)
        resumes, jobs = known_positive_mask(corpus, "job").tocoo().coords
        self.positives = np.sort(resumes.astype(np.int64) * self.n_jobs + jobs)

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
        masks = {}
        pairings = {"masked_jobs": (resumes[:pairs, None], jobs), "masked_resumes": (resumes, jobs[:pairs, None])}
        for name, (of_resumes, of_jobs) in pairings.items():
            keys = of_resumes * self.n_jobs + of_jobs
            places = np.searchsorted(self.positives, keys).clip(max=len(self.positives) - 1)
            masked = self.positives[places] == keys
            np.fill_diagonal(masked, False)
            masks[name] = torch.from_numpy(masked)
        return masks
