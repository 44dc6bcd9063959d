"""How cost grows: seconds of every step against corpus size, fitted power laws, and what the hardware allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from confitlib.corpus import Corpus, Side
from confitlib.encoder import TextEncoder, load_encoder
from confitlib.evaluation import rank_metrics
from confitlib.market import compose
from confitlib.mining import Embeddings, mine
from confitlib.scale.floors import bandwidth, median_seconds, product_rate
from confitlib.text import texts
from confitlib.training import TrainingConfig, train

RESUMES_A_JOB = 2.5  # of the laptop market
FLOAT = 4  # bytes
PASSES = 8  # over a token vector in a training step: read, write its gradient, read and write it and both moments


def measure_costs(sizes: Sequence[int], seed: int = 0, repeats: int = 1) -> pd.DataFrame:
    """Seconds to encode, mine, train one epoch and evaluate markets of so many training documents.

    With the static encoder on this machine. Returns one row a step and size: `step, documents, seconds` (median
    of `repeats`) and `floor`, the seconds that the measured product rate and memory bandwidth allow.
    """
    operations, memory = product_rate(512, 384, 4096), bandwidth()
    rows = []
    for size in [min(sizes), *sizes]:  # the first round pays for imports and is dropped
        corpus = compose("laptop", seed, **_market_of(size)).corpus
        for step, (call, work, data) in _steps(corpus, seed).items():
            floor = work / operations + data / memory
            row = {"step": step, "documents": size, "seconds": median_seconds(call, repeats), "floor": floor}
            rows.append(row)
    return pd.DataFrame(rows[len(rows) // (len(sizes) + 1) :])


def _market_of(size: int) -> dict[str, Any]:
    jobs = round(size / (1 + RESUMES_A_JOB))
    held_out = {f"{split}_{side}s": 20 for split in ("valid", "test") for side in ("resume", "job")}
    return {"train_resumes": size - jobs, "train_jobs": jobs, **held_out}


def _steps(corpus: Corpus, seed: int) -> Mapping[str, tuple[Callable[[], object], float, float]]:
    """Each step as a call, the operations of its matrix products, and the bytes it cannot avoid to move."""
    encoder = load_encoder("static", device="cpu")
    vectors = Embeddings.of_corpus(encoder, corpus)
    resumes, jobs = (corpus.pool(side, "train") for side in ("resume", "job"))
    pairs, dim = len(resumes) * len(jobs), encoder.dim
    both = list(texts(corpus, "resume")) + list(texts(corpus, "job"))
    token_bytes = FLOAT * dim * sum(map(len, encoder.tokenize(both)))
    accepted = corpus.labelled("train", 1)
    trained = FLOAT * dim * _tokens_of(encoder, corpus, accepted)
    config = TrainingConfig(epochs=1, seed=seed)
    return {
        "encode": (lambda: encoder.encode(both, progress=False), 0.0, token_bytes),
        "mine": (lambda: _mine(corpus, vectors, seed), 2.0 * pairs * dim, 0.0),
        "train": (lambda: train(load_encoder("static", device="cpu"), corpus, config, progress=False), 0.0,
                  PASSES * trained),
        "evaluate": (lambda: _evaluate(corpus, vectors), 2.0 * pairs * dim, FLOAT * pairs),
    }  # fmt: skip


def _tokens_of(encoder: TextEncoder, corpus: Corpus, pairs: pd.DataFrame) -> int:
    """Tokens that one pass over labelled pairs reads."""
    sides: tuple[Side, Side] = ("resume", "job")
    listed = [text for side in sides for text in texts(corpus, side).loc[pairs[f"{side}_id"]]]
    return sum(map(len, encoder.tokenize(listed)))


def _mine(corpus: Corpus, vectors: Embeddings, seed: int) -> object:
    return mine("band", corpus, target="resume", embeddings=vectors, n=4, seed=seed, queries="train")


def _evaluate(corpus: Corpus, vectors: Embeddings) -> object:
    resumes, jobs = corpus.pool("resume", "train"), corpus.pool("job", "train")
    rows, columns = corpus.positions("resume", resumes), corpus.positions("job", jobs)
    scores = vectors.jobs[columns] @ vectors.resumes[rows].T
    return rank_metrics(scores, corpus.suitable(resumes, jobs).T)


def fit_power_laws(costs: pd.DataFrame) -> pd.DataFrame:
    """`seconds = factor * documents ** exponent` for every step, by least squares on logarithms.

    costs: as of `measure_costs`. Returns one row a step: `factor`, `exponent`, and `x floor`, the seconds of the
    largest size over its floor. Raises ValueError for a step measured at fewer than two sizes.
    """
    rows = {}
    for step, part in costs.groupby("step", sort=False):
        if part["documents"].nunique() < 2:
            raise ValueError(f"step {step!r} was measured at one size: a slope needs two")
        exponent, constant = np.polyfit(np.log(part["documents"]), np.log(part["seconds"]), 1)
        largest = part.sort_values("documents").iloc[-1]
        rows[step] = {
            "factor": np.exp(constant),
            "exponent": exponent,
            "x floor": largest["seconds"] / largest["floor"],
        }
    return pd.DataFrame(rows).T.rename_axis("step")


def extrapolate(
    costs: pd.DataFrame, orders: Mapping[str, int], documents: Sequence[int], processes: int
) -> pd.DataFrame:
    """Hours of every step for larger corpora, from the largest measured one.

    orders: the power of the number of documents that a step's work grows with (1 or 2), which is known from what
    it does; a fitted exponent from small sizes is not safe over decades. processes: how many processes as fast as
    the one measured share the work evenly. Returns `[step, documents]`.
    """
    last = costs.sort_values("documents").groupby("step", sort=False)[["documents", "seconds"]].last()
    power = pd.Series(orders)
    hours = {n: last["seconds"] * (n / last["documents"]) ** power / processes / 3600 for n in documents}
    return pd.DataFrame(hours).rename_axis("step").loc[list(orders)]
