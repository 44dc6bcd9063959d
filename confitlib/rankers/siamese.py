"""Siamese network: one convolutional network for both sides, trained by distance with a margin."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from confitlib.corpus import Side
from confitlib.rankers.layers import Standardise, TokenConvolution, start_near_identity
from confitlib.rankers.networks import Encoded, PairNetwork, masked_mean
from confitlib.rankers.neural import PairMatcher, PairTraining
from confitlib.rankers.pieces import PADDING, TokenVectors


def contrastive_margin(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean of `y d² + (1 - y) max(0, margin - d)²`: matches are drawn together, others pushed a margin apart."""
    return (labels * distances**2 + (1 - labels) * (margin - distances).clamp(min=0) ** 2).mean()


class SiameseNetwork(PairNetwork):
    """Blocks of convolution, pooling and leaky ReLU over the words of a document, a mean, and a linear layer."""

    def __init__(self, dim: int, depth: int, width: int, pool: int, margin: float, train_tokens: bool) -> None:
        super().__init__()
        self.margin, self.pool = margin, pool
        self.first = TokenConvolution(TokenVectors(dim, train_tokens), dim, dim, width)
        blocks = [nn.Conv1d(dim, dim, width, padding="same") for _ in range(depth - 1)]
        for block in blocks:
            start_near_identity(block.weight.data.movedim(2, 0))
        self.later = nn.ModuleList(blocks)
        self.standard, self.top = Standardise(dim), nn.Linear(dim, dim)
        nn.init.eye_(self.top.weight)

    def encode(self, side: Side, inputs: Tensor) -> Encoded:
        """Unit vectors `[documents, dim]`, by the same network for both sides."""
        ids = inputs.flatten(1)
        real = ids != PADDING
        hidden = self.top.weight.new_zeros((*ids.shape, self.first.channels))
        hidden[real] = self.first(ids)
        hidden, alive = self._pool(hidden.transpose(1, 2)), self._pool(real.unsqueeze(1).float())
        for block in self.later:
            hidden, alive = self._pool(block(hidden)), self._pool(alive)
        vectors = masked_mean(F.leaky_relu(hidden).transpose(1, 2), alive.squeeze(1), 1)
        return (F.normalize(self.top(self.standard(vectors)), dim=-1),)

    def _pool(self, hidden: Tensor) -> Tensor:
        return F.leaky_relu(F.max_pool1d(hidden, self.pool, ceil_mode=True))

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Minus the Euclidean distance of the two vectors."""
        squared = 2 - 2 * (resumes[0] * jobs[0]).sum(-1)
        return -squared.clamp(min=1e-6).sqrt()

    def loss(self, resumes: Encoded, jobs: Encoded, labels: Tensor) -> Tensor:
        """The contrastive loss with a margin."""
        return contrastive_margin(-self(resumes, jobs), labels, self.margin)


class Siamese(PairMatcher):
    """Deep Siamese network (Maheshwary and Misra 2018): twin CNNs with shared weights, contrastive loss on distance.

    Token vectors take the place of the paper's Doc2Vec inputs, vectors have length one, and the margin, which no
    source states, is 1 (our choices). `depth`: blocks of convolution (`width`), maximum over `pool` words and leaky
    ReLU. Published settings: depth 4, width 10, pooling 100, vectors of 256, batch 128, Adam with rate 0.01.
    """

    name, unit = "Siamese", "document"

    def __init__(
        self,
        dim: int = 64,
        depth: int = 2,
        width: int = 5,
        pool: int = 4,
        margin: float = 1.0,
        config: PairTraining = PairTraining(max_pieces=1, max_tokens=320),
    ) -> None:
        self.dim, self.depth, self.width, self.pool, self.margin = dim, depth, width, pool, margin
        self.config = config

    def build(self) -> SiameseNetwork:
        """One convolutional network for both sides."""
        return SiameseNetwork(self.dim, self.depth, self.width, self.pool, self.margin, self.config.train_tokens)
