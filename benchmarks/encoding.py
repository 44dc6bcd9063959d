"""Encoding speed beside Sentence-Transformers, what the cache saves, and the cost of a static training step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import arguments, bandwidth, environment, interleaved, product_rate, report
from confitlib.corpus import SIDES
from confitlib.encoder import TextEncoder, load_encoder
from confitlib.market import compose
from confitlib.text import texts

OURS, CACHED = "confitlib", "confitlib, cached"
PEER, PEER_SMALL = "sentence-transformers", "sentence-transformers, batch 8"
STEP_DOCUMENTS, STEP_TOKENS = 12, 200


def main() -> None:
    """Measure, print and, with `--json`, write."""
    options = arguments(__doc__)
    documents = market_texts("tiny" if options.quick else "laptop")
    counts = {"static": 400, "minilm": 24} if options.quick else {"static": 4000, "minilm": 400}
    rows: list[dict[str, Any]] = []
    summary: dict[str, float] = {}
    for name, count in counts.items():
        encoder = load_encoder(name, device="cpu")
        seconds, difference = compare(encoder, documents[:count])
        floor = floor_seconds(encoder, documents[:count])
        rows += [row(name, program, count, seconds, floor) for program in seconds]
        summary |= {f"{name}_texts_per_s": count / seconds[OURS], f"{name}_ratio": seconds[PEER] / seconds[OURS]}
        summary |= {f"{name}_ratio_batch8": seconds[PEER_SMALL] / seconds[OURS], f"{name}_difference": difference}
    summary["static_step_ms"] = static_step_seconds(documents) * 1e3
    report("encoding", rows, summary, environment("sentence-transformers", "transformers", "tokenizers"), options.json)


def market_texts(preset: str) -> list[str]:
    """Documents of both sides of a market, in a fixed random order."""
    corpus = compose(preset, seed=0).corpus
    documents = np.concatenate([texts(corpus, side).to_numpy(dtype=object) for side in SIDES])
    return list(np.random.default_rng(0).permutation(documents))


def encode_afresh(encoder: TextEncoder, documents: list[str]) -> None:
    """Encode texts that were never tokenised before."""
    encoder.forget()
    encoder.encode(documents, progress=False)


def compare(encoder: TextEncoder, documents: list[str]) -> tuple[dict[str, float], float]:
    """Median seconds of every program on the same weights, texts and length, and the largest difference."""
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as folder:
        peer = SentenceTransformer(str(encoder.save(Path(folder) / "model")), device="cpu")
        cache = Path(folder) / "cache"
        difference = np.abs(encoder.encode(documents, progress=False, cache=cache) - peer.encode(documents)).max()
        calls: dict[str, Callable[[], object]] = {
            OURS: lambda: encode_afresh(encoder, documents),
            PEER: lambda: peer.encode(documents, show_progress_bar=False),
            PEER_SMALL: lambda: peer.encode(documents, batch_size=8, show_progress_bar=False),
            CACHED: lambda: encoder.encode(documents, progress=False, cache=cache),
        }
        return interleaved(calls), float(difference)


def floor_seconds(encoder: TextEncoder, documents: list[str]) -> float:
    """Seconds that no program can go below here.

    Static: its token vectors read once at the measured bandwidth. Transformer: the products of its
    layers (2 operations a weight and token) and of attention, at the measured product rate.
    """
    lengths = np.array([len(ids) for ids in encoder.tokenize(documents)], dtype=np.float64)
    if encoder.static:
        return lengths.sum() * encoder.dim * 4 / bandwidth()
    layers = encoder.layers()
    weights = sum(parameter.numel() for parameter in layers.parameters() if parameter.ndim == 2)
    operations = 2 * weights * lengths.sum() + 4 * len(layers) * encoder.dim * np.square(lengths).sum()
    return float(operations) / product_rate(1024, encoder.dim, 4 * encoder.dim)


def static_step_seconds(documents: list[str]) -> float:
    """Forward and backward of the static encoder for one batch of equally long documents."""
    encoder = load_encoder("static", device="cpu")
    ids = [np.resize(row, STEP_TOKENS) for row in encoder.tokenize(documents[:STEP_DOCUMENTS])]

    def step() -> None:
        encoder.zero_grad()
        encoder(encoder.collate(ids)).square().sum().backward()

    return interleaved({"step": step}, repeats=20)["step"]


def row(encoder: str, program: str, count: int, seconds: dict[str, float], floor: float) -> dict[str, Any]:
    """One line of the table; `x ours` above 1 means that confitlib is faster."""
    return {
        "encoder": encoder,
        "program": program,
        "texts": count,
        "texts/s": count / seconds[program],
        "x ours": seconds[program] / seconds[OURS],
        "floor, texts/s": count / floor,
    }


if __name__ == "__main__":
    main()
