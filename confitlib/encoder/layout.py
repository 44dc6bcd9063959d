"""Encoders on disk: the Sentence-Transformers folder layout, written and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from confitlib.encoder.backbones import AnyBackbone, Pooling, StaticBackbone, pretrained_backbone, quiet
from confitlib.util import atomic

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
TRANSFORMER_SETTINGS = "sentence_bert_config.json"
WEIGHTS = "model.safetensors"
# Sentence-Transformers reads one table, weight times vector; this file keeps the two factors.
STATIC_FACTORS = "token_factors.safetensors"
DEFAULT_MAX_LENGTH = 512
STATIC_MAX_LENGTH = 8192
LINEAR = "torch.nn.modules.linear.Identity"
POOLING_KEYS: dict[Pooling, str] = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
STEMS = (("StaticEmbedding",), ("Transformer", "Pooling"))


def save(path: Path, backbone: AnyBackbone, prefix: str, adapter: nn.Linear | None) -> None:
    """Write an encoder's parts so that `SentenceTransformer(path)` gives the vectors of `encode`."""
    path.mkdir(parents=True, exist_ok=True)
    parts = _save_backbone(backbone, path)
    if adapter is not None:
        parts.append(("Dense", _save_adapter(adapter, path / f"{len(parts)}_Dense")))
    parts.append(("Normalize", f"{len(parts)}_Normalize"))
    modules = [
        {"idx": position, "name": str(position), "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for position, (kind, folder) in enumerate(parts)
    ]
    prompts = {"prompts": {"prefix": prefix}, "default_prompt_name": "prefix"} if prefix else {}
    _write_json(path / SETTINGS, {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine", **prompts})
    _write_json(path / MODULES, modules)


def load(
    path: Path, pooling: Pooling | None, max_length: int | None, seed: int, trust_remote_code: bool
) -> tuple[AnyBackbone, str, nn.Linear | None]:
    """Backbone, prefix and adapter of a Sentence-Transformers folder.

    `pooling`, `max_length`: replace what the folder says unless None. Raises ValueError, naming the
    file, for a folder with parts that have no counterpart here.
    """
    parts = _parts(path)
    if "StaticEmbedding" in parts:
        backbone: AnyBackbone = _load_static(parts["StaticEmbedding"], pooling, max_length)
    else:
        pooling = pooling or _read_pooling(parts["Pooling"])
        length = _read_max_length(path / TRANSFORMER_SETTINGS) if max_length is None else max_length
        backbone = pretrained_backbone(str(parts["Transformer"]), pooling, length, seed, trust_remote_code)
    return backbone, _read_prefix(path), _load_adapter(parts["Dense"]) if "Dense" in parts else None


def _save_backbone(backbone: AnyBackbone, path: Path) -> list[tuple[str, str]]:
    if isinstance(backbone, StaticBackbone):
        return [("StaticEmbedding", _save_static(backbone, path / "0_StaticEmbedding"))]
    with quiet():
        backbone.model.save_pretrained(path)
    backbone.saved_tokenizer.save_pretrained(path)
    _write_json(path / TRANSFORMER_SETTINGS, {"max_seq_length": backbone.max_length, "do_lower_case": False})
    modes = {key: pooling == backbone.pooling for pooling, key in POOLING_KEYS.items()}
    _write_json(path / "1_Pooling" / "config.json", {"word_embedding_dimension": backbone.dim, **modes})
    return [("Transformer", ""), ("Pooling", "1_Pooling")]


def _save_static(backbone: StaticBackbone, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    vectors, weights = backbone.token_vectors.detach().cpu(), backbone.token_weights.detach().cpu()
    save_file({"embedding.weight": vectors * weights}, folder / WEIGHTS)
    save_file({"token_vectors": vectors, "token_weights": weights}, folder / STATIC_FACTORS)
    backbone.tokenizer.save(str(folder / "tokenizer.json"))
    return folder.name


def _load_static(folder: Path, pooling: Pooling | None, max_length: int | None) -> StaticBackbone:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if max_length is None:
        max_length = (tokenizer.truncation or {}).get("max_length", STATIC_MAX_LENGTH)
    factors = folder / STATIC_FACTORS
    if factors.is_file():
        stored = load_file(factors)
        vectors, weights = stored["token_vectors"], stored["token_weights"]
    else:  # written by another program: the table is all there is
        vectors, weights = load_file(folder / WEIGHTS)["embedding.weight"], None
    return StaticBackbone(tokenizer, vectors, weights, max_length, pooling or "mean")


def _save_adapter(adapter: nn.Linear, folder: Path) -> str:
    sizes = {"in_features": adapter.in_features, "out_features": adapter.out_features, "bias": True}
    _write_json(folder / "config.json", {**sizes, "activation_function": LINEAR})
    save_file({f"linear.{name}": tensor.cpu() for name, tensor in adapter.state_dict().items()}, folder / WEIGHTS)
    return folder.name


def _load_adapter(folder: Path) -> nn.Linear:
    config = _read_json(folder / "config.json")
    if config["activation_function"] != LINEAR or not config["bias"]:
        raise ValueError(f"{folder / 'config.json'}: only a Dense with bias and without activation can be an adapter")
    adapter = nn.Linear(config["in_features"], config["out_features"])
    weights = load_file(folder / WEIGHTS)
    adapter.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in weights.items()})
    return adapter


def _parts(path: Path) -> dict[str, Path]:
    modules = _read_json(path / MODULES)
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    known = [set(kinds) <= {*stem, "Dense", "Normalize"} and set(kinds) >= set(stem) for stem in STEMS]
    if not any(known) or len(set(kinds)) < len(kinds):
        raise ValueError(
            f"{path / MODULES}: cannot load {' + '.join(kinds)}; an encoder is "
            "StaticEmbedding or Transformer + Pooling, then at most one Dense and a Normalize"
        )
    return {kind: path / module["path"] for kind, module in zip(kinds, modules, strict=True)}


def _read_max_length(file: Path) -> int:
    settings = _read_json(file) if file.is_file() else {}
    if settings.get("do_lower_case"):
        raise ValueError(f"{file}: do_lower_case is not supported; choose a model whose tokenizer lowercases itself")
    return settings.get("max_seq_length") or DEFAULT_MAX_LENGTH


def _read_pooling(folder: Path) -> Pooling:
    config = _read_json(folder / "config.json")
    modes = [config["pooling_mode"]] if "pooling_mode" in config else []
    modes += [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    for pooling, key in POOLING_KEYS.items():
        if modes in ([pooling], [key]) and config.get("include_prompt", True):
            return pooling
    raise ValueError(f'{folder / "config.json"}: this pooling is not supported; pass pooling="mean" or "cls"')


def _read_prefix(path: Path) -> str:
    settings = _read_json(path / SETTINGS) if (path / SETTINGS).is_file() else {}
    return settings.get("prompts", {}).get(settings.get("default_prompt_name"), "")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, content: Any) -> None:
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
