"""The steps of the static encoder, and whole runs of a transformer beside Sentence-Transformers' trainer."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.common import environment, interleaved, parser_of, report
from benchmarks.trainers import OURS, PADDED, PEER, TOP, Load, compare, first_pairs
from confitlib.corpus import SIDES, Corpus
from confitlib.encoder import load_encoder
from confitlib.market import compose
from confitlib.text import texts
from confitlib.training import PairCollator, PositivePairs, TrainingConfig, contrastive_loss, train
from confitlib.training.optimizer import RowAdam
from confitlib.training.pairs import DocumentStore
from confitlib.training.trainer import DualEncoder

STEPS = 20


def main() -> None:
    """Measure, print and, with `--json`, write."""
    options = parse()
    corpus = compose("tiny" if options.quick else "laptop", seed=0).corpus
    steps: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    if options.device == "cpu":  # where the static encoder belongs
        steps, summary = static_steps(corpus, TrainingConfig(epochs=1 if options.quick else 4))
    pairs, batch = options.pairs or (8 if options.quick else 96), options.batch or (4 if options.quick else 8)
    load = Load(
        first_pairs(corpus, pairs),
        options.encoder,
        options.max_length,
        batch,
        options.device,
        time.process_time if options.cpu_time else time.perf_counter,
    )
    rows = compare(load, rounds=1 if options.quick else 3)
    speed = {row["program"]: row["pairs/s"] for row in rows}
    summary |= {"x_sentence_transformers": speed[OURS] / speed[PEER], "x_padded": speed[OURS] / speed[PADDED]}
    if TOP in speed:
        summary["x_top_layers"] = speed[TOP] / speed[OURS]
    where = environment("transformers", "accelerate", "sentence-transformers")
    where |= {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "encoder": options.encoder,
        "pairs": str(pairs),
        "batch": str(batch),
        "max_length": str(options.max_length),
    }
    report("training", rows, summary, where, options.json, before=steps)


def parse() -> argparse.Namespace:
    """What to train, and where."""
    parser = parser_of(__doc__)
    parser.add_argument("--encoder", default="minilm", help="minilm or, for speed alone, random:e5-base")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="pairs in a batch")
    parser.add_argument("--max-length", type=int, default=512, help="tokens read of a document")
    parser.add_argument("--pairs", type=int, help="pairs to train on")
    parser.add_argument("--cpu-time", action="store_true", help="count processor seconds, on a busy machine")
    return parser.parse_args()


def static_steps(corpus: Corpus, config: TrainingConfig) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What one optimizer step of the static encoder takes on one thread, printed too; the summary of whole epochs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = {
        "RowAdam, sparse gradients": step(corpus, config, RowAdam),
        "SparseAdam, sparse gradients": step(corpus, config, torch.optim.SparseAdam),
        "Adam, dense gradients": step(corpus, config, torch.optim.Adam),
    }
    milliseconds = {name: 1e3 * value / STEPS for name, value in interleaved(steps).items()}
    ours = next(iter(milliseconds.values()))
    rows = [{"step": name, "ms": value, "x ours": value / ours} for name, value in milliseconds.items()]
    result = train(load_encoder("static", device="cpu"), corpus, config, progress=False)
    pairs = len(corpus.labelled("train", 1))
    summary = {"static_seconds": result.seconds, "static_pairs_per_s": config.epochs * pairs / result.seconds}
    summary |= {"sparse_ms": ours, "dense_ms": milliseconds["Adam, dense gradients"]}
    report("static steps", rows, summary, environment("transformers", "accelerate"))
    torch.set_num_threads(threads)
    return rows, summary


def step(corpus: Corpus, config: TrainingConfig, adam: Callable[..., torch.optim.Optimizer]) -> Callable[[], object]:
    """A call that makes `STEPS` optimizer steps on batches of the training pairs."""
    encoder = load_encoder("static", device="cpu")
    stores = {side: DocumentStore(encoder, list(texts(corpus, side))) for side in SIDES}
    pairs, collate = PositivePairs(corpus, "train"), PairCollator(stores, corpus, None)
    batches = [collate([pairs[config.batch_size * n + k] for k in range(config.batch_size)]) for n in range(STEPS)]
    optimizer = adam(list(encoder.parameters()), lr=config.learning_rate)
    return partial(_steps, DualEncoder(encoder), optimizer, batches, adam is not torch.optim.Adam)


def _steps(model: DualEncoder, optimizer: torch.optim.Optimizer, batches: list[dict[str, Any]], sparse: bool) -> None:
    for batch in batches:
        loss = contrastive_loss(
            *model(batch["resumes"], batch["jobs"]),
            masked_jobs=batch["masked_jobs"],
            masked_resumes=batch["masked_resumes"],
        )
        loss.backward()
        if not sparse:
            for parameter in model.parameters():
                parameter.grad = parameter.grad.to_dense() if parameter.grad is not None else None
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
