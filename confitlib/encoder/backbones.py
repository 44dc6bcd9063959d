"""The two ways from token ids to one vector: a weighted average of token vectors, and a pooled transformer."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

Pooling = Literal["mean", "cls"]
TokenIds = NDArray[np.int32]
REMEMBERED = 2**16  # texts: a market's documents, and some 100 MB at most
SHORTEST = 3  # one token between the two special ones
BOOKKEEPING = {"_name_or_path", "architectures", "dtype", "transformers_version"}  # of a config: no effect on vectors


@cache
def _token_memory(tokenizer: str) -> dict[str, TokenIds]:
    """What equal tokenizers of this process share: training, mining and ranking read the same documents in turn."""
    return {}


class Backbone(nn.Module, ABC):
    """What an encoder is without its prefix and adapter: tokenizer, batch layout and pooled vectors."""

    dim: int
    pooling: Pooling
    sparse_parameters = False
    tokens_per_cpu_batch = 1024  # so few that the activations stay in a core's caches
    runs_in_threads = True

    def __init__(self, tokenizer: Tokenizer, max_length: int, special_tokens: bool) -> None:
        super().__init__()
        if max_length < SHORTEST:
            raise ValueError(f"max_length={max_length} leaves no room for text; use at least {SHORTEST}")
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.special_tokens = special_tokens
        self._seen = _token_memory(f"{special_tokens}:{hashlib.sha256(tokenizer.to_str().encode()).hexdigest()}")

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of every text, truncated to `max_length`; texts that this process met before are remembered."""
        new = list(dict.fromkeys(text for text in texts if text not in self._seen))
        if len(self._seen) + len(new) > REMEMBERED:
            self._seen.clear()
            new = list(dict.fromkeys(texts))
        encodings = self.tokenizer.encode_batch_fast(new, add_special_tokens=self.special_tokens)
        found = {text: np.array(one.ids, dtype=np.int32) for text, one in zip(new, encodings, strict=True)}
        self._seen.update(found)
        return [self._seen[text] for text in texts]

    def forget(self) -> None:
        """Drop the remembered texts, of every equal tokenizer in this process."""
        self._seen.clear()

    @abstractmethod
    def collate(self, ids: Sequence[TokenIds]) -> dict[str, Tensor]:
        """One batch of the tensors that `forward` reads."""

    @abstractmethod
    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Vectors `[batch, dim]`, float32, not normalised."""

    def layers(self) -> nn.ModuleList:
        """The transformer layers from bottom to top; empty for a backbone without layers."""
        return nn.ModuleList()

    def freeze_unused(self) -> None:
        """Freeze parameters that cannot reach the output, so that no trainable one lacks a gradient."""

    def settings(self) -> dict[str, Any]:
        """What besides weights and tokenizer determines the vectors."""
        return {"kind": type(self).__name__, "pooling": self.pooling, "max_length": self.max_length}


class StaticBackbone(Backbone):
    """Mean over a text's tokens of `weight[token] * vector[token]`; word order is ignored.

    `vectors` `[vocabulary, dim]` and `weights` `[vocabulary, 1]` are trainable and give sparse
    gradients: a step touches the rows of the batch's tokens, not the whole vocabulary. The weights
    start as ones unless given; a prior that discounts frequent tokens (SIF, Arora et al. 2017, with
    Zipf frequencies by token id) changed nothing beyond the spread of seeds on the laptop market.
    """

    sparse_parameters = True
    tokens_per_cpu_batch = 65_536  # no activations to keep: only the overhead of a call counts
    pooling: Pooling = "mean"

    def __init__(
        self, tokenizer: Tokenizer, vectors: Tensor, weights: Tensor | None, max_length: int, pooling: Pooling = "mean"
    ) -> None:
        if pooling != "mean":
            raise ValueError(f'pooling={pooling!r}: a static encoder has no first-token vector; choose "mean"')
        super().__init__(tokenizer, max_length, special_tokens=False)
        self.token_vectors = nn.Parameter(vectors.detach().clone())
        self.token_weights = nn.Parameter(torch.ones(len(vectors), 1) if weights is None else weights.detach().clone())
        self.dim = vectors.shape[1]

    def collate(self, ids: Sequence[TokenIds]) -> dict[str, Tensor]:
        """`input_ids`: all texts' tokens in one row; `offsets`: where each text starts."""
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        flat = np.concatenate(ids) if len(ids) else np.empty(0)
        offsets = np.cumsum(lengths) - lengths
        return {"input_ids": torch.from_numpy(flat.astype(np.int64)), "offsets": torch.from_numpy(offsets)}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Vectors `[batch, dim]`; a text without tokens gets the zero vector."""
        tokens, places = features["input_ids"].unique(return_inverse=True)  # a gradient row a token, not an occurrence
        weights = F.embedding(tokens, self.token_weights, sparse=True)
        vectors = weights * F.embedding(tokens, self.token_vectors, sparse=True)
        return F.embedding_bag(places, vectors, features["offsets"], mode="mean")


class TransformerBackbone(Backbone):
    """A Hugging Face encoder with mean or first-token ("cls") pooling."""

    def __init__(self, model: Any, tokenizer: Any, pooling: Pooling, max_length: int) -> None:
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling={pooling!r} is unknown; choose one of {', '.join(get_args(Pooling))}")
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"{type(tokenizer).__name__} has no fast version; choose a model with a tokenizer.json")
        super().__init__(tokenizer.backend_tokenizer, max_length, special_tokens=True)
        self.model: Any = model
        # A model's own code may grow its buffers while it runs, as the ALiBi table of Jina v2 does.
        self.runs_in_threads = type(model).__module__.startswith("transformers.")
        self.saved_tokenizer = tokenizer
        self.padding_id = tokenizer.pad_token_id or 0
        self.pooling = pooling
        self.dim = model.config.hidden_size
        self.freeze_unused()

    def settings(self) -> dict[str, Any]:
        """What besides weights and tokenizer determines the vectors, the architecture included."""
        architecture = {k: v for k, v in self.model.config.to_dict().items() if k not in BOOKKEEPING}
        return {**super().settings(), "architecture": architecture}

    def freeze_unused(self) -> None:
        """Freeze the checkpoint's own pooler: the vectors are pooled here, from the hidden states."""
        pooler = getattr(self.model, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.requires_grad_(False)

    def collate(self, ids: Sequence[TokenIds]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` `[batch, longest]`, padded on the right."""
        rows = [torch.from_numpy(row.astype(np.int64)) for row in ids]
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        padded = pad_sequence(rows, batch_first=True, padding_value=self.padding_id)
        return {"input_ids": padded, "attention_mask": mask}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Pooled hidden states of the last layer; the mean runs over real tokens, in float32."""
        mask = features["attention_mask"]
        hidden = self.model(input_ids=features["input_ids"], attention_mask=mask).last_hidden_state.float()
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

    def layers(self) -> nn.ModuleList:
        """The transformer layers from bottom to top."""
        depth = self.model.config.num_hidden_layers
        stacks = [m for m in self.model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
        if not stacks:
            raise ValueError(f"{type(self.model).__name__} has no list of {depth} layers to freeze; train all of it")
        return stacks[0]


AnyBackbone = StaticBackbone | TransformerBackbone


def pretrained_backbone(
    source: str, pooling: Pooling, max_length: int, seed: int = 0, trust_remote_code: bool = False
) -> TransformerBackbone:
    """A Hugging Face encoder from a folder or the hub, in float32, its weights from safetensors only.

    `max_length` is cut to what the model can read. `seed` draws the weights that the checkpoint lacks
    (such as a pooler), so that two loads are equal.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    with quiet() if Path(source).is_dir() else nullcontext(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModel.from_pretrained(
            source, use_safetensors=True, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    return TransformerBackbone(model, tokenizer, pooling, min(max_length, longest_input(model, tokenizer)))


def longest_input(model: Any, tokenizer: Any) -> int:
    """Tokens that a model can read: its positions, or the tokenizer's limit if it has no position table."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None:
        return tokenizer.model_max_length
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    # RoBERTa and its kin count positions from the padding id on, so the first ones are never used.
    return positions if padding is None else positions - padding - 1


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars and reports of transformers off the screen while it reads or writes a folder."""
    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()
