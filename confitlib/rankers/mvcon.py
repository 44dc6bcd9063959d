"""MV-CoN: a text view and a relation view that teach each other which labels to trust."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from confitlib.corpus import SIDES, Corpus, Side, other
from confitlib.mining import Embeddings
from confitlib.rankers.layers import Nearness, Standardise
from confitlib.rankers.networks import Encoded, PairNetwork
from confitlib.rankers.neural import PairMatcher, PairTraining
from confitlib.rankers.pairs import Rows
from confitlib.rankers.pieces import Pieces, static_encoder
from confitlib.rankers.pjfnn import PJFNNetwork, Scoring

View = Literal["both", "text", "relation"]
RELATIONS = 3  # itself, its neighbours, the documents that accepted those


def trust(labels: Tensor, other_logits: Tensor, strength: float) -> Tensor:
    """Weights `1 + strength (y - 1) loss_other`, at least 0: a negative that the other view doubts counts less.

    The released code multiplies the label by this weight instead of the loss; it is 1 where the label is 1 and its
    product with a label of 0 is 0, so there nothing is re-weighted (co_teaching_train.py).
    """
    doubt = F.binary_cross_entropy_with_logits(other_logits.detach(), labels, reduction="none")
    return (1 + strength * (labels - 1) * doubt).clamp(min=0)


def co_teaching_loss(text: Tensor, relation: Tensor, labels: Tensor, strength: float) -> Tensor:
    """Both views' cross-entropy, each weighted by what the other view thinks of the label."""
    own = (F.binary_cross_entropy_with_logits(view, labels, reduction="none") for view in (text, relation))
    weights = (trust(labels, view, strength) for view in (relation, text))
    return sum(((w * loss).mean() for w, loss in zip(weights, own, strict=True)), start=torch.zeros(()))


class Relations:
    """Text and neighbourhood of every document of a side.

    `vectors` `[documents, 3, 384]`: of the document itself (the mean of its token vectors, length one), the mean over
    the `neighbours` training documents of its side with the highest cosine, and the mean over all documents of
    the other side that accepted these. Messages pass from text alone, so a document without any label has them too; a
    document is no neighbour of itself, so its own labels do not show.
    """

    def __init__(self, corpus: Corpus, side: Side, text: Pieces, neighbours: int, hyre: bool) -> None:
        embeddings = Embeddings.of_corpus(static_encoder(), corpus, hyre=hyre)
        near = _neighbourhood(corpus, side, embeddings.of(side), neighbours)
        accepted = corpus.known_positives("train", lists=False).astype(np.float32)
        partners = _averaged(near @ (accepted if side == "resume" else accepted.T))
        own, opposite = embeddings.of(side), embeddings.of(other(side))
        self.text, self.vectors = text, np.stack([own, _averaged(near) @ own, partners @ opposite], axis=1)

    def take(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Token ids and relation vectors."""
        return self.text.take(rows), torch.from_numpy(self.vectors[rows])

    def __len__(self) -> int:
        return len(self.text)


def _neighbourhood(corpus: Corpus, side: Side, vectors: NDArray[np.float32], neighbours: int) -> csr_array:
    """The nearest training documents of every document but itself, `[documents, documents]` of ones."""
    pool = corpus.positions(side, corpus.pool(side, "train"))
    taken = min(neighbours, len(pool) - 1)
    cosine = vectors @ vectors[pool].T
    cosine[pool, np.arange(len(pool))] = -np.inf
    nearest = pool[np.argpartition(-cosine, taken - 1, axis=1)[:, :taken]]
    rows = np.repeat(np.arange(len(vectors)), taken)
    return csr_array((np.ones(rows.size, dtype=np.float32), (rows, nearest.ravel())), shape=(len(vectors),) * 2)


def _averaged(edges: csr_array) -> csr_array:
    """Rows that sum to one; empty rows stay empty."""
    totals = np.asarray(edges.sum(axis=1)).ravel()
    return csr_array(edges.multiply(1 / np.maximum(totals, 1e-12)[:, None]).astype(np.float32))


class MVCoNNetwork(PairNetwork):
    """PJFNN on the text beside a graph convolution on the relations."""

    def __init__(self, dim: int, scoring: Scoring, strength: float, view: View, train_tokens: bool) -> None:
        super().__init__()
        self.text = PJFNNetwork(dim, dim, scoring, train_tokens)
        self.strength, self.view = strength, view
        size = static_encoder().dim
        self.relations = nn.ModuleDict({side: nn.Linear(RELATIONS * size, dim) for side in SIDES})
        for weights in self.relations.parameters():
            if weights.ndim == 2:
                weights.data[:, :size] = self.text.tokens.map.weight.data
        self.standard = nn.ModuleDict({side: Standardise(dim) for side in SIDES})
        self.nearness = Nearness()

    def encode(self, side: Side, inputs: tuple[Tensor, Tensor]) -> Encoded:
        """The vectors of both views."""
        ids, relations = inputs
        vectors = torch.tanh(self.relations[side](relations.flatten(1)))
        return *self.text.encode(side, ids), self.standard[side](vectors)

    def views(self, resumes: Encoded, jobs: Encoded) -> tuple[Tensor, Tensor]:
        """Logits of the text view and of the relation view."""
        return self.text(resumes[:1], jobs[:1]), self.nearness(resumes[1], jobs[1])

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """The mean of both views' logits, or one of them."""
        text, relation = self.views(resumes, jobs)
        return {"both": (text + relation) / 2, "text": text, "relation": relation}[self.view]

    def loss(self, resumes: Encoded, jobs: Encoded, labels: Tensor) -> Tensor:
        """Co-teaching of the two views."""
        return co_teaching_loss(*self.views(resumes, jobs), labels, self.strength)


class MVCoN(PairMatcher):
    """MV-CoN (Bian et al. 2020, arXiv 2009.13299): text view, relation view, and co-teaching that re-weights.

    The text view is PJFNN. The relation view is one graph convolution, one matrix a relation, over fixed text vectors
    (`Relations`); which relations connect documents is our choice, made so that unseen documents have them.
    `strength`: how much the other view's doubt takes from a negative (released: 0.2). `view`: which logits rank.
    The released code trains two PJFNNs on the halves of a batch, without relations, and ranks with the second; dim 100,
    batch 32, rate 3e-4.
    """

    name = "MV-CoN"

    def __init__(
        self,
        dim: int = 64,
        scoring: Scoring = "distance",
        strength: float = 0.2,
        neighbours: int = 10,
        view: View = "both",
        config: PairTraining = PairTraining(),
    ) -> None:
        self.dim, self.scoring, self.strength, self.neighbours, self.view = dim, scoring, strength, neighbours, view
        self.config = config

    def build(self) -> MVCoNNetwork:
        """Two views."""
        return MVCoNNetwork(self.dim, self.scoring, self.strength, self.view, self.config.train_tokens)

    def inputs(self, corpus: Corpus, side: Side) -> Relations:
        """Lines and relations."""
        return Relations(corpus, side, self.pieces(corpus, side), self.neighbours, self.config.hyre)
