"""Layers that several matchers share: reading with LSTMs, convolution and attention, and comparing two vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confitlib.corpus import SIDES, Side
from confitlib.rankers.networks import masked_softmax
from confitlib.rankers.pieces import PADDING, TokenVectors


class Standardise(nn.Module):
    """Centres and scales each dimension of vectors `[..., dim]` by running moments, in training as afterwards.

    Batch norm would use the moments of the batch, which holds few jobs. No gradient flows through the moments.
    """

    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, dim: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, vectors: Tensor) -> Tensor:
        """The standardised vectors."""
        if self.training:
            self._update(vectors.detach().flatten(0, -2))
        return (vectors - self.mean) * (self.variance + 1e-5).rsqrt()

    def _update(self, vectors: Tensor) -> None:
        self.seen += 1
        step = max(self.momentum, 1 / float(self.seen))  # a plain average of the first batches
        self.mean.lerp_(vectors.mean(0), step)
        self.variance.lerp_(vectors.var(0, correction=0), step)


class BiLSTM(nn.Module):
    """Standardised states `[n, time, 2 * hidden]` of `[n, time, dim]`; padding, marked False at the end, is not read.

    Two LSTMs, the second on reversed sequences: without packing, which is several times slower on a CPU.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.ahead, self.back = (nn.LSTM(dim, hidden, batch_first=True) for _ in range(2))
        self.standard = Standardise(2 * hidden)

    def forward(self, vectors: Tensor, real: Tensor) -> Tensor:
        """States; zeros at padding."""
        time = torch.arange(vectors.shape[1], device=vectors.device)
        mirrored = torch.where(real, real.sum(1, keepdim=True) - 1 - time, time).unsqueeze(-1)
        back, _ = self.back(vectors.gather(1, mirrored.expand_as(vectors)))
        ahead, _ = self.ahead(vectors)
        both = torch.cat([ahead, back.gather(1, mirrored.expand_as(back))], -1)
        states = torch.zeros_like(both)
        states[real] = self.standard(both[real])
        return states


class Attention(nn.Module):
    """Weighted sum over time with weights softmax(v tanh(W x + context)); nothing is summed over padding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer, self.weigh = nn.Linear(dim, dim), nn.Linear(dim, 1, bias=False)

    def forward(self, states: Tensor, real: Tensor, context: Tensor | float = 0.0) -> Tensor:
        """`[..., time, dim]` to `[..., dim]`."""
        weights = masked_softmax(self.weigh(torch.tanh(self.layer(states) + context)).squeeze(-1), real)
        return (weights.unsqueeze(-2) @ states).squeeze(-2)


class TokenConvolution(nn.Module):
    """A convolution over tokens, exact and cheap: it is linear in each token, so a token's part is computed once.

    Ids `[pieces, tokens]` give `[real tokens, channels]`, row by row without the padding; beyond its ends a piece
    counts as zeros. `width` is odd. Starts near the identity, so that words count as themselves from the beginning.
    """

    def __init__(self, tokens: TokenVectors, dim: int, channels: int, width: int) -> None:
        super().__init__()
        self.tokens, self.width, self.channels = tokens, width, channels
        self.filters = nn.Linear(dim, width * channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels))
        start_near_identity(self.filters.weight.data.view(width, channels, dim))

    def forward(self, ids: Tensor) -> Tensor:
        """The values of all filters at all real tokens."""
        vectors, places = self.tokens.lookup(ids)
        parts = self.filters(vectors).view(-1, self.channels)  # row: token and its place in the window
        half = self.width // 2
        windows = F.pad(places, (half, half)).unfold(1, self.width, 1)[ids != PADDING]  # place 0 is the padding's
        rows = windows * self.width + torch.arange(self.width, device=ids.device)
        return F.embedding_bag(rows, parts, mode="sum") + self.bias


def start_near_identity(taps: Tensor) -> None:
    """Fill filters `[width, channels, dim]`: the middle tap copies dimensions, all others start small and random."""
    width, channels, dim = taps.shape
    nn.init.normal_(taps, std=0.3 * (width * dim) ** -0.5)
    taps[width // 2] += torch.eye(channels, dim)


class Compare(nn.Module):
    """Logits of pairs from `[j; r; j - r]` through one tanh layer.

    That layer is linear in both vectors, `(W1 + W3) j + (W2 - W3) r`, so its two parts are computed once a document.
    It starts as a measure of nearness, units in pairs tanh(1 + u) + tanh(1 - u) of the difference alone: a network of
    random weights needs many times the pairs to find out that likeness matters.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.standard = nn.ModuleDict({side: Standardise(dim) for side in SIDES})
        self.layer, self.drop, self.out = nn.Linear(3 * dim, 2 * dim), nn.Dropout(dropout), nn.Linear(2 * dim, 1)
        with torch.no_grad():
            self.layer.weight *= 0.1
            self.layer.weight[:, 2 * dim :] = 0.5 * torch.cat([torch.eye(dim), -torch.eye(dim)])
            self.layer.bias.fill_(1.0)
            self.out.weight.fill_(4 / dim)
            self.out.bias.fill_(-6.0)

    def part(self, side: Side, vectors: Tensor) -> Tensor:
        """A document's part of the hidden layer, `[..., 2 * dim]`."""
        vectors = self.standard[side](vectors)
        job, resume, difference = self.layer.weight.chunk(3, dim=1)
        if side == "job":
            return vectors @ (job + difference).T + self.layer.bias
        return vectors @ (resume - difference).T

    def forward(self, resumes: Tensor, jobs: Tensor) -> Tensor:
        """Logits `[...]` of two parts."""
        return self.out(self.drop(torch.tanh(resumes + jobs))).squeeze(-1)


class Nearness(nn.Module):
    """Logits from the cosine of two vectors, scaled and shifted by two trained numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, resumes: Tensor, jobs: Tensor) -> Tensor:
        """Logits `[...]` of vectors `[..., dim]`."""
        return self.log_scale.exp() * F.cosine_similarity(resumes, jobs, dim=-1) + self.shift
