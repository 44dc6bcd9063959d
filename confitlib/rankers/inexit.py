"""InEXIT: fields interact within a document, then across the two documents of a pair."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.rankers.layers import Compare, Standardise
from confitlib.rankers.networks import Encoded, PairNetwork, masked_mean, present
from confitlib.rankers.neural import PairMatcher, PairTraining
from confitlib.rankers.pairs import Rows
from confitlib.rankers.pieces import PADDING, Pieces, TokenVectors, token_ids


class Fields:
    """Values of all fields of a side, their names and the name of the side, as token ids."""

    def __init__(self, values: Pieces, side: Side) -> None:
        self.values = values
        self.names = torch.from_numpy(token_ids([name.replace("_", " ") for name in values.names]))
        self.source = torch.from_numpy(token_ids([side]))

    def take(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Values `[len(rows), fields, tokens]`; names and source are the same for all documents of the side."""
        return self.values.take(rows), self.names, self.source

    def __len__(self) -> int:
        return len(self.values)


class InEXITNetwork(PairNetwork):
    """One transformer layer within documents, the same for both sides, and one across them."""

    grid_pairs = 4096

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float, train_tokens: bool) -> None:
        super().__init__()
        self.tokens = TokenVectors(dim, train_tokens)
        self.standard = Standardise(dim)
        self.internal, self.external = (
            nn.TransformerEncoderLayer(dim, heads, feedforward, dropout, batch_first=True) for _ in range(2)
        )
        self.compare = Compare(dim, dropout)

    def encode(self, side: Side, inputs: tuple[Tensor, Tensor, Tensor]) -> Encoded:
        """Fields after internal interaction, with the side's source vector added; and which fields are filled."""
        values, names, source = inputs
        filled = present(values)
        fields = self._text(names).expand(*filled.shape, -1).clone()
        fields[filled] += self.standard(self._text(values[filled]))
        return self.internal(fields, src_key_padding_mask=~filled) + self._text(source), filled

    def _text(self, ids: Tensor) -> Tensor:
        """A text is the mean of its token vectors."""
        return masked_mean(self.tokens(ids), ids != PADDING, -2)

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits of pairs from the fields of both documents after external interaction."""
        people, posts = self.interact(resumes, jobs)
        return self.compare(self.compare.part("resume", people), self.compare.part("job", posts))

    def interact(self, resumes: Encoded, jobs: Encoded) -> tuple[Tensor, Tensor]:
        """The mean of each document's filled fields, after all fields of the pair have seen each other."""
        leading = torch.broadcast_shapes(resumes[1].shape[:-1], jobs[1].shape[:-1])
        both = [one.expand(*leading, *one.shape[-2:]) for one in (resumes[0], jobs[0])]
        filled = [one.expand(*leading, -1) for one in (resumes[1], jobs[1])]
        fields, mask = torch.cat(both, -2).flatten(0, -3), torch.cat(filled, -1).flatten(0, -2)
        seen = self.external(fields, src_key_padding_mask=~mask).view(*leading, *fields.shape[-2:])
        people, posts = seen.split([both[0].shape[-2], both[1].shape[-2]], dim=-2)
        return masked_mean(people, filled[0], -2), masked_mean(posts, filled[1], -2)


class InEXIT(PairMatcher):
    """InEXIT (Shao et al. 2023): internal interaction of a document's fields, external interaction of a pair's.

    A field is its name plus its value, and its side's name after the internal layer, each a mean of token vectors
    instead of BERT states (our choice, for a laptop). Official settings: bert-base-chinese (768), 8 heads, one layer,
    dropout 0.1, batch 16, rate 5e-6, decay 1e-9, 16 tokens a field and 256 of free text, patience 5.
    """

    name, unit = "InEXIT", "fields"

    def __init__(
        self,
        dim: int = 64,
        heads: int = 4,
        feedforward: int = 128,
        dropout: float = 0.1,
        config: PairTraining = PairTraining(max_tokens=256, learning_rate=1e-3),
    ) -> None:
        self.dim, self.heads, self.feedforward, self.dropout = dim, heads, feedforward, dropout
        self.config = config

    def build(self) -> InEXITNetwork:
        """Token vectors, two transformer layers and the comparison."""
        return InEXITNetwork(self.dim, self.heads, self.feedforward, self.dropout, self.config.train_tokens)

    def inputs(self, corpus: Corpus, side: Side) -> Fields:
        """Names and values of all fields."""
        return Fields(self.pieces(corpus, side), side)

    def learn(self, corpus: Corpus) -> Self:
        """Train; raises ValueError for a corpus whose documents are a single field."""
        for side in SIDES:
            if len(corpus.fields(side)) < 2:
                raise ValueError(
                    f"InEXIT lets the fields of a document interact, and {side}s of corpus {corpus.name!r} have only "
                    f"{corpus.fields(side)}: read them with one column a field"
                )
        return super().learn(corpus)
