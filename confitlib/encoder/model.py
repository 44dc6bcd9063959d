"""The encoder that everything else uses: texts in, one vector a text out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from confitlib.encoder import layout, vector_cache
from confitlib.encoder.backbones import AnyBackbone, Pooling, TokenIds
from confitlib.encoder.batching import Rows, length_sorted_batches, side_by_side
from confitlib.encoder.vector_cache import Vectors

TOKENS_PER_GPU_BATCH = 65_536
TEXTS_PER_CHUNK = 16_384


class TextEncoder(nn.Module):
    """A backbone with its prefix and, after `add_adapter`, a linear map on the pooled vectors."""

    def __init__(self, name: str, backbone: AnyBackbone, prefix: str = "", adapter: nn.Linear | None = None) -> None:
        super().__init__()
        self.name = name
        self.backbone = backbone
        self.prefix = prefix
        self.adapter = adapter

    @property
    def dim(self) -> int:
        """Length of the vectors that `forward` and `encode` return."""
        return self.backbone.dim if self.adapter is None else self.adapter.out_features

    @property
    def pooling(self) -> Pooling:
        """How token vectors become one vector: "mean" or "cls"."""
        return self.backbone.pooling

    @property
    def max_length(self) -> int:
        """Tokens read of a text, special tokens included."""
        return self.backbone.max_length

    @property
    def sparse_parameters(self) -> bool:
        """Whether trainable parameters have sparse gradients and want `training.RowAdam`."""
        return self.backbone.sparse_parameters and any(p.requires_grad for p in self.backbone.parameters())

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a batch that suits the device: on a CPU, activations that stay in its caches."""
        return self.backbone.tokens_per_cpu_batch if self.device.type == "cpu" else TOKENS_PER_GPU_BATCH

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of every text: prefix applied, special tokens included, truncated to `max_length`."""
        checked = check_texts(texts)
        return self.backbone.tokenize([self.prefix + text for text in checked] if self.prefix else checked)

    def collate(self, ids: Sequence[TokenIds]) -> dict[str, Tensor]:
        """One batch for `forward`, padded to its longest text only."""
        return self.backbone.collate(ids)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Vectors `[batch, dim]`, not normalised, of a collated batch.

        `{"vectors": [batch, backbone dim]}` applies the adapter alone to vectors of `embed_frozen`.
        """
        vectors = features["vectors"] if "vectors" in features else self.backbone(features)
        return vectors if self.adapter is None else self.adapter(vectors)

    def add_adapter(self) -> nn.Linear:
        """Put a linear map after pooling that starts as the identity."""
        if self.adapter is not None:
            raise ValueError("the encoder has an adapter already; train that one or load the encoder anew")
        adapter = nn.Linear(self.backbone.dim, self.backbone.dim, device=self.device)
        nn.init.eye_(adapter.weight)
        nn.init.zeros_(adapter.bias)
        self.adapter = adapter
        return adapter

    def freeze(self, trainable: Literal["all", "adapter"] | int = "all") -> None:
        """Leave trainable: everything, the adapter alone, or the top k transformer layers (and the adapter)."""
        chosen: list[nn.Module] = self._trainable(trainable)
        self.requires_grad_(False)
        for module in chosen:
            module.requires_grad_(True)
        self.backbone.freeze_unused()

    def _trainable(self, trainable: Literal["all", "adapter"] | int) -> list[nn.Module]:
        adapters: list[nn.Module] = [] if self.adapter is None else [self.adapter]
        if trainable == "all":
            return [self]
        if trainable == "adapter":
            if not adapters:
                raise ValueError('trainable="adapter" needs an adapter; call add_adapter() first')
            return adapters
        layers = self.backbone.layers()
        if not isinstance(trainable, int) or not 1 <= trainable <= len(layers):
            choices = f", or 1 to {len(layers)} top layers" if len(layers) else "; this encoder has no layers"
            raise ValueError(f'trainable={trainable!r}: choose "all" or "adapter"{choices}')
        return [*layers[-trainable:], *adapters]

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = 64,
        normalize: bool = True,
        progress: bool = True,
        cache: Path | None = None,
    ) -> Vectors:
        """Vectors `[len(texts), dim]` in the order of the texts, of length 1 if `normalize`.

        `cache`: a folder that keeps the vectors before the adapter; weights, texts or settings that
        differ are computed anew. An empty text of the static encoder stays the zero vector.
        """
        vectors = torch.from_numpy(self.embed_frozen(texts, batch_size, progress, cache))
        with torch.inference_mode():
            if self.adapter is not None:
                vectors = self.adapter(vectors.to(self.device)).float().cpu()
            return (F.normalize(vectors, dim=1) if normalize else vectors).numpy()

    def embed_frozen(
        self, texts: Sequence[str], batch_size: int = 64, progress: bool = True, cache: Path | None = None
    ) -> Vectors:
        """Vectors before the adapter, not normalised, `[len(texts), backbone dim]`; `cache` as in `encode`."""
        checked = check_texts(texts)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if cache is None:
            return self._embed(checked, batch_size, progress)
        key = vector_cache.key_of(self._backbone_hash(), str(self.precision), checked)
        shape = (len(checked), self.backbone.dim)
        return vector_cache.load_or_compute(cache, key, shape, lambda: self._embed(checked, batch_size, progress))

    def weight_hash(self) -> str:
        """Fingerprint of all weights, the tokenizer and the settings; equal hashes give equal vectors."""
        digest = hashlib.blake2b(self._backbone_hash().encode(), digest_size=32)
        if self.adapter is not None:
            update_with_weights(digest, self.adapter)
        return digest.hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write the encoder as a Sentence-Transformers folder that `load_encoder` restores exactly."""
        layout.save(Path(path), self.backbone, self.prefix, self.adapter)
        return Path(path)

    def _backbone_hash(self) -> str:
        digest = hashlib.blake2b(digest_size=32)
        settings = {"prefix": self.prefix, **self.backbone.settings()}
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        digest.update(self.backbone.tokenizer.to_str().encode())
        update_with_weights(digest, self.backbone)
        return digest.hexdigest()

    @property
    def precision(self) -> torch.dtype:
        """The type that products are computed in when encoding: bf16 on a card, else float32."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def _embed(self, texts: list[str], batch_size: int, progress: bool) -> Vectors:
        vectors = np.empty((len(texts), self.backbone.dim), dtype=np.float32)
        bar = tqdm(total=len(texts), desc=f"encode ({self.name})", unit="text", disable=not progress)
        with bar, evaluating(self):
            for start in range(0, len(texts), TEXTS_PER_CHUNK):
                ids = self.tokenize(texts[start : start + TEXTS_PER_CHUNK])
                for rows, block in self._embed_chunk(ids, batch_size):
                    vectors[start + rows] = block
                    bar.update(len(rows))
        return vectors

    def _embed_chunk(self, ids: list[TokenIds], batch_size: int) -> Iterator[tuple[Rows, Vectors]]:
        batches = list(length_sorted_batches([len(row) for row in ids], batch_size, self.tokens_at_once))
        in_threads = self.device.type == "cpu" and self.backbone.runs_in_threads
        workers = torch.get_num_threads() if in_threads else 1
        blocks = side_by_side(lambda rows: self._embed_batch([ids[row] for row in rows]), batches, workers)
        yield from zip(batches, blocks, strict=True)

    @torch.inference_mode()
    def _embed_batch(self, ids: list[TokenIds]) -> Vectors:
        device, precision = self.device, self.precision
        features = {name: tensor.to(device, non_blocking=True) for name, tensor in self.collate(ids).items()}
        with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
            return self.backbone(features).float().cpu().numpy()


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list; raises TypeError for a single string and for a value that is not text."""
    if isinstance(texts, str):
        raise TypeError("got one string where a list of texts is expected; pass [text]")
    checked = list(texts)
    for position, text in enumerate(checked):
        if not isinstance(text, str):
            raise TypeError(f"text {position} is {text!r} ({type(text).__name__}); fill or drop it before encoding")
    return checked


def update_with_weights(digest: hashlib.blake2b, module: nn.Module) -> None:
    """Feed every parameter and buffer with its name, type and shape into a digest."""
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{array.dtype}:{tuple(array.shape)}".encode())
        digest.update(memoryview(array.reshape(-1).view(torch.uint8).numpy()))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while and restore the mode that was set before."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
