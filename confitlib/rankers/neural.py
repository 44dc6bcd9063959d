"""Neural matchers: one training loop and one scorer for networks that judge a pair of documents."""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from confitlib.corpus import SIDES, Corpus, Side, Split
from confitlib.rankers.base import Ranker, Scores, trained_weights
from confitlib.rankers.networks import Encoded, PairNetwork, at
from confitlib.rankers.pairs import PairBatch, PairBatches, Rows
from confitlib.rankers.pieces import Pieces, Unit
from confitlib.util import check_range

WEIGHTS, HISTORY = "network.safetensors", "history.jsonl"
ENCODED_AT_ONCE = 256  # documents


@dataclass(frozen=True)
class PairTraining:
    """How a neural matcher is trained and what it reads; each matcher names its own defaults.

    `rejections`: learn from labelled rejections; `sampled`: negatives made for each accepted pair of a batch
    (`PairBatches`). `patience`: epochs without a better validation loss before training stops; the best epoch is kept.
    `max_pieces`, `max_tokens`: how much is read of a document (`Pieces`); `hyre`: read hypothetical resumes.
    `train_tokens`: train the table of token vectors too. `device`: CUDA if there is one, unless named.
    """

    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    max_grad_norm: float = 10.0
    patience: int = 2
    rejections: bool = True
    sampled: int = 4
    max_pieces: int = 24
    max_tokens: int = 32
    hyre: bool = True
    train_tokens: bool = False
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        check_range(self, "epochs", "batch_size", "max_pieces", "max_tokens", least=1)
        check_range(self, "learning_rate", "max_grad_norm", above=0)
        check_range(self, "weight_decay", "patience", "sampled", "seed")

    def rng(self, *key: int) -> np.random.Generator:
        """A generator of its own for every key, so that no draw depends on draws made before."""
        return np.random.default_rng((self.seed, *key))


class Inputs(Protocol):
    """Network inputs of every document of a side."""

    def take(self, rows: Rows) -> Any:
        """Inputs of the documents in these rows."""
        ...

    def __len__(self) -> int: ...


class PairMatcher(Ranker):
    """Base of neural matchers: subclasses say how to `build` the network, and may change `inputs` and `loss`.

    `history`: one row an epoch with `epoch, loss, valid_loss`. Scores are logits, the same for both targets.
    """

    unit: Unit = "lines"
    config: PairTraining
    network: PairNetwork
    history: pd.DataFrame

    @abstractmethod
    def build(self) -> PairNetwork:
        """A new network; called under the seed."""

    def inputs(self, corpus: Corpus, side: Side) -> Inputs:
        """What the network reads of every document of a side."""
        return self.pieces(corpus, side)

    def pieces(self, corpus: Corpus, side: Side) -> Pieces:
        """Token ids of every document of a side, cut into this matcher's pieces."""
        limits = {"max_pieces": self.config.max_pieces, "max_tokens": self.config.max_tokens}
        return Pieces(corpus, side, self.unit, hyre=self.config.hyre, **limits)

    def loss(self, batch: PairBatch, inputs: dict[Side, Inputs]) -> Tensor:
        """The training loss of one batch."""
        return self.network.loss(*self.encoded_pairs(batch, inputs), torch.from_numpy(batch.labels).to(self._device))

    def encoded_pairs(self, batch: PairBatch, inputs: dict[Side, Inputs]) -> tuple[Encoded, Encoded]:
        """Encoded resumes and jobs of the pairs of a batch, aligned; each document is encoded once."""
        encoded = {side: self._encode(side, inputs[side], batch.documents[side]) for side in SIDES}
        resumes, jobs = (at(encoded[side], torch.from_numpy(batch.pairs[side])) for side in SIDES)
        return resumes, jobs

    def batches(self, corpus: Corpus, split: Split) -> PairBatches:
        """The pairs of a split to learn from."""
        config = self.config
        return PairBatches(corpus, split, size=config.batch_size, rejections=config.rejections, sampled=config.sampled)

    def learn(self, corpus: Corpus) -> Self:
        """Train on the pairs of the training split and keep the epoch with the lowest validation loss."""
        training, validation = self.batches(corpus, "train"), self._validation(corpus)
        self._read = corpus, {side: self.inputs(corpus, side) for side in SIDES}
        with torch.random.fork_rng():  # initial weights and dropout come from the seed, and nobody else's draws change
            torch.manual_seed(self.config.seed)
            self.network = self.build().to(self._device)
            self._train(training, validation, self._read[1])
        self.network.eval()
        return self

    def trained(self) -> list[nn.Parameter]:
        """The parameters that training changes."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def _train(self, training: PairBatches, validation: PairBatches | None, inputs: dict[Side, Inputs]) -> None:
        config, rows, best, best_epoch = self.config, [], np.inf, 0
        optimizer = torch.optim.AdamW(self.trained(), lr=config.learning_rate, weight_decay=config.weight_decay)
        bar = tqdm(total=config.epochs * len(training), desc=f"{self.name}: train", unit="batch", delay=2)
        with bar:
            for epoch in range(config.epochs):
                loss = self._one_epoch(training.epoch(config.rng(epoch)), inputs, optimizer, bar)
                valid_loss = self._evaluate(validation, inputs)
                rows.append({"epoch": epoch + 1, "loss": loss, "valid_loss": valid_loss})
                if validation is None or epoch == 0 or valid_loss < best:  # a loss of NaN is no better than any
                    best, best_epoch = np.fmin(best, valid_loss), epoch
                    weights = copy.deepcopy(self.network.state_dict())
                elif epoch - best_epoch >= config.patience:
                    break
        self.network.load_state_dict(weights)
        self.history = pd.DataFrame(rows)

    def _one_epoch(
        self, batches: Iterator[PairBatch], inputs: dict[Side, Inputs], optimizer: torch.optim.Optimizer, bar: tqdm
    ) -> float:
        """One step a batch; returns the mean loss."""
        self.network.train()
        losses = []
        for batch in batches:
            optimizer.zero_grad()
            loss = self.loss(batch, inputs)
            loss.backward()
            nn.utils.clip_grad_norm_(self.trained(), self.config.max_grad_norm)
            optimizer.step()
            losses.append(loss.item())
            bar.update()
        return float(np.mean(losses))

    def _validation(self, corpus: Corpus) -> PairBatches | None:
        try:
            return self.batches(corpus, "valid")
        except ValueError as error:
            warnings.warn(f"the last epoch is kept, because {error}", stacklevel=4)
            return None

    def _evaluate(self, validation: PairBatches | None, inputs: dict[Side, Inputs]) -> float:
        """Mean loss over the validation pairs, with the same negatives at every call; NaN without any."""
        if validation is None:
            return float("nan")
        self.network.eval()
        with torch.inference_mode():
            losses = [self.loss(batch, inputs).item() for batch in validation.epoch(self.config.rng())]
        return float(np.mean(losses))

    def index(self, corpus: Corpus) -> Self:
        """Encode every document once."""
        self.corpus = corpus
        learnt_from, inputs = self.__dict__.pop("_read", (None, None))  # `fit` need not read the corpus twice
        with torch.inference_mode():
            self._encoded = {
                side: self._encode_all(side, inputs[side] if learnt_from is corpus else self.inputs(corpus, side))
                for side in SIDES
            }
        self._last: tuple[tuple[bytes, bytes], Scores] | None = None
        return self

    def _encode(self, side: Side, inputs: Inputs, rows: Rows) -> Encoded:
        taken = inputs.take(rows)
        on_device = (
            taken.to(self._device) if isinstance(taken, Tensor) else tuple(one.to(self._device) for one in taken)
        )
        return self.network.encode(side, on_device)

    def _encode_all(self, side: Side, inputs: Inputs) -> Encoded:
        starts = range(0, len(inputs), ENCODED_AT_ONCE)
        blocks = [np.arange(start, min(start + ENCODED_AT_ONCE, len(inputs))) for start in starts]
        bar = tqdm(blocks, desc=f"{self.name}: encode {side}s", unit="block", delay=2)
        parts = [self._encode(side, inputs, rows) for rows in bar]
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Logits of every pair; the last matrix is kept, for both targets ask for the same one."""
        resumes, jobs = self.corpus.positions("resume", resume_ids), self.corpus.positions("job", job_ids)
        key = (resumes.tobytes(), jobs.tobytes())
        if self._last is None or self._last[0] != key:
            self._last = (key, self._grid(resumes, jobs))
        return self._last[1].copy()

    def _grid(self, resumes: Rows, jobs: Rows) -> Scores:
        """Scores of all pairs, block by block."""
        scores = np.empty((len(resumes), len(jobs)), dtype=np.float32)
        side = max(1, int(self.network.grid_pairs**0.5))
        corners = [(top, left) for top in range(0, len(resumes), side) for left in range(0, len(jobs), side)]
        with torch.inference_mode():
            for top, left in tqdm(corners, desc=f"{self.name}: score", unit="block", delay=2):
                block = np.s_[top : top + side], np.s_[left : left + side]
                people = [one.unsqueeze(1) for one in at(self._encoded["resume"], torch.from_numpy(resumes[block[0]]))]
                posts = [one.unsqueeze(0) for one in at(self._encoded["job"], torch.from_numpy(jobs[block[1]]))]
                scores[block] = self.network(tuple(people), tuple(posts)).cpu().numpy()
        return scores

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """Logits of the given pairs."""
        resumes = torch.from_numpy(self.corpus.positions("resume", resume_ids))
        jobs = torch.from_numpy(self.corpus.positions("job", job_ids))
        step = max(1, self.network.grid_pairs // 16)  # nothing is shared among aligned pairs, so they take more memory
        parts = [np.empty(0, dtype=np.float32)]
        with torch.inference_mode():
            for some, others in zip(resumes.split(step), jobs.split(step), strict=True):
                logits = self.network(at(self._encoded["resume"], some), at(self._encoded["job"], others))
                parts.append(logits.cpu().numpy())
        return np.concatenate(parts)

    @property
    def n_parameters(self) -> int:
        """The trained weights of the network."""
        return trained_weights(self.network)

    @property
    def _device(self) -> torch.device:
        return torch.device(self.config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
