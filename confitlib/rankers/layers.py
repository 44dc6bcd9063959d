"""Layers of several matchers: token vectors, convolution, LSTM, attention, and the comparison of two vectors.

They start as plain measures of likeness: with a few thousand pairs, a network of random weights would spend them all
on finding out that likeness matters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confitlib.corpus import SIDES
from confitlib.rankers.pair_training import PADDING, token_table


def masked_mean(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Mean over the marked entries of a dimension; zeros where none is marked. `mask` lacks the last dimension."""
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum(dim) / weights.sum(dim).clamp(min=1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the marked entries of the last dimension; zeros where none is marked."""
    least = torch.finfo(scores.dtype).min  # unlike -inf, it leaves no NaN where nothing is marked
    return scores.masked_fill(~mask, least).softmax(-1) * mask.any(-1, keepdim=True)


def by_line(read: Callable[[Tensor], Tensor], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Apply `read` to the lines that hold a token; ids `[documents, lines, tokens]` give `[documents, lines, …]`.

    Returns zeros for the other lines, and which lines hold a token.
    """
    real = (ids != PADDING).any(-1)
    lines = read(ids[real])
    vectors = lines.new_zeros((*real.shape, *lines.shape[1:]))
    vectors[real] = lines
    return vectors, real


class TokenVectors(nn.Module):
    """Vectors of token ids: those of the offline MiniLM, mapped linearly to `dim`; padding gives zeros.

    The map starts as the principal axes of the table (`dim` at most 384), scaled to a mean square of one, and is
    trained, which moves words that training never met along with the others.
    """

    table: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("table", token_table(), persistent=False)
        self.map = nn.Linear(self.table.shape[1], dim, bias=False)
        variances, axes = torch.linalg.eigh(self.table.T @ self.table / len(self.table))  # ascending
        self.map.weight.data.copy_(axes[:, -dim:].T / variances[-dim:].mean().sqrt())

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors `[..., dim]` of ids of any shape; a token is mapped once, however often it occurs."""
        distinct, places = ids.unique(return_inverse=True)
        vectors = self.map(self.table[distinct]) * (distinct != PADDING).unsqueeze(1)
        return F.embedding(places, vectors)


class RunningNorm(nn.Module):
    """Centres and scales each dimension of vectors `[..., dim]` by running moments, in training as afterwards.

    Batch norm would use the moments of the batch, which holds few jobs. No gradient flows through the moments.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, dim: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, vectors: Tensor) -> Tensor:
        """The normalised vectors."""
        if self.training:
            self.batches += 1
            step = max(self.momentum, 1 / float(self.batches))  # a plain average of the first batches
            flat = vectors.detach().flatten(0, -2)
            self.mean.lerp_(flat.mean(0), step)
            self.variance.lerp_(flat.var(0, correction=0), step)
        return (vectors - self.mean) * (self.variance + 1e-5).rsqrt()


def convolution(dim: int, channels: int, width: int) -> nn.Conv1d:
    """A convolution over words that starts near the identity, so that words count as themselves from the beginning."""
    layer = nn.Conv1d(dim, channels, width, padding="same")
    with torch.no_grad():
        layer.weight.normal_(std=0.3 * (width * dim) ** -0.5)
        layer.weight[:, :, width // 2] += torch.eye(channels, dim)
    return layer


class BiLSTM(nn.Module):
    """Normalised states `[n, time, 2 * hidden]` of `[n, time, dim]`; padding, marked False at the end, is not read.

    Two LSTMs, the second on mirrored sequences: on a CPU the gradient of a packed sequence takes nine times as long.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.ahead, self.back = (nn.LSTM(dim, hidden, batch_first=True) for _ in range(2))
        self.norm = RunningNorm(2 * hidden)

    def forward(self, vectors: Tensor, real: Tensor) -> Tensor:
        """States; zeros at padding."""
        # 1. where each step is in the mirrored sequence: the real ones turned round, padding where it was
        time = torch.arange(vectors.shape[1], device=vectors.device)
        mirrored = torch.where(real, real.sum(1, keepdim=True) - 1 - time, time).unsqueeze(-1)
        # 2. both directions, the second turned back
        ahead, _ = self.ahead(vectors)
        back, _ = self.back(vectors.gather(1, mirrored.expand_as(vectors)))
        both = torch.cat([ahead, back.gather(1, mirrored.expand_as(back))], -1)
        # 3. normalised by the moments of real steps
        states = torch.zeros_like(both)
        states[real] = self.norm(both[real])
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


class PairMLP(nn.Module):
    """Logits of pairs from `[j; r; j - r]` through one tanh layer.

    It starts as a measure of nearness, units in pairs tanh(1 + u) + tanh(1 - u) of the difference alone.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.ModuleDict({side: RunningNorm(dim) for side in SIDES})
        self.layer, self.drop, self.out = nn.Linear(3 * dim, 2 * dim), nn.Dropout(dropout), nn.Linear(2 * dim, 1)
        with torch.no_grad():
            self.layer.weight *= 0.1
            self.layer.weight[:, 2 * dim :] = 0.5 * torch.cat([torch.eye(dim), -torch.eye(dim)])
            self.layer.bias.fill_(1.0)
            self.out.weight.fill_(4 / dim)
            self.out.bias.fill_(-6.0)

    def forward(self, resumes: Tensor, jobs: Tensor) -> Tensor:
        """Logits `[n]` of vectors `[n, dim]`."""
        resumes, jobs = self.norm["resume"](resumes), self.norm["job"](jobs)
        hidden = torch.tanh(self.layer(torch.cat([jobs, resumes, jobs - resumes], -1)))
        return self.out(self.drop(hidden)).squeeze(-1)


class ScaledCosine(nn.Module):
    """Logits from the cosine of two vectors, scaled and shifted by two trained numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, resumes: Tensor, jobs: Tensor) -> Tensor:
        """Logits `[n]` of vectors `[n, dim]`."""
        return self.log_scale.exp() * F.cosine_similarity(resumes, jobs, dim=-1) + self.shift
