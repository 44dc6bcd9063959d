"""Encoders: folders with changed or missing files, checkpoints without some weights, texts that are none, caches."""

import atexit
import itertools
import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from inputs import changed, write
from safetensors.torch import load_file, save_file
from verdicts import Case

from confitlib import load_encoder
from confitlib.encoder.vectors import cached_vectors

TEXTS = ["Nurse on a ward", "Baker", "护士"]


@cache
def folders() -> dict[str, Path]:
    """A saved static encoder, and a saved transformer of two small layers."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    root = Path(mkdtemp(prefix="hostile-encoders-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    small = root / "bert"
    small.mkdir()
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{one}" for one in "abcdefghijklmnopqrstuvwxyz"),
    ]
    write(small / "vocab.txt", "\n".join(words) + "\n")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(small)
    BertTokenizerFast(str(small / "vocab.txt")).save_pretrained(small)
    made = {"bert": small, "transformer": load_encoder(small).save(root / "saved")}
    vocabulary = load_encoder("static")
    vocabulary.backbone.token_vectors = torch.nn.Parameter(
        vocabulary.backbone.token_vectors[:, :4].clone()
    )  # small files
    made["static"] = vocabulary.save(root / "static")
    return made


@cache
def expected(kind: str) -> np.ndarray:
    """The vectors of an undamaged folder."""
    return load_encoder(folders()[kind]).encode(TEXTS, progress=False)


def copied(folder: Path, kind: str) -> Path:
    """A copy of a folder that may be damaged."""
    return shutil.copytree(folders()[kind], folder / "encoder")


def vectors_of(path: Path) -> np.ndarray:
    """What an encoder of a folder gives."""
    return load_encoder(path).encode(TEXTS, progress=False)


def damaged_files() -> Iterator[Case]:
    """Each file of an encoder's folder removed, emptied, cut or changed: the same vectors, or an error with a place."""
    for kind in ("static", "transformer"):
        files = [file.relative_to(folders()[kind]) for file in sorted(folders()[kind].rglob("*")) if file.is_file()]
        for file in files:
            raw = (folders()[kind] / file).read_bytes()
            variants: dict[str, bytes | None] = {
                "removed": None,
                "emptied": b"",
                "cut": raw[: len(raw) // 2],
                "binary": b"\xff\xfe\0" * 40,
                "a list": b"[]",
                "deep": b"[" * 50_000,
            }
            for name, content in variants.items():

                def call(
                    folder: Path, kind: str = kind, file: Path = file, content: bytes | None = content
                ) -> np.ndarray:
                    path = copied(folder, kind) / file
                    path.unlink() if content is None else path.write_bytes(content)
                    return vectors_of(folder / "encoder")

                yield Case(
                    f"{kind} {file}: {name}",
                    call,
                    lambda found, kind=kind: np.allclose(found, expected(kind), atol=1e-6),
                    (("encoder", file.name),),
                )


def missing_weights() -> Iterator[Case]:
    """A checkpoint without one of its weights, pooler aside, is refused with the weight's name."""
    weights = load_file(folders()["transformer"] / "model.safetensors")
    for name in weights:

        def call(folder: Path, name: str = name) -> np.ndarray:
            path = copied(folder, "transformer") / "model.safetensors"
            save_file({key: one for key, one in weights.items() if key != name}, path, metadata={"format": "pt"})
            return vectors_of(folder / "encoder")

        right = (lambda found: np.allclose(found, expected("transformer"), atol=1e-6)) if "pooler" in name else None
        yield Case(f"without {name}", call, right, ("encoder", name))

        def of_other_shape(folder: Path, name: str = name) -> np.ndarray:
            path = copied(folder, "transformer") / "model.safetensors"
            save_file(
                {**weights, name: weights[name].repeat(2, *[1] * (weights[name].ndim - 1))},
                path,
                metadata={"format": "pt"},
            )
            return vectors_of(folder / "encoder")

        if "pooler" not in name:
            yield Case(f"{name} of other shape", of_other_shape, None, ("encoder",))


def power() -> Iterator[Case]:
    """What a folder says of itself never widens what the caller allowed."""
    code = "import pathlib\npathlib.Path(__file__).with_name('canary').touch()\n"
    code += "from transformers import BertModel as Own, BertConfig as OwnConfig\n"
    places = [
        "config.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
        "modules.json",
        "config_sentence_transformers.json",
    ]
    extras: list[dict[str, Any]] = [
        {
            "auto_map": {"AutoModel": "own.Own", "AutoConfig": "own.OwnConfig", "AutoTokenizer": ["own.Own", None]},
            "trust_remote_code": True,
        },
        {"trust_remote_code": True},
        {"cache_folder": "x"},
        {"model_args": {"trust_remote_code": True}},
        {"config_args": {"trust_remote_code": True}},
        {"tokenizer_args": {"trust_remote_code": True}},
        {"endpoint": "http://localhost:1"},
        {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}},
    ]
    for place, extra in itertools.product(places, extras):

        def call(folder: Path, place: str = place, extra: dict[str, Any] = extra) -> np.ndarray:
            path = copied(folder, "transformer")
            write(path / "own.py", code)
            content = json.loads((path / place).read_text()) if (path / place).is_file() else {}
            write(
                path / place,
                json.dumps(
                    content | extra
                    if isinstance(content, dict)
                    else [*content, {"idx": 9, "name": "9", "path": "", "type": "own.Own", **extra}]
                ),
            )
            return vectors_of(path)

        yield Case(
            f"{place}: {json.dumps(extra)[:60]}",
            call,
            lambda found: np.allclose(found, expected("transformer"), atol=1e-6),
            ("encoder",),
        )


def texts() -> Iterator[Case]:
    """Lists of texts that hold something else, and texts that are awkward."""
    encoder = load_encoder("static")
    for value in (None, 1, 1.5, float("nan"), b"a", ["a"], {"a": 1}, True):
        yield Case(
            f"text {value!r}",
            lambda folder, value=value: encoder.encode(["ok", value], progress=False),
            None,
            ("text 1",),
        )
    for value in ("one text", None, 5):
        yield Case(
            f"texts={value!r}", lambda folder, value=value: encoder.encode(value, progress=False), None, ("text",)
        )
    for value in (
        "",
        " ",
        "\0",
        "\ud83d",
        "🙂",
        "a" * 100_000,
        "护" * 20_000,
        "\u200b",
        "[CLS] [SEP]",
        "e\u0301",
        "\n" * 1000,
    ):
        yield Case(
            f"text {value[:12]!r}",
            lambda folder, value=value: encoder.encode([value, "ok"], progress=False),
            lambda found: found.shape == (2, 384) and bool(np.isfinite(found).all()),
            ("text 0",),
        )


def caches() -> Iterator[Case]:
    """A torn or replaced file of a cache is computed again."""
    wanted = np.arange(12, dtype=np.float32).reshape(3, 4)

    def kept(folder: Path, change: Any) -> Any:
        def compute() -> np.ndarray:
            return wanted.copy()

        cached_vectors(folder, "weights", TEXTS, 4, compute)
        (file,) = folder.glob("*.safetensors")
        change(file)
        return cached_vectors(folder, "weights", TEXTS, 4, compute), cached_vectors(
            folder, "weights", TEXTS, 4, compute
        )

    pickle = b"\x80\x04cposix\nsystem\n(S'touch canary'\ntR."
    for seed in range(30):
        yield Case(
            f"changed by seed {seed}",
            lambda folder, seed=seed: kept(folder, lambda file: file.write_bytes(changed(file.read_bytes(), seed))),
            lambda both: all(np.array_equal(one, wanted) for one in both),
            None,
        )
    for name, content in {
        "empty": b"",
        "pickle": pickle,
        "zeros": b"\0" * 300,
        "long header": (2**40).to_bytes(8, "little") + b"{}",
        "text": b"hello",
    }.items():
        yield Case(
            name,
            lambda folder, content=content: kept(folder, lambda file: file.write_bytes(content)),
            lambda both: all(np.array_equal(one, wanted) for one in both),
            None,
        )


GROUPS = {
    "encoders: damaged files": damaged_files,
    "encoders: missing weights": missing_weights,
    "encoders: power of a folder": power,
    "encoders: texts": texts,
    "encoders: caches": caches,
}
