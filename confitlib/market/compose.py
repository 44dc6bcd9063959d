"""The call that composes a market: latents, texts, applications, candidate lists and truth, in memory or in files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from confitlib.corpus import ANY_SPLIT, RANKING_COLUMNS, SIDES, SPLITS, Corpus, Side, Split, empty_frame
from confitlib.market import world
from confitlib.market.labels import Activity, Rng, candidate_lists, draw_labels
from confitlib.market.texts import Bank, load_bank, write_documents
from confitlib.market.world import Latents
from confitlib.util import atomic, claim

Regime = Literal["cold", "warm"]
WARM_SHARES = (0.8, 0.1, 0.1)  # of the labels, by split


@dataclass(frozen=True)
class Preset:
    """A market by numbers.

    `activity`, `held_out_activity`: applications of the train split, and of valid and test;
    `queries`: most candidate lists per target and held-out split; `families`: families of
    occupations (12 in all); `classification`: accepted and rejected pairs kept as labels of valid
    and of test (None: all); `list_positives`: mean positives of a candidate list of resumes and of
    jobs (None: as they come).
    """

    name: str
    train_resumes: int
    train_jobs: int
    valid_resumes: int
    valid_jobs: int
    test_resumes: int
    test_jobs: int
    activity: Activity
    held_out_activity: Activity
    queries: int
    families: int = 12
    classification: tuple[int, int] | None = None
    list_positives: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in [f"{split}_{side}s" for split in SPLITS for side in SIDES]:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 1 <= self.families <= 12:
            raise ValueError(f"families must be from 1 to 12, not {self.families}")

    def sizes(self, side: Side) -> dict[Split, int]:
        """Documents of a side by split."""
        return {split: getattr(self, f"{split}_{side}s") for split in SPLITS}


TINY = Preset(
    name="tiny", train_resumes=240, train_jobs=100, valid_resumes=80, valid_jobs=40, test_resumes=120, test_jobs=60,
    activity=Activity(per_resume=2.92, per_job=7.0, most_per_resume=5, most_per_job=14, pull=10.0),
    held_out_activity=Activity(per_resume=2.0, per_job=4.0, most_per_resume=4, most_per_job=8, pull=12.0),
    queries=40, families=3,
)  # fmt: skip

LAPTOP = Preset(
    name="laptop",
    train_resumes=2_000, train_jobs=800, valid_resumes=300, valid_jobs=120, test_resumes=1_000, test_jobs=300,
    activity=Activity(per_resume=2.85, per_job=7.125, most_per_resume=6, most_per_job=20, pull=9.0),
    held_out_activity=Activity(per_resume=1.7, per_job=4.25, most_per_resume=4, most_per_job=12, pull=12.0),
    queries=300,
)  # fmt: skip

# The two corpora of the ConFit papers, as counted from the label files released with ConFit v1.
# Documents that occur in no label there fill up the train split to the published row counts.
INTELLIPRO = Preset(
    name="intellipro",
    train_resumes=11_153, train_jobs=1_794, valid_resumes=1_154, valid_jobs=188, test_resumes=1_154, test_jobs=427,
    activity=Activity(per_resume=6_751 / 6_435, per_job=6_751 / 1_794, most_per_resume=4, most_per_job=43, pull=5.6),
    held_out_activity=Activity(per_resume=1.3, per_job=8.3, most_per_resume=4, most_per_job=26, pull=6.5),
    queries=120, classification=(48, 72), list_positives=(3.92, 1.10),
)  # fmt: skip

ALIYUN = Preset(
    name="aliyun",
    train_resumes=2_781, train_jobs=19_542, valid_resumes=678, valid_jobs=3_179, test_resumes=1_006, test_jobs=3_179,
    activity=Activity(per_resume=22_124 / 2_718, per_job=22_124 / 19_542, most_per_resume=37, most_per_job=4, pull=6.0),
    held_out_activity=Activity(per_resume=8.8, per_job=1.2, most_per_resume=28, most_per_job=5, pull=7.0),
    queries=300, classification=(133, 167), list_positives=(1.33, 4.55),
)  # fmt: skip

PRESETS = {preset.name: preset for preset in (TINY, LAPTOP, INTELLIPRO, ALIYUN)}


@dataclass(frozen=True, eq=False, repr=False)
class Market:
    """A composed corpus with its latents.

    `resumes`, `jobs`: latents by id, in the order of `corpus.resumes` and `corpus.jobs`; columns
    family, occupation, level, city, degree, years, skills (a tuple of skill ids: held by a resume,
    required by a job). `skills`, `occupations`: names by id.
    """

    corpus: Corpus
    preset: Preset
    seed: int
    resumes: pd.DataFrame
    jobs: pd.DataFrame
    skills: pd.Series
    occupations: pd.Series
    latents: dict[Side, Latents]

    def __repr__(self) -> str:
        return f"Market({self.corpus.name!r}: {len(self.resumes):,} resumes, {len(self.jobs):,} jobs)"

    def coverage(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> NDArray[np.float32]:
        """The share of required skills that is covered, `[n_resume_ids, n_job_ids]`."""
        rows, columns = self.corpus.positions("resume", resume_ids), self.corpus.positions("job", job_ids)
        return world.coverage(self.latents["resume"].rows(rows), self.latents["job"].rows(columns))


def compose(preset: str = "laptop", seed: int = 0, regime: Regime = "cold", **overrides: Any) -> Market:
    """Compose a market; the same preset, seed, regime and overrides always give the same corpus.

    `regime`: "cold" splits documents, "warm" splits labels: every document has split `any` and applies as
    `activity` says, and 80 % of the labels train, the rest is divided between valid and test; there are no
    candidate lists, so rank pools by labels. `overrides` replace fields of the preset, e.g.
    `train_resumes=20_000`. Raises ValueError for an unknown preset, regime or field.
    """
    if regime not in get_args(Regime):
        raise ValueError(f"regime {regime!r} is unknown: use one of {get_args(Regime)}")
    numbers, splits = _resolve(preset, overrides), {}
    for side in SIDES:
        sizes = numbers.sizes(side)
        splits[side] = np.repeat(list(sizes) if regime == "cold" else [ANY_SPLIT] * len(sizes), list(sizes.values()))
    bank = load_bank(numbers.families)
    latents, documents, judging = _draw_documents(bank, splits, np.random.default_rng(seed))
    labels, rankings = (_judge if regime == "cold" else _judge_warm)(numbers, bank, latents, documents, judging)
    corpus = Corpus(
        documents["resume"],
        documents["job"],
        labels,
        rankings,
        truth=world.suitable_pairs(latents["resume"], latents["job"]),
        name=f"market-{numbers.name}-{seed}" + ("-warm" if regime == "warm" else ""),
        regime=regime,
    )
    return Market(
        corpus=corpus,
        preset=numbers,
        seed=seed,
        resumes=world.describe(latents["resume"], bank, corpus.resumes.index),
        jobs=world.describe(latents["job"], bank, corpus.jobs.index),
        skills=pd.Series({skill.id: skill.name for skill in bank.skills}, name="skill"),
        occupations=pd.Series({entry.id: entry.name for entry in bank.occupations}, name="occupation"),
        latents=latents,
    )


def _resolve(name: str, overrides: dict[str, Any]) -> Preset:
    """A preset by name with some fields replaced; raises ValueError for an unknown name or field."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    names = [field.name for field in fields(Preset)]
    unknown = sorted(set(overrides) - set(names))
    if unknown:
        raise ValueError(f"unknown override {unknown[0]!r}: a preset has {', '.join(names)}")
    return replace(PRESETS[name], **overrides)


def _draw_documents(
    bank: Bank, splits: dict[Side, NDArray[np.str_]], rng: Rng, prefix: str = ""
) -> tuple[dict[Side, Latents], dict[Side, pd.DataFrame], Rng]:
    """Latents and texts of both sides, and a generator for the labels.

    What is not for training is written with phrases that training never sees.
    """
    *streams, judging = rng.spawn(5)
    latents, documents = {}, {}
    for side, latent_stream, text_stream in zip(SIDES, streams[:2], streams[2:], strict=True):
        n, held_out = len(splits[side]), ~np.isin(splits[side], ["train", ANY_SPLIT])
        ids = pd.Index([f"{side[0].upper()}{prefix}{number:06d}" for number in range(n)], name=f"{side}_id")
        latents[side] = world.draw_latents(bank, side, n, latent_stream)
        frame = write_documents(bank, side, latents[side], held_out, text_stream)
        documents[side] = frame.assign(split=splits[side]).set_index(ids)
    return latents, documents, judging


def _judge(
    preset: Preset, bank: Bank, latents: dict[Side, Latents], documents: dict[Side, pd.DataFrame], rng: Rng
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels of every split, and the candidate lists of valid and test."""
    tables, lists = [], []
    for split in SPLITS:
        rows = {side: np.flatnonzero(documents[side]["split"] == split) for side in SIDES}
        pools = {side: documents[side].index[rows[side]] for side in SIDES}
        members = {side: latents[side].rows(rows[side]) for side in SIDES}
        activity = preset.activity if split == "train" else preset.held_out_activity
        table = draw_labels(bank, members, pools, activity, split, rng)
        if split != "train":
            lists.append(candidate_lists(table, pools, split, preset.queries, preset.list_positives, rng))
            if preset.classification:  # so many accepted and rejected pairs
                accepted, rejected = (np.flatnonzero(table["label"] == label) for label in (1, 0))
                halves = zip((accepted, rejected), preset.classification, strict=True)
                table = table.iloc[np.sort(np.concatenate([rng.permutation(half)[:n] for half, n in halves]))]
        tables.append(table)
    return pd.concat(tables, ignore_index=True), pd.concat(lists, ignore_index=True)


def _judge_warm(
    preset: Preset, bank: Bank, latents: dict[Side, Latents], documents: dict[Side, pd.DataFrame], rng: Rng
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels of one application process over all documents, divided among the splits at random; no lists."""
    pools = {side: documents[side].index for side in SIDES}
    table = draw_labels(bank, latents, pools, preset.activity, "train", rng)
    order = rng.permutation(len(table))
    first, second = np.round(np.cumsum(WARM_SHARES[:2]) * len(table)).astype(int)
    split = np.select([order < first, order < second], SPLITS[:2], SPLITS[2])
    by_split = np.argsort(pd.Index(SPLITS).get_indexer(pd.Index(split)), kind="stable")
    return table.assign(split=split).iloc[by_split].reset_index(drop=True), empty_frame(RANKING_COLUMNS)


def compose_to_parquet(
    preset: str = "laptop", seed: int = 0, folder: str | Path = "market", shards: int = 10, **overrides: Any
) -> Path:
    """Compose a market of any size in flat memory: `folder/{resumes,jobs,labels}/00000.parquet` and so on.

    Every shard is a regional market of its own: the train split of the preset, drawn from (`seed`, shard) alone,
    whose applicants apply inside it. So a shard never depends on how many there are, an interrupted call goes on
    where it stopped, and the first shards of a large market are a small one. Neither the truth nor candidate
    lists are written. `overrides` as in `compose`. Returns the folder; raises FileExistsError if it holds
    another market, ValueError for an unknown preset or field or fewer than one shard.
    """
    if shards < 1:
        raise ValueError(f"shards must be at least 1, not {shards}")
    numbers, path = _resolve(preset, overrides), Path(folder)
    mark = path / "market.json"
    if not claim(mark, json.dumps({"preset": asdict(numbers), "seed": seed}, indent=2) + "\n"):
        raise FileExistsError(f"{path} holds another market, see {mark}: choose another folder or delete this one")
    for shard in tqdm(range(shards), desc="composing", unit="shard", delay=1, leave=False):
        files = {table: path / table / f"{shard:05d}.parquet" for table in ("resumes", "jobs", "labels")}
        if not all(file.is_file() for file in files.values()):
            for table, frame in _compose_shard(numbers, seed, shard).items():
                with atomic(files[table]) as partial:
                    frame.to_parquet(partial, index=False)
    return path


def _compose_shard(preset: Preset, seed: int, shard: int) -> dict[str, pd.DataFrame]:
    """The tables of one shard; ids name the shard, and their order is that of the files and of the rows in them."""
    bank, rng = load_bank(preset.families), np.random.default_rng([seed, shard])
    splits = {side: np.repeat(["train"], preset.sizes(side)["train"]) for side in SIDES}
    latents, documents, judging = _draw_documents(bank, splits, rng, prefix=f"{shard:05d}-")
    pools = {side: documents[side].index for side in SIDES}
    labels = draw_labels(bank, latents, pools, preset.activity, "train", judging)
    return {f"{side}s": documents[side].reset_index() for side in SIDES} | {"labels": labels}
