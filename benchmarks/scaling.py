"""How cost grows: seconds of every step against corpus size, fitted power laws, and what the hardware allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import arguments, bandwidth, environment, interleaved, product_rate, report
from confitlib.corpus import SIDES, Corpus
from confitlib.encoder import load_encoder
from confitlib.evaluation import rank_metrics
from confitlib.market import compose
from confitlib.mining import Embeddings, mine
from confitlib.text import texts
from confitlib.training import TrainingConfig, train

RESUMES_A_JOB = 2.5  # of the laptop market
HELD_OUT: dict[str, Any] = {f"{split}_{side}s": 20 for split in ("valid", "test") for side in SIDES}
FLOAT = 4  # bytes
PASSES = 8  # over a token vector in a training step: read, write its gradient, read and write it and both moments
SIZES = {True: (350, 700), False: (1400, 2800, 5600, 11200, 22400)}  # quick or not: training documents


def main() -> None:
    """Measure, print and, with `--json`, write."""
    options = arguments(__doc__)
    costs = measure_costs(SIZES[options.quick])
    laws = fit_power_laws(costs)
    summary = {f"{step}_exponent": float(law["exponent"]) for step, law in laws.iterrows()}
    rows = [{str(name): value for name, value in row.items()} for row in costs.to_dict("records")]
    report("scaling", rows, summary, environment(), options.json)


def measure_costs(sizes: Sequence[int], seed: int = 0, repeats: int = 1) -> pd.DataFrame:
    """Seconds to encode, mine, train one epoch and evaluate markets of so many training documents.

    With the static encoder on this machine. Returns one row a step and size: `step, documents, seconds` (median
    of `repeats`) and `floor`, the seconds that the measured product rate and memory bandwidth allow.
    """
    operations, memory = product_rate(512, 384, 4096), bandwidth()
    rows = []
    for size in [min(sizes), *sizes]:  # the first round pays for imports and is dropped
        jobs = round(size / (1 + RESUMES_A_JOB))
        corpus = compose("laptop", seed, train_resumes=size - jobs, train_jobs=jobs, **HELD_OUT).corpus
        for step, (call, work, data) in _steps(corpus, seed).items():
            seconds, floor = interleaved({step: call}, repeats)[step], work / operations + data / memory
            rows.append({"step": step, "documents": size, "seconds": seconds, "floor": floor})
    return pd.DataFrame(rows[len(rows) // (len(sizes) + 1) :])


def _steps(corpus: Corpus, seed: int) -> Mapping[str, tuple[Callable[[], object], float, float]]:
    """Each step as a call, the operations of its matrix products, and the bytes it cannot avoid to move."""
    encoder = load_encoder("static", device="cpu")
    vectors = Embeddings.of_corpus(encoder, corpus)
    resumes, jobs = (corpus.pool(side, "train") for side in SIDES)
    pairs, dim = len(resumes) * len(jobs), encoder.dim
    both = [text for side in SIDES for text in texts(corpus, side)]
    accepted = corpus.labelled("train", 1)
    trained = [text for side in SIDES for text in texts(corpus, side).loc[accepted[f"{side}_id"]]]
    token_bytes, trained_bytes = (FLOAT * dim * sum(map(len, encoder.tokenize(some))) for some in (both, trained))
    config = TrainingConfig(epochs=1, seed=seed)

    def evaluate() -> object:
        rows, columns = corpus.positions("resume", resumes), corpus.positions("job", jobs)
        return rank_metrics(vectors.jobs[columns] @ vectors.resumes[rows].T, corpus.suitable(resumes, jobs).T)

    def train_one() -> object:
        return train(load_encoder("static", device="cpu"), corpus, config, progress=False)

    mine_all = partial(mine, "band", corpus, target="resume", embeddings=vectors, n=4, seed=seed, queries="train")
    return {
        "encode": (partial(encoder.encode, both, progress=False), 0.0, token_bytes),
        "mine": (mine_all, 2.0 * pairs * dim, 0.0),
        "train": (train_one, 0.0, PASSES * trained_bytes),
        "evaluate": (evaluate, 2.0 * pairs * dim, FLOAT * pairs),
    }


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
        floors = largest["seconds"] / largest["floor"]
        rows[step] = {"factor": np.exp(constant), "exponent": exponent, "x floor": floors}
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


if __name__ == "__main__":
    main()
