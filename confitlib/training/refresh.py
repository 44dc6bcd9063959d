"""Negatives that follow the encoder: mined again every few epochs with the weights it has by then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import TextEncoder
from confitlib.mining import Embeddings, Negatives, check_mining, mine
from confitlib.training.batches import PositivePairs


@dataclass(frozen=True)
class Refresh:
    """Mine both sides again before the epochs `every, 2 x every, …` of a run, counted from 0.

    `strategy` and `parameters` are those of `mine`. Until the first refresh a run has the negatives it was given.
    Source: ANCE (Xiong et al. 2020, arXiv 2007.00808); its released code keeps 20 of the top 200 a query, and
    refreshes every 10,000 steps, where we count epochs.
    """

    strategy: str = "ance"
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"n": 20})
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1 epoch")
        check_mining(self.strategy, **self.parameters)

    def mine(self, encoder: TextEncoder, corpus: Corpus, seed: int, epoch: int) -> dict[Side, Negatives]:
        """Negatives of both sides by the encoder as it is; every epoch has draws of its own."""
        drawn = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
        ask = {"embeddings": Embeddings.of_corpus(encoder, corpus), "seed": drawn, **self.parameters}
        return {side: mine(self.strategy, corpus, target=side, **ask) for side in SIDES}


class RefreshCallback(TrainerCallback):
    """Exchanges the negatives of a running training at the start of an epoch.

    What was mined is kept in the run's folder: a resumed run has other weights than those it was mined with. Of
    several processes the first one mines and the others read.
    """

    def __init__(
        self, refresh: Refresh, encoder: TextEncoder, corpus: Corpus, pairs: PositivePairs, folder: Path, seed: int
    ) -> None:
        self.refresh, self.encoder, self.corpus, self.pairs = refresh, encoder, corpus, pairs
        self.folder, self.seed, self.current = folder, seed, 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mine when it is due; after a resume in between, read what was mined last."""
        epoch = int(state.epoch or 0)
        due = epoch - epoch % self.refresh.every
        if due != self.current:
            with args.main_process_first():
                mines = epoch == due and args.process_index == 0
                self.pairs.use(self._mined(epoch) if mines else self._kept(due))
            self.current = due

    def _mined(self, epoch: int) -> dict[Side, Negatives]:
        negatives = self.refresh.mine(self.encoder, self.corpus, self.seed, epoch)
        for side in SIDES:
            negatives[side].save(self._place(epoch, side))
        return negatives

    def _kept(self, epoch: int) -> dict[Side, Negatives]:
        return {side: Negatives.load(self._place(epoch, side)) for side in SIDES}

    def _place(self, epoch: int, side: Side) -> Path:
        return self.folder / f"negatives-{epoch}" / side
