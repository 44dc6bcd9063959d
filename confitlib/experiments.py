"""Experiments the notebooks share: several systems with several seeds, and what each way of mining is worth."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from scipy import stats
from tqdm.auto import tqdm

from confitlib.audit import false_negatives
from confitlib.augment import recorded_answers
from confitlib.corpus import SIDES, Corpus, Side, Split
from confitlib.evaluation import evaluate_classification, evaluate_ranking, holm, summarise_runs
from confitlib.evaluation.ranking import RankingResult, Relevance
from confitlib.llm import Client
from confitlib.market import Market
from confitlib.oracles import strata
from confitlib.rankers import InBatch, Mined, Ranker, RawEmbed
from confitlib.training import TrainingConfig
from confitlib.util import RESULTS_VERSION, atomic, content_key, files_hash

IN_BATCH = "in-batch"
CUTOFFS = (10, 20, 100)
OF_NEGATIVES = {"false negatives": "rate", "hardness": "score_gap"}  # as records name them, as the audit does


@dataclass(frozen=True, eq=False)
class Measurement:
    """One fitted ranker on the test split.

    `rankings` by target, `classification`, empty off the test split; `strata`: what `confitlib.oracles.strata`
    finds, empty without a market; `mining`: exact share of `false negatives` and mean score gap to the
    positives (`hardness`: small is hard) of what was mined, over both targets, empty where nothing was or truth is
    unknown; `costs`: `fit seconds` (with indexing, and with a training that a cache has spared), `pairs per second` of
    scoring the full test pool, `parameters`; `history`: the training log, None for a ranker without one.
    """

    rankings: dict[Side, RankingResult]
    classification: dict[str, float]
    strata: dict[str, float]
    mining: dict[str, float]
    costs: dict[str, float]
    history: pd.DataFrame | None = None

    def save(self, path: Path) -> None:
        """Write a JSON file, which keeps every number exactly and runs nothing when it is read."""
        content = dict(vars(self), rankings={side: vars(result) for side, result in self.rankings.items()})
        with atomic(path) as partial:
            partial.write_text(json.dumps(content, default=lambda frame: frame.to_dict(orient="tight")))

    @staticmethod
    def load(path: Path) -> Measurement:
        """Read what `save` wrote; raises ValueError, KeyError or TypeError if the file is damaged."""
        content = json.loads(path.read_text())
        for result in content["rankings"].values():
            result["queries"] = pd.DataFrame.from_dict(result["queries"], orient="tight")
            result["notes"] = tuple(result["notes"])
        content["rankings"] = {side: RankingResult(**content["rankings"][side]) for side in SIDES}
        if content["history"] is not None:
            content["history"] = pd.DataFrame.from_dict(content["history"], orient="tight")
        return Measurement(**content)

    def means(self) -> dict[str, float]:
        """All qualities; ranking metrics are prefixed by their target: `resume recall@100`, …, `roc_auc`."""
        ranked = {f"{side} {name}": mean for side in SIDES for name, mean in self.rankings[side].means().items()}
        return {**ranked, **self.classification, **self.strata, **self.mining}


def measure(
    ranker: Ranker,
    corpus: Corpus,
    cache: str | None = None,
    *,
    relevance: Relevance | None = None,
    split: Split = "test",
    market: Market | None = None,
) -> Measurement:
    """Fit a ranker and measure it on the full pools of a split, and on the labelled pairs of the test split.

    `relevance`: who says what is relevant in a pool, as in `evaluate_ranking`. `market`: the one that the corpus comes
    from, to measure what the ranker knows of it. With `cache`, the measurement is kept
    under a key of ranker, parameters, the files these name, data and results versions, so that an interrupted
    experiment goes on where it stopped and notebooks share what they measure. A cached one leaves the ranker unfitted.
    """
    path = None
    if cache is not None:
        parts = _subject(ranker) | {"relevance": relevance, "data": corpus.fingerprint(), "version": RESULTS_VERSION}
        parts |= {"split": split, "strata": market is not None}
        path = Path(cache) / "measured" / f"{content_key(**parts)}.json"
        if path.exists():
            try:
                return Measurement.load(path)
            except (ValueError, KeyError, TypeError) as error:
                warnings.warn(f"{path} is damaged ({error!r:.80}): measured again", stacklevel=2)
    if isinstance(ranker, RawEmbed):
        ranker.progress = False  # several systems run at once, under one bar
    # 1. fit, then score the full pool: the costs
    started = time.perf_counter()
    ranker.fit(corpus)
    fitted = time.perf_counter()
    resumes, jobs = corpus.pool("resume", split), corpus.pool("job", split)
    ranker.score(resumes, jobs)
    rate = len(resumes) * len(jobs) / (time.perf_counter() - fitted)
    spent = fitted - started + getattr(ranker, "saved_seconds", 0.0)
    costs = {"fit seconds": spent, "pairs per second": rate, "parameters": ranker.n_parameters}
    # 2. the quality of rankings, classes and mined negatives
    rankings = {side: evaluate_ranking(ranker, corpus, side, split, relevance=relevance, ks=CUTOFFS) for side in SIDES}
    known = {} if market is None else strata(ranker, market, split)  # of the pool too, whose scores matchers remember
    classes = evaluate_classification(ranker, corpus).means() if split == "test" else {}
    mining: dict[str, float] = {}
    if (mined := getattr(ranker, "negatives", None)) and corpus.truth is not None:
        audits = [false_negatives(mined[side], corpus) for side in SIDES]
        mining = {name: float(np.mean([vars(one)[field] for one in audits])) for name, field in OF_NEGATIVES.items()}
    measurement = Measurement(rankings, classes, known, mining, costs, getattr(ranker, "history", None))
    if path is not None:
        measurement.save(path)
    return measurement


def _subject(ranker: Ranker) -> dict[str, Any]:
    """What decides a ranker before it learns: parameters, the files that they name, recorded answers, its retriever."""
    parameters: dict[str, Any] = {}
    for name, value in ranker.get_params(deep=False).items():
        if isinstance(value, Ranker):
            parameters[name] = _subject(value)
        elif name == "writer":
            store = value.store.path if isinstance(value, Client) else recorded_answers().parent
            model = value.model if isinstance(value, Client) else value
            parameters[name] = [model, files_hash(store) if store.exists() else None]
        elif isinstance(value, str) and value and name != "cache" and Path(value).exists():
            parameters[name] = [value, files_hash(Path(value))]
        elif name != "cache":
            parameters[name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return {"ranker": type(ranker).__name__, "parameters": parameters}


def measure_systems(
    systems: Mapping[str, Sequence[Ranker]],
    corpus: Corpus | Mapping[str, Corpus],
    workers: int = 2,
    cache: str | None = None,
    **options: Any,
) -> dict[str, list[Measurement]]:
    """Measure every ranker of every system (one a seed), `workers` at a time with one thread each.

    `corpus`: the same for all, or one for each system by name; `cache`, `options`: as in `measure`.
    """
    runs = [(name, ranker) for name, rankers in systems.items() for ranker in rankers]
    corpora = dict.fromkeys(systems, corpus) if isinstance(corpus, Corpus) else corpus
    jobs = [joblib.delayed(_on_one_thread)(one, corpora[name], cache, options) for name, one in runs]
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of the workers; this process has read it before
    warnings.filterwarnings("ignore", "A worker stopped", module="joblib")  # it is replaced, and nothing is lost
    results = joblib.Parallel(n_jobs=workers, return_as="generator")(jobs)
    done = iter(list(tqdm(results, "systems × seeds", len(jobs), unit="run")))
    return {name: [next(done) for _ in rankers] for name, rankers in systems.items()}


def _on_one_thread(ranker: Ranker, corpus: Corpus, cache: str | None, options: Mapping[str, Any]) -> Measurement:
    """Small matrices gain nothing from threads, and results must not depend on how many there are."""
    torch.set_num_threads(1)
    return measure(ranker, corpus, cache, **options)


def table_of(measured: Mapping[str, Sequence[Measurement]]) -> pd.DataFrame:
    """One row a measurement: `system`, `run` (the place of its seed), every quality and every cost."""
    runs = [(name, run, one) for name, some in measured.items() for run, one in enumerate(some)]
    return pd.DataFrame([{"system": name, "run": run, **one.means(), **one.costs} for name, run, one in runs])


def mean_queries(runs: Sequence[Measurement], target: Side) -> pd.DataFrame:
    """The metrics of every query, averaged over seeds; a frame that `compare` and `summarise` take."""
    frames = [run.rankings[target].queries for run in runs]
    return pd.concat(frames).groupby(level=0, sort=False).mean().astype({"candidates": int, "positives": int})


def ablate(
    corpus: Corpus,
    settings: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    config: TrainingConfig,
    *,
    encoder: str = "static",
    max_length: int | None = None,
    cache: str | None = None,
    workers: int = 2,
    **options: Any,
) -> pd.DataFrame:
    """Train with every mining setting and every seed, and once a seed without mined negatives, as "in-batch".

    `settings`: name to what `mine` takes, e.g. `{"runner-ups": {"strategy": "band", "lo": 0.03, "hi": 0.04}}`, and
    `refresh`, the epochs after which it is done again (`Mined`); without a strategy, name to what replaces the
    config's, e.g. `{"twice the batch": {"batch_size": 8}}`. `max_length`: tokens read of a document (`RawEmbed`).
    Returns one row a measurement: `setting, seed, quantity, value`; quantities as of `Measurement.means`, and `fit
    seconds`. `cache` and `options` as in `measure`; `workers` changes the time and nothing else.
    """
    # 1. one system a setting, one ranker a seed
    configs = [replace(config, seed=seed) for seed in seeds]
    told: dict[str, Any] = {"max_length": max_length, "cache": cache}
    unmined = {IN_BATCH: [InBatch(encoder, one, **told) for one in configs]}
    mined = {}
    for name, setting in settings.items():
        others = dict(setting)
        strategy, refresh = others.pop("strategy", None), others.pop("refresh", 0)
        if strategy is None:
            unmined[name] = [InBatch(encoder, replace(one, **others), **told) for one in configs]
        else:
            mined[name] = [Mined(encoder, one, strategy, others, refresh, **told) for one in configs]
    # 2. the in-batch runs first: all others mine with their encoders, which the cache keeps
    measured = measure_systems(unmined, corpus, workers, cache, **options)
    measured |= measure_systems(mined, corpus, workers, cache, **options)
    # 3. a row a measured quantity
    runs = [(name, seed, run) for name, some in measured.items() for seed, run in zip(seeds, some, strict=True)]
    numbers = [(name, seed, {**run.means(), "fit seconds": run.costs["fit seconds"]}) for name, seed, run in runs]
    rows = [(name, seed, *pair) for name, seed, found in numbers for pair in found.items()]
    return pd.DataFrame(rows, columns=["setting", "seed", "quantity", "value"])


def gains(measured: pd.DataFrame, by: Sequence[str] = ("seed",), reference: str = IN_BATCH) -> pd.DataFrame:
    """What every setting of an `ablate` table gained over the reference, pair by pair.

    `by`: the columns that, with `quantity`, name a pair, such as market, batch size and seed. Returns the rows of
    all other settings with a column `gain`. Raises ValueError for a row that has no reference, or more than one.
    """
    keys = [*by, "quantity"]
    base = measured[measured["setting"] == reference].set_index(keys)["value"]
    if not base.index.is_unique:
        raise ValueError(f"{reference!r} was measured twice with equal {keys}: name in `by` what tells the runs apart")
    mined = measured[(measured["setting"] != reference) & ~measured["quantity"].isin(OF_NEGATIVES)]
    pairs = pd.MultiIndex.from_frame(mined[keys])
    missing = pairs[~pairs.isin(base.index)]
    if len(missing):
        pair = ", ".join(f"{key} {value}" for key, value in zip(keys, missing[0], strict=True))
        raise ValueError(f"no row of {reference!r} for {pair}: measure it too")
    return mined.assign(gain=mined["value"].to_numpy() - base.loc[pairs].to_numpy())


def judge_gains(gained: pd.DataFrame, by: Sequence[str] = ("setting", "quantity")) -> pd.DataFrame:
    """Mean gain of every group over its pairs, Student's interval, and the p-value of the paired t-test.

    Returns what `summarise_runs` does, `p_value`, and `p_holm`, adjusted for all groups of a quantity.
    """
    table = summarise_runs(gained, by, "gain")
    half, freedom = (table["high"] - table["mean"]), table["n"] - 1
    table["p_value"] = 2 * stats.t.sf((table["mean"] / half).abs() * stats.t.ppf(0.975, freedom), freedom)
    grouped = table.groupby("quantity", sort=False)["p_value"]
    return table.assign(p_holm=grouped.transform(lambda values: holm(values.to_numpy())))


def thin_labels(corpus: Corpus, share: float, seed: int = 0) -> Corpus:
    """The same corpus with a random share of its training labels: a market where less is known.

    Documents, truth and the other splits stay. Raises ValueError unless 0 < share <= 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: keep more than 0 and at most 1 of the labels")
    stays = np.random.default_rng(seed).random(len(corpus.labels)) < share
    stays |= (corpus.labels["split"] != "train").to_numpy()
    return replace(corpus, labels=corpus.labels[stays].reset_index(drop=True))


def band_name(lo: float, hi: float) -> str:
    """A band as metric names spell it: "3-4%", or "no band" for training without mined negatives."""
    return "no band" if pd.isna(lo) else f"{100 * lo:g}-{100 * hi:g}%"
