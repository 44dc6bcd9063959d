"""Networks that judge a pair of documents in two steps, and the masks they share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confitlib.corpus import Side
from confitlib.rankers.pieces import PADDING

Encoded = tuple[Tensor, ...]  # what a network knows of documents: tensors whose first dimension is theirs


class PairNetwork(nn.Module):
    """A network in two steps: `encode` reads a document once, `forward` judges pairs of encoded documents."""

    grid_pairs = 65_536  # pairs that are judged at a time

    @abstractmethod
    def encode(self, side: Side, inputs: Any) -> Encoded:
        """Tensors `[documents, …]` of the documents of one side."""

    @abstractmethod
    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits `[...]` of pairs; the tensors' leading dimensions `[...]` are equal or broadcast."""

    def loss(self, resumes: Encoded, jobs: Encoded, labels: Tensor) -> Tensor:
        """Binary cross-entropy of aligned pairs `[n]`."""
        return F.binary_cross_entropy_with_logits(self(resumes, jobs), labels)


def at(encoded: Encoded, rows: Tensor) -> Encoded:
    """The encoded documents in these rows."""
    return tuple(tensor[rows.to(tensor.device)] for tensor in encoded)


def present(ids: Tensor) -> Tensor:
    """Which pieces hold a token, `[documents, pieces]`."""
    return (ids != PADDING).any(-1)


def masked_mean(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Mean over the marked entries of a dimension; zeros where none is marked. `mask` lacks the last dimension."""
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum(dim) / weights.sum(dim).clamp(min=1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the marked entries of the last dimension; zeros where none is marked."""
    least = torch.finfo(scores.dtype).min  # unlike -inf, it leaves no NaN where nothing is marked
    return scores.masked_fill(~mask, least).softmax(-1) * mask.any(-1, keepdim=True)
