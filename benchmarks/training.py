"""Four epochs of the static encoder on the laptop market, and what sparse updates save in one step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.common import arguments, environment, interleaved, report
from confitlib.corpus import SIDES, Corpus
from confitlib.encoder import load_encoder
from confitlib.market import compose
from confitlib.training import (
    DocumentStore,
    DualEncoder,
    PairCollator,
    PositivePairs,
    RowAdam,
    TrainingConfig,
    contrastive_loss,
    train,
)

STEPS = 20


def main() -> None:
    """Measure, print and, with `--json`, write."""
    options = arguments(__doc__)
    corpus = compose("laptop", seed=0).corpus
    config = TrainingConfig(epochs=1 if options.quick else 4)
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
    summary = {
        "epochs": config.epochs,
        "seconds": result.seconds,
        "pairs_per_s": config.epochs * pairs / result.seconds,
    }
    summary |= {"sparse_ms": ours, "dense_ms": milliseconds["Adam, dense gradients"]}
    report("training", rows, summary, environment("transformers", "accelerate"), options.json)


def step(corpus: Corpus, config: TrainingConfig, adam: Callable[..., torch.optim.Optimizer]) -> Callable[[], object]:
    """A call that makes `STEPS` optimizer steps on batches of the training pairs."""
    encoder = load_encoder("static", device="cpu")
    stores = {side: DocumentStore(encoder, corpus, side, frozen=False) for side in SIDES}
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
