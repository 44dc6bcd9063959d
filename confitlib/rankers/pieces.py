"""Documents as neural matchers read them: token ids by line or field, and the vectors of tokens."""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from confitlib.corpus import HYRE, Corpus, Side
from confitlib.encoder import TextEncoder, TokenAverage, load_encoder
from confitlib.text import sentences, texts

Unit = Literal["lines", "fields", "document"]
PADDING = 0  # the tokenizer's id of [PAD]


class Pieces:
    """Token ids of every document of a side, cut into pieces: `ids` `[documents, pieces, tokens]`, 0 where none is.

    A piece is a line or sentence ("lines"), a field ("fields", in column order, empty ones included) or all
    the text ("document"). Of a document `max_pieces` are read and of a piece `max_tokens`, except that a longer
    line goes on in the next piece. `hyre` adds the hypothetical resume of a job. `cut`: the share of
    documents that are not read to their end.
    """

    def __init__(
        self, corpus: Corpus, side: Side, unit: Unit, *, max_pieces: int, max_tokens: int, hyre: bool = True
    ) -> None:
        documents = _documents(corpus, side, unit, hyre)
        self.names = _columns(corpus, side, hyre) if unit == "fields" else []
        distinct = list(dict.fromkeys(chain.from_iterable(documents)))
        tokens = dict(zip(distinct, static_encoder().tokenize(distinct), strict=True))
        read = [[tokens[text] for text in document] for document in documents]
        if unit == "lines":
            read = [[line[at : at + max_tokens] for line in lines for at in range(0, len(line), max_tokens)]
                    for lines in read]  # fmt: skip
        self.ids = _padded(read, max_pieces, max_tokens)
        kept = (self.ids != PADDING).sum(axis=(1, 2))
        self.cut = float(np.mean([sum(map(len, lines)) > n for lines, n in zip(read, kept, strict=True)]))

    def take(self, rows: NDArray[np.intp]) -> Tensor:
        """Token ids of the documents in these rows, `[len(rows), pieces, tokens]`."""
        return torch.from_numpy(self.ids[rows].astype(np.int64))

    def __len__(self) -> int:
        return len(self.ids)


def _columns(corpus: Corpus, side: Side, hyre: bool) -> list[str]:
    added = [HYRE] if hyre and HYRE in corpus.documents(side).columns else []
    return [*corpus.fields(side), *added]


def _documents(corpus: Corpus, side: Side, unit: Unit, hyre: bool) -> list[list[str]]:
    """The pieces of every document as texts, in frame order."""
    if unit == "document":
        return [[text] for text in texts(corpus, side, hyre)]
    frame = corpus.documents(side)[_columns(corpus, side, hyre)].astype("str").fillna("")
    fields = [list(values) for values in frame.itertuples(index=False)]
    if unit == "fields":
        return fields
    return [[line for value in values for line in sentences(value)] for values in fields]


def _padded(documents: list[list[NDArray[np.int32]]], max_pieces: int, max_tokens: int) -> NDArray[np.int32]:
    """All pieces in one array, no larger than the longest document and piece need."""
    documents = [[piece[:max_tokens] for piece in pieces[:max_pieces]] for pieces in documents]
    most = max(map(len, documents), default=1)
    longest = max((len(piece) for pieces in documents for piece in pieces), default=1)
    ids = np.full((len(documents), max(most, 1), max(longest, 1)), PADDING, dtype=np.int32)
    for row, pieces in enumerate(documents):
        for place, piece in enumerate(pieces):
            ids[row, place, : len(piece)] = piece
    return ids


def token_ids(texts: list[str]) -> NDArray[np.int64]:
    """Token ids `[texts, longest]`, 0 where there is none."""
    return _padded([static_encoder().tokenize(texts)], len(texts), static_encoder().max_length)[0].astype(np.int64)


@cache
def static_encoder() -> TextEncoder:
    """The offline token vectors with their tokenizer, loaded once; nobody trains this copy."""
    return load_encoder("static", device="cpu").requires_grad_(False)


@cache
def _principal_axes(dim: int) -> Tensor:
    """The first axes of the token vectors `[dim, 384]`, scaled so that mapped vectors have a mean square of one."""
    table = cast(TokenAverage, static_encoder().backbone).token_vectors
    variances, axes = torch.linalg.eigh(table.T @ table / len(table))  # ascending
    return axes[:, -dim:].T / variances[-dim:].mean().sqrt()


class TokenVectors(nn.Module):
    """Vectors of token ids: those of the offline MiniLM, mapped linearly to `dim`; padding gives zeros.

    The map starts as the principal axes of the table (`dim` at most 384) and is trained, which moves words that
    training never met along with the others. The table itself is trained and saved only with `train_table`.
    """

    def __init__(self, dim: int, train_table: bool = False) -> None:
        super().__init__()
        table = cast(TokenAverage, static_encoder().backbone).token_vectors.detach()
        self.map = nn.Linear(table.shape[1], dim, bias=False)
        self.map.weight.data.copy_(_principal_axes(dim))
        if train_table:
            self.table = nn.Parameter(table.clone())
        else:
            self.register_buffer("table", table, persistent=False)

    def lookup(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of the distinct ids `[distinct, dim]`, row 0 being the padding's, and where each id's vector is."""
        padding = ids.new_full((1,), PADDING)
        distinct, places = torch.cat([padding, ids.flatten()]).unique(return_inverse=True)
        vectors = self.map(self.table[distinct]) * (distinct != PADDING).unsqueeze(1)
        return vectors, places[1:].view(ids.shape)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors `[..., dim]` of ids of any shape."""
        vectors, places = self.lookup(ids)
        return F.embedding(places, vectors)
