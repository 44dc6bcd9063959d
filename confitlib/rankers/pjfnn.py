"""PJFNN: one convolutional network a side over sentences, compared by distance or by a small network."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confitlib.corpus import SIDES, Side
from confitlib.rankers.layers import Nearness, Standardise, TokenConvolution, start_near_identity
from confitlib.rankers.networks import Encoded, PairNetwork, masked_mean, present
from confitlib.rankers.neural import PairMatcher, PairTraining
from confitlib.rankers.pieces import PADDING, TokenVectors

Scoring = Literal["mlp", "distance"]


class SentenceCNN(nn.Module):
    """Sentences as vectors `[pieces, channels]`: convolution, ReLU, halving, convolution, maximum over time."""

    def __init__(self, tokens: TokenVectors, dim: int, channels: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.first = TokenConvolution(tokens, dim, channels, widths[0])
        self.second = nn.Conv1d(channels, channels, widths[1], padding=widths[1] // 2)
        start_near_identity(self.second.weight.data.movedim(2, 0))
        self.norm = nn.BatchNorm1d(channels, momentum=0.3)  # an epoch may be a dozen batches

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of non-empty sentences `[pieces, tokens]`."""
        hidden = self.first.bias.new_zeros((*ids.shape, self.first.channels))
        hidden[ids != PADDING] = self.first(ids).relu()
        hidden = F.max_pool1d(hidden.transpose(1, 2), 2, ceil_mode=True)
        return self.norm(self.second(hidden).amax(-1))


class OfProduct(nn.Module):
    """Logits from a small network on the product of two vectors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, resumes: Tensor, jobs: Tensor) -> Tensor:
        """Logits `[...]` of vectors `[..., dim]`."""
        return self.layers(resumes * jobs).squeeze(-1)


class PJFNNetwork(PairNetwork):
    """Vectors of both sides and their comparison."""

    def __init__(self, dim: int, channels: int, scoring: Scoring, train_tokens: bool) -> None:
        super().__init__()
        self.tokens = tokens = TokenVectors(dim, train_tokens)
        widths: dict[Side, tuple[int, int]] = {"resume": (5, 3), "job": (5, 5)}
        self.sentences = nn.ModuleDict({side: SentenceCNN(tokens, dim, channels, w) for side, w in widths.items()})
        self.standard = nn.ModuleDict({side: Standardise(channels) for side in SIDES})
        self.channels = channels
        self.compare = Nearness() if scoring == "distance" else OfProduct(channels)

    def encode(self, side: Side, inputs: Tensor) -> Encoded:
        """The strongest sentence counts of a resume, all sentences of a job: maximum and mean."""
        real = present(inputs)
        sentences = inputs.new_zeros((*real.shape, self.channels), dtype=torch.float32)
        sentences[real] = self.sentences[side](inputs[real])
        pooled = sentences.amax(1) if side == "resume" else masked_mean(sentences, real, 1)
        return (self.standard[side](pooled),)

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits of pairs."""
        return self.compare(resumes[0], jobs[0])


class PJFNN(PairMatcher):
    """PJFNN (Zhu et al. 2018, arXiv 1810.04040): sentence CNNs, maximum over a resume's sentences, mean over a job's.

    `scoring`: "distance" compares vectors by cosine, as the paper does with its distance (the scale is our
    choice); "mlp" by a network on their product, as RecBole-PJF and the MV-CoN code do. Those two make sentences
    the channels of a convolution that never mixes the dimensions of a word; here, as in the paper, filters run over
    the words of one sentence at a time. Public settings: dim 64, 20 sentences of 30 tokens (RecBole-PJF); dim 100,
    20 of 50, batch 32, rate 3e-4, decay 1e-5, patience 5 (MV-CoN code).
    """

    name = "PJFNN"

    def __init__(
        self, scoring: Scoring = "distance", dim: int = 64, channels: int = 64, config: PairTraining = PairTraining()
    ) -> None:
        self.scoring, self.dim, self.channels, self.config = scoring, dim, channels, config

    def build(self) -> PJFNNetwork:
        """Two sentence CNNs that share their token vectors."""
        return PJFNNetwork(self.dim, self.channels, self.scoring, self.config.train_tokens)
