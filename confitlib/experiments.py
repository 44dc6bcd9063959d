"""Experiments the notebooks share: several systems with several seeds, and the percentile ablation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import joblib
import pandas as pd
import torch
from tqdm.auto import tqdm

from confitlib.audit import false_negatives
from confitlib.corpus import SIDES, Corpus, Side
from confitlib.evaluation import RankingResult, compare, evaluate_classification, evaluate_ranking, holm
from confitlib.rankers import ConFitV2, InBatch, Ranker
from confitlib.training import TrainingConfig

Band = Sequence[float]


@dataclass(frozen=True, eq=False)
class Measurement:
    """One fitted ranker on the test split: both rankings, classification, and the seconds to fit and index."""

    rankings: dict[Side, RankingResult]
    classification: dict[str, float]
    seconds: float

    def means(self) -> dict[str, float]:
        """All metrics, ranking metrics prefixed by their target: `resume recall@100`, …, `roc_auc`."""
        ranked = {f"{side} {name}": mean for side in SIDES for name, mean in self.rankings[side].means().items()}
        return {**ranked, **self.classification}


def measure(ranker: Ranker, corpus: Corpus) -> Measurement:
    """Fit a ranker and measure it on the full test pools and the labelled test pairs."""
    started = time.perf_counter()
    ranker.fit(corpus)
    seconds = time.perf_counter() - started
    rankings = {side: evaluate_ranking(ranker, corpus, side) for side in SIDES}
    return Measurement(rankings, evaluate_classification(ranker, corpus).means(), seconds)


def measure_systems(
    systems: Mapping[str, Sequence[Ranker]], corpus: Corpus, workers: int = 2
) -> dict[str, list[Measurement]]:
    """Measure every ranker of every system (one a seed), `workers` at a time with one thread each."""
    tasks = [(name, ranker) for name, rankers in systems.items() for ranker in rankers]
    jobs = [joblib.delayed(_on_one_thread)(measure, ranker, corpus) for _, ranker in tasks]
    measured: dict[str, list[Measurement]] = {name: [] for name in systems}
    for (name, _), outcome in zip(tasks, _in_parallel(jobs, workers, "systems × seeds"), strict=True):
        measured[name].append(outcome)
    return measured


def table_of(measured: Mapping[str, Sequence[Measurement]]) -> pd.DataFrame:
    """One row a measurement: `system`, `run` (the place of its seed), every metric and `seconds`."""
    return pd.DataFrame(
        {"system": name, "run": run, **one.means(), "seconds": one.seconds}
        for name, runs in measured.items()
        for run, one in enumerate(runs)
    )


def mean_queries(runs: Sequence[Measurement], target: Side) -> pd.DataFrame:
    """The metrics of every query, averaged over seeds; a frame that `compare` and `summarise` take."""
    frames = [run.rankings[target].queries for run in runs]
    return pd.concat(frames).groupby(level=0, sort=False).mean().astype({"candidates": int, "positives": int})


def compare_with(
    reference: str, measured: Mapping[str, Sequence[Measurement]], target: Side, metric: str, seed: int = 0
) -> pd.DataFrame:
    """The reference against every other system: mean difference over queries, interval, Holm-adjusted p."""
    own = mean_queries(measured[reference], target)
    others = [name for name in measured if name != reference]
    tests = [compare(own, mean_queries(measured[name], target), metric, seed) for name in others]
    rows = [{"against": name, **vars(test)} for name, test in zip(others, tests, strict=True)]
    return pd.DataFrame(rows).assign(p_holm=holm([test.p_value for test in tests]))


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
    `workers` changes the time and nothing else.
    """
    unmined = [(None, seed) for seed in seeds]  # first, because every band mines with these encoders
    rows = []
    for stage in (unmined, [(band, seed) for band in bands for seed in seeds]):
        jobs = [
            joblib.delayed(_on_one_thread)(_measure_band, corpus, band, replace(config, seed=seed), encoder, cache)
            for band, seed in stage
        ]
        for (band, seed), measured in zip(stage, _in_parallel(jobs, workers, "bands × seeds"), strict=True):
            lo, hi = band or (float("nan"), float("nan"))
            rows += [{"lo": lo, "hi": hi, "seed": seed, "quantity": q, "value": v} for q, v in measured.items()]
    return pd.DataFrame(rows)


def band_gains(records: pd.DataFrame) -> pd.DataFrame:
    """What every band gained over training without mined negatives, from each seed's newest record of notebook 05.

    Returns one row a seed, quantity and band: `seed, quantity, band, gain`.
    """
    newest = records[records["notebook"] == "05"].drop_duplicates("seed", keep="last")
    rows = []
    for seed, metrics in newest[["seed", "metrics"]].itertuples(index=False):
        for name, value in metrics.items():
            quantity, _, band = name.partition(".")
            unmined = metrics.get(f"{quantity}.no band")
            if unmined is not None and band != "no band":
                rows.append({"seed": seed, "quantity": quantity, "band": band, "gain": value - unmined})
    return pd.DataFrame(rows, columns=["seed", "quantity", "band", "gain"])


def band_name(lo: float, hi: float) -> str:
    """A band as metric names spell it: "3-4%", or "no band" for training without mined negatives."""
    return "no band" if pd.isna(lo) else f"{100 * lo:g}-{100 * hi:g}%"


def _measure_band(
    corpus: Corpus, band: Band | None, config: TrainingConfig, encoder: str, cache: str | None
) -> dict[str, float]:
    ranker = (
        ConFitV2(encoder, config, (band[0], band[1]), cache=cache) if band else InBatch(encoder, config, cache=cache)
    )
    ranker.fit(corpus)
    rankings = {side: evaluate_ranking(ranker, corpus, side).means() for side in SIDES}
    measured = {f"{side} {metric}": value for side in SIDES for metric, value in rankings[side].items()}
    if band and corpus.truth is not None:
        audits = [false_negatives(ranker.negatives[side], corpus) for side in SIDES]
        measured["false negatives"] = sum(audit.rate for audit in audits) / len(audits)
        measured["hardness"] = sum(audit.hardness for audit in audits) / len(audits)
    return measured


def _in_parallel(jobs: list[Any], workers: int, what: str) -> Iterator[Any]:
    """Results of joblib tasks in order, with a progress bar."""
    results = joblib.Parallel(n_jobs=workers, return_as="generator")(jobs)
    return iter(tqdm(results, total=len(jobs), desc=what, unit="run"))


def _on_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Small matrices gain nothing from threads, and results must not depend on how many there are."""
    torch.set_num_threads(1)
    return function(*arguments)
