"""The percentile ablation: train once for every band and seed, and measure what the band did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch
from tqdm.auto import tqdm

from confitlib.audit import false_negatives
from confitlib.corpus import SIDES, Corpus
from confitlib.evaluation import evaluate_ranking
from confitlib.rankers import ConFitV2, InBatch
from confitlib.training import TrainingConfig

Band = tuple[float, float]


def ablate_bands(
    corpus: Corpus,
    bands: Sequence[Band],
    seeds: Sequence[int],
    config: TrainingConfig,
    *,
    encoder: str = "static",
    cache: str | None = None,
    workers: int = 2,
) -> pd.DataFrame:
    """Train on every band of percentiles with every seed, and without mined negatives for comparison.

    Returns one row a measurement: `lo, hi` (NaN without mined negatives), `seed`, `quantity`, `value`.
    Quantities: test metrics by target (`resume recall@100`, …), and for the mined negatives the exact
    `false negatives` (share) and `hardness` (mean score gap to the positive), averaged over both targets.
    Every run is deterministic and uses one thread, so `workers` changes the time and nothing else.
    """
    tasks = list(product([None, *bands], seeds))
    first = [task for task in tasks if task[0] is None]  # the encoders that the others mine with
    rows: list[dict[str, Any]] = []
    bar = tqdm(total=len(tasks), desc="bands × seeds", unit="run")
    for stage in (first, [task for task in tasks if task[0] is not None]):
        runs = joblib.Parallel(n_jobs=workers, return_as="generator")(
            joblib.delayed(_measure)(corpus, band, replace(config, seed=seed), encoder, cache) for band, seed in stage
        )
        for (band, seed), measured in zip(stage, runs, strict=True):
            lo, hi = band or (float("nan"), float("nan"))
            rows += [{"lo": lo, "hi": hi, "seed": seed, "quantity": q, "value": v} for q, v in measured.items()]
            bar.update()
    bar.close()
    return pd.DataFrame(rows)


def _measure(
    corpus: Corpus, band: Band | None, config: TrainingConfig, encoder: str, cache: str | None
) -> dict[str, float]:
    torch.set_num_threads(1)
    ranker = ConFitV2(encoder, config, band, cache=cache) if band else InBatch(encoder, config, cache=cache)
    ranker.fit(corpus)
    measured = {
        f"{target} {metric}": value
        for target in SIDES
        for metric, value in evaluate_ranking(ranker, corpus, target).means().items()
    }
    if band and corpus.truth is not None:
        audits = [false_negatives(negatives, corpus) for negatives in ranker.negatives.values()]
        measured["false negatives"] = sum(audit.rate for audit in audits) / len(audits)
        measured["hardness"] = sum(audit.hardness for audit in audits) / len(audits)
    return measured
