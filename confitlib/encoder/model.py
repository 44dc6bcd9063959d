"""The encoder that everything else uses: texts in, one vector a text out."""

# sentence_transformers and transformers are imported where they are needed: that takes seconds, and mining, which
# reads `Embeddings`, needs neither.

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from confitlib.encoder.vectors import Activations, Vectors, cached_vectors
from confitlib.util import atomic, content_key

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Pooling = Literal["mean", "cls"]
TokenIds = NDArray[np.int32]
Rows = NDArray[np.intp]
# Tokens of a batch: of a transformer on a CPU so few that the activations stay in a core's caches.
TOKENS_AT_ONCE, TOKENS_AT_ONCE_ON_CPU = 65_536, 1024
TEXTS_AT_ONCE, BATCH_SIZE = 16_384, 64  # texts tokenised at a time, texts of a batch at most
REMEMBERED = 2**16  # texts: a market's documents, and some 100 MB at most
SHORTEST = 3  # one token between the two special ones
FACTORS = "token_factors.safetensors"
BOOKKEEPING = {"_name_or_path", "architectures", "dtype", "transformers_version"}  # of a config: no effect on vectors
logger = logging.getLogger(__name__)


# Token ids by text, for each tokenizer by its hash: training, mining and ranking read the same documents in turn.
TOKEN_MEMORY: defaultdict[str, dict[str, TokenIds]] = defaultdict(dict)


class TokenAverage(nn.Module):
    """Mean over a text's tokens of `weight[token] * vector[token]`; word order is ignored.

    `vectors` `[vocabulary, dim]` and `weights` `[vocabulary, 1]` are trainable. The weights start as ones unless
    given; a prior that discounts frequent tokens (SIF, Arora et al. 2017, with Zipf frequencies by token id) changed
    nothing beyond the spread of seeds on the laptop market.
    """

    # The one module that is not Sentence-Transformers' own. Its StaticEmbedding gives every step a gradient of the
    # whole vocabulary; Adam on dense gradients takes 108 ms a step where RowAdam on sparse ones, a row for each
    # distinct token of the batch, takes 2.2 ms (docs/benchmarks.md).

    def __init__(self, tokenizer: Tokenizer, vectors: Tensor, weights: Tensor | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.token_vectors = nn.Parameter(vectors.detach().clone())
        self.token_weights = nn.Parameter(torch.ones(len(vectors), 1) if weights is None else weights.detach().clone())

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """`sentence_embedding` `[batch, dim]` of the flat `input_ids`, texts starting at `offsets`; else 0."""
        tokens, places = features["input_ids"].unique(return_inverse=True)  # [distinct], [tokens]
        weights = F.embedding(tokens, self.token_weights, sparse=True)
        vectors = weights * F.embedding(tokens, self.token_vectors, sparse=True)
        return {"sentence_embedding": F.embedding_bag(places, vectors, features["offsets"], mode="mean")}


class TextEncoder(nn.Module):
    """A token average or a transformer with pooling, a prefix and, after `add_adapter`, a linear map on the vectors.

    The parts are modules of Sentence-Transformers, and a saved folder is one of its models. `encode` has its own
    loop and signature, so this class holds the modules instead of being a `SentenceTransformer`: batches have a token
    budget and run side by side on a CPU, vectors are cached, and training reads them before normalisation.

    `backbone`: `TokenAverage`, or a `Transformer` whose vectors `pool` turns into one.
    """

    def __init__(
        self, name: str, backbone: Any, pool: Any = None, prefix: str = "", max_length: int = 512, adapter: Any = None
    ) -> None:
        super().__init__()
        if max_length < SHORTEST:
            raise ValueError(f"max_length={max_length} leaves no room for text; use at least {SHORTEST}")
        self.name, self.prefix, self.max_length = name, prefix, max_length
        self.backbone, self.pool, self.adapter = backbone, pool, adapter
        self.static = isinstance(backbone, TokenAverage)
        self.pooling: Pooling = "mean" if pool is None else pool.pooling_mode
        # length of the vectors before the adapter
        self.backbone_dim = backbone.token_vectors.shape[1] if self.static else backbone.get_embedding_dimension()
        self.card = ""  # the text of README.md in a saved folder
        # A copy: Sentence-Transformers sets padding and truncation of its own.
        tokenizer = backbone.tokenizer if self.static else backbone.tokenizer.backend_tokenizer
        self.tokenizer: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length)
        self._memory = TOKEN_MEMORY[f"{self.static}:{hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()}"]
        self.freeze("all")

    @property
    def dim(self) -> int:
        """Length of the vectors that `forward` and `encode` return."""
        return self.backbone_dim if self.adapter is None else self.adapter.out_features

    @property
    def sparse_parameters(self) -> bool:
        """Whether trainable parameters have sparse gradients and want `training.RowAdam`."""
        return self.static and any(p.requires_grad for p in self.backbone.parameters())

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def precision(self) -> torch.dtype:
        """The type that products are computed in when encoding: bf16 on a card, else float32."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a batch that suits the device."""
        return TOKENS_AT_ONCE if self.static or self.device.type != "cpu" else TOKENS_AT_ONCE_ON_CPU

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of every text: prefix applied, special tokens included, truncated to `max_length`.

        Texts that this process met before are remembered.
        """
        prefixed = [self.prefix + text for text in check_texts(texts)]
        new = list(dict.fromkeys(text for text in prefixed if text not in self._memory))
        if len(self._memory) + len(new) > REMEMBERED:
            self._memory.clear()
            new = list(dict.fromkeys(prefixed))
        encodings = self.tokenizer.encode_batch_fast(new, add_special_tokens=not self.static)
        self._memory.update({text: np.array(e.ids, dtype=np.int32) for text, e in zip(new, encodings, strict=True)})
        return [self._memory[text] for text in prefixed]

    def forget(self) -> None:
        """Drop the remembered texts, of every equal tokenizer in this process."""
        self._memory.clear()

    def collate(self, ids: Sequence[TokenIds]) -> dict[str, Tensor]:
        """One batch for `forward`.

        Of a transformer `input_ids` and `attention_mask` `[batch, longest]`, padded on the right; of a token average
        all texts' `input_ids` in one row and the `offsets` `[batch]` at which they start.
        """
        rows = [torch.from_numpy(row.astype(np.int64)) for row in ids]
        if self.static:
            lengths = torch.tensor([len(row) for row in ids], dtype=torch.int64)
            return {"input_ids": torch.cat(rows), "offsets": lengths.cumsum(0) - lengths}
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        padded = pad_sequence(rows, batch_first=True, padding_value=self.backbone.tokenizer.pad_token_id or 0)
        return {"input_ids": padded, "attention_mask": mask}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Vectors `[batch, dim]`, not normalised, of a collated batch.

        `{"vectors": [batch, backbone_dim]}` applies the adapter alone to vectors of `embed_frozen`. With `activations`
        `[batch, longest, backbone_dim]` of `embed_lower` beside the token ids, the top layers alone are computed.
        """
        vectors = features["vectors"] if "vectors" in features else self._pooled(features)
        return vectors if self.adapter is None else self.adapter(vectors)

    def _pooled(self, features: dict[str, Tensor]) -> Tensor:
        """Vectors before the adapter, `[batch, backbone_dim]`."""
        features = dict(features)  # a copy: modules add their results to it
        with ExitStack() as stack:
            if "activations" in features:  # which the first trainable layer reads; those below compute nothing
                layers, top, below = self.layers(), self.top_layers, features.pop("activations")
                stack.enter_context(layers[-top].register_forward_pre_hook(lambda _, inputs: (below, *inputs[1:])))
                for layer in layers[:-top]:
                    stack.enter_context(patch.object(layer, "forward", lambda hidden, *_, **__: hidden))
            features = self.backbone(features)
        return (features if self.pool is None else self.pool(features))["sentence_embedding"].float()

    def add_adapter(self) -> None:
        """Put a linear map after pooling that starts as the identity."""
        if self.adapter is not None:
            raise ValueError("the encoder has an adapter already; train that one or load the encoder anew")
        self.adapter = nn.Linear(self.backbone_dim, self.backbone_dim, device=self.device)
        nn.init.eye_(self.adapter.weight)
        nn.init.zeros_(self.adapter.bias)

    def layers(self) -> nn.ModuleList:
        """The transformer layers from bottom to top; empty for a token average, and for a model without such a list."""
        if self.static:
            return nn.ModuleList()
        model = self.backbone.model
        lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
        return next((one for one in lists if len(one) == model.config.num_hidden_layers), nn.ModuleList())

    def freeze(self, trainable: Literal["all", "adapter"] | int = "all") -> None:
        """Leave trainable: everything, the adapter alone, or the top k transformer layers (and the adapter)."""
        adapter: list[nn.Module] = [] if self.adapter is None else [self.adapter]
        layers = self.layers() if isinstance(trainable, int) else nn.ModuleList()
        parts: dict[Any, list[Any]] = {k: [*adapter, *layers[-k:]] for k in range(1, len(layers) + 1)}
        parts |= {"all": [self], "adapter": adapter}
        if not parts.get(trainable):
            tops = f"the number of top layers, 1 to {len(self.layers())}" if len(self.layers()) else "it has no layers"
            raise ValueError(f'trainable={trainable!r}: choose "all", "adapter" (after add_adapter()), or {tops}')
        self.top_layers = trainable if isinstance(trainable, int) else 0
        self.requires_grad_(False)
        for part in parts[trainable]:
            part.requires_grad_(True)
        # A checkpoint's own pooler has no part in the vectors and so would lack a gradient.
        pooler = None if self.static else getattr(self.backbone.model, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.requires_grad_(False)

    def encode(self, texts: Sequence[str], progress: bool = True, cache: str | Path | None = None) -> Vectors:
        """Vectors of length 1 `[len(texts), dim]`, in the order of the texts.

        `cache`: a folder that keeps the vectors before the adapter; weights, texts or settings that
        differ are computed anew. An empty text of the static encoder stays the zero vector.
        """
        vectors = torch.from_numpy(self.embed_frozen(texts, progress, cache))
        with torch.inference_mode():
            if self.adapter is not None:
                vectors = self.adapter(vectors.to(self.device)).float().cpu()
            return F.normalize(vectors, dim=1).numpy()

    def embed_frozen(self, texts: Sequence[str], progress: bool = True, cache: str | Path | None = None) -> Vectors:
        """Vectors before the adapter, not normalised, `[len(texts), backbone_dim]`; `cache` as in `encode`."""
        checked = check_texts(texts)
        if cache is None:
            return self._embed(checked, progress)
        depends = f"{self.weight_hash(adapter=False)}:{self.precision}"
        return cached_vectors(cache, depends, checked, self.backbone_dim, lambda: self._embed(checked, progress))

    def embed_lower(self, texts: Sequence[str], cache: str | Path, progress: bool = True) -> list[Activations]:
        """What the trainable top layers read of every text, `[tokens, backbone_dim]` float16, mapped from a file.

        The file lies in the folder `cache` under the name of all that decides it, the rows of the texts one after
        another; the bar says how large it is. It appears whole or not at all; a damaged one is reported and replaced.
        """
        checked, top = check_texts(texts), self.top_layers
        depends = f"{self.weight_hash(adapter=False)}:{self.precision}:{top}"
        path = Path(cache) / f"{content_key(depends=depends, texts=checked)}.npy"
        lengths = [len(ids) for ids in self.tokenize(checked)]
        ends, shape = np.cumsum(lengths)[:-1], (sum(lengths), self.backbone_dim)
        # 1. the file, if it is there and whole
        if path.exists():
            try:
                kept = np.load(path, mmap_mode="r")
                if (kept.shape, kept.dtype) != (shape, np.float16):
                    raise ValueError(f"shape {kept.shape}, expected {shape}")
                return np.split(kept, ends)
            except (ValueError, OSError) as error:
                logger.warning("activation cache %s is unusable (%s); computing it anew", path, error)
        # 2. else it is written, batch by batch
        size = f"{2e-9 * np.prod(shape):.1f} GB for the top {top} layers"

        def hidden(features: dict[str, Tensor]) -> Tensor:
            return self.backbone.model(**features, output_hidden_states=True).hidden_states[-top - 1]

        with atomic(path) as partial:
            kept = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
            rows = np.split(kept, ends)
            for places, block in self._in_batches(checked, hidden, progress, size):
                for place, row in zip(places, block, strict=True):
                    rows[place][:] = row[: len(rows[place])]
            kept.flush()
        return np.split(np.load(path, mmap_mode="r"), ends)

    def _embed(self, texts: list[str], progress: bool) -> Vectors:
        """Vectors `[len(texts), backbone_dim]`."""
        vectors = np.empty((len(texts), self.backbone_dim), dtype=np.float32)
        for places, block in self._in_batches(texts, self._pooled, progress):
            vectors[places] = block
        return vectors

    def _in_batches(
        self, texts: list[str], compute: Callable[[dict[str, Tensor]], Tensor], progress: bool, what: str = ""
    ) -> Iterator[tuple[Rows, NDArray[Any]]]:
        """Places of the texts of a batch and what `compute` makes of it; on a CPU several batches at a time.

        Each of these runs on one thread. Splitting every matrix product over the threads instead makes them wait for
        each other hundreds of times a batch; whole batches only meet at the end.
        """
        device, precision = self.device, self.precision

        @torch.inference_mode()
        def run(batch: list[TokenIds]) -> NDArray[Any]:
            """What `compute` makes of one batch."""
            features = {name: one.to(device) for name, one in self.collate(batch).items()}
            with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
                return compute(features).float().cpu().numpy()

        threads, was_training = torch.get_num_threads(), self.training
        # A model's own code may grow its buffers while it runs, as the ALiBi table of Jina v2 does.
        thread_safe = self.static or type(self.backbone.model).__module__.startswith("transformers.")
        self.eval()
        try:
            with tqdm(total=len(texts), desc=f"encode ({what or self.name})", unit="text", disable=not progress) as bar:
                for start in range(0, len(texts), TEXTS_AT_ONCE):
                    ids = self.tokenize(texts[start : start + TEXTS_AT_ONCE])
                    rows = list(length_sorted_batches([len(row) for row in ids], BATCH_SIZE, self.tokens_at_once))
                    batches = [[ids[row] for row in batch] for batch in rows]
                    side_by_side = device.type == "cpu" and thread_safe and min(threads, len(batches)) > 1
                    torch.set_num_threads(1 if side_by_side else threads)  # inherited by the pool's new threads
                    with ThreadPoolExecutor(threads) as pool:
                        blocks = pool.map(run, batches) if side_by_side else map(run, batches)
                        for places, block in zip(rows, blocks, strict=True):
                            yield start + places, block
                            bar.update(len(places))
        finally:
            torch.set_num_threads(threads)
            self.train(was_training)

    def weight_hash(self, adapter: bool = True) -> str:
        """Fingerprint of all weights, the tokenizer and the settings; equal hashes give equal vectors.

        Without `adapter` it stands for the vectors of `embed_frozen`.
        """
        # 1. settings and tokenizer
        settings: dict[str, Any] = {"prefix": self.prefix, "pooling": self.pooling, "max_length": self.max_length}
        if not self.static:
            config = self.backbone.model.config.to_dict()
            settings["architecture"] = {name: value for name, value in config.items() if name not in BOOKKEEPING}
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=32)
        digest.update(self.tokenizer.to_str().encode())
        # 2. every weight by name, type, shape and bytes
        for module in (self.backbone, self.adapter if adapter else None):
            for name, tensor in sorted(module.state_dict().items()) if module is not None else []:
                array = tensor.detach().cpu().contiguous()
                digest.update(f"{name}:{array.dtype}:{tuple(array.shape)}".encode())
                digest.update(memoryview(array.reshape(-1).view(torch.uint8).numpy()))
        return digest.hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write a folder that `SentenceTransformer` opens with the same vectors and `load_encoder` restores exactly.

        With the model card `card` as README.md, in whose place there is a short one for an encoder without any.
        """
        from safetensors.torch import save_file

        folder = Path(path)
        with quiet():
            self.as_sentence_transformer().save(str(folder), create_model_card=False)
        if self.static:  # the folder of StaticEmbedding holds weight times vector; this file keeps the two factors
            save_file(self.backbone.state_dict(), folder / FACTORS)
        (folder / "README.md").write_text(self.card or model_card(self.name, {}), encoding="utf-8")
        return folder

    def as_sentence_transformer(self) -> SentenceTransformer:
        """The encoder as a plain `SentenceTransformer`, which shares the weights of a transformer and of an adapter."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding

        # 1. tokens to one vector; StaticEmbedding holds the products of weights and vectors
        modules = [self.backbone, self.pool]
        if self.static:
            table = (self.backbone.token_vectors * self.backbone.token_weights).detach()
            modules = [StaticEmbedding(Tokenizer.from_str(self.tokenizer.to_str()), embedding_weights=table)]
        # 2. the adapter, the prefix and unit length
        if self.adapter is not None:
            dense = Dense(self.adapter.in_features, self.adapter.out_features, activation_function=nn.Identity())
            dense.linear = self.adapter
            modules.append(dense)
        modules.append(Normalize())
        told: Any = {"prompts": {"prefix": self.prefix}, "default_prompt_name": "prefix"} if self.prefix else {}
        return SentenceTransformer(modules=modules, device=str(self.device), similarity_fn_name="cosine", **told)

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Upload the encoder and its model card to the Hugging Face repository `name`; returns the commit's address.

        `options` are those of `SentenceTransformer.push_to_hub`, such as `private=True`.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            return self.as_sentence_transformer().push_to_hub(name, local_model_path=folder, **options)


def model_card(base: str, facts: Mapping[str, Mapping[str, Any]]) -> str:
    """README.md of an encoder made from `base`: its licence, how to use it, and a table for each heading in `facts`."""
    card = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    return "\n".join([card.format(base=base), *(card_section(heading, rows) for heading, rows in facts.items())])


def card_section(heading: str, rows: Mapping[str, Any]) -> str:
    """One table of a model card."""
    return "\n".join([f"## {heading}\n", "| | |", "|:--|:--|", *(f"| {k} | {v} |" for k, v in rows.items()), ""])


def length_sorted_batches(lengths: Sequence[int] | Rows, batch_size: int, tokens: int) -> Iterator[Rows]:
    """Positions in batches of similar length, longest first so that a lack of memory shows at once.

    A batch holds at most `batch_size` texts and, padded, `tokens` tokens (one text at least).
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.intp), kind="stable")
    while len(order):
        size = max(1, min(batch_size, tokens // max(lengths[order[0]], 1)))
        yield order[:size]
        order = order[size:]


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list; raises TypeError for a single string and for a value that is not text."""
    if isinstance(texts, str) or not hasattr(texts, "__iter__"):
        raise TypeError(f"got one {type(texts).__name__} where a list of texts is expected; pass [text]")
    checked = list(texts)
    for position, text in enumerate(checked):
        if not isinstance(text, str):
            raise TypeError(f"text {position} is {text!r} ({type(text).__name__}); fill or drop it before encoding")
        if re.search("[\ud800-\udfff]", text):
            raise ValueError(f"text {position} holds half an emoji; repair it before encoding")
    return checked


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars and reports of transformers off the screen while it reads or writes a folder."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
