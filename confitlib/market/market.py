"""Presets and the call that composes a market."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import SIDES, SPLITS, Corpus, Side, Split
from confitlib.market import labels as process
from confitlib.market import world
from confitlib.market.composition import write_jobs, write_resumes
from confitlib.market.labels import Applications
from confitlib.market.phrases import Bank, load_bank
from confitlib.market.world import Latents


@dataclass(frozen=True)
class Preset:
    """Sizes and activity of a market.

    `applications_per_resume`, `applications_per_job`: means over the documents that occur in
    labels; `most_…`: their maxima; `queries`: most candidate lists a target and held-out split;
    `classification`: accepted and rejected pairs kept as valid and test labels (None: all);
    `list_positives`: mean positives of a candidate list of resumes and of jobs (None: as they come).
    """

    name: str
    train_resumes: int
    train_jobs: int
    valid_resumes: int
    valid_jobs: int
    test_resumes: int
    test_jobs: int
    applications_per_resume: float
    applications_per_job: float
    most_per_resume: int
    most_per_job: int
    pull: float
    queries: int
    families: int = 12
    classification: tuple[int, int] | None = None
    list_positives: tuple[float, float] | None = None

    def counts(self, side: Side) -> dict[Split, int]:
        """Documents of a side by split."""
        return {split: getattr(self, f"{split}_{side}s") for split in SPLITS}


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("tiny", 240, 100, 80, 40, 120, 60, 2.92, 7.0, 5, 14, 10.0, queries=40, families=3),
        Preset("laptop", 2000, 800, 300, 120, 1000, 300, 2.85, 7.125, 6, 20, 9.0, queries=300),
        Preset(
            "intellipro", 11_153, 1_794, 1_154, 188, 1_154, 427, 6_751 / 6_435, 6_751 / 1_794, 4, 46, 5.6,
            queries=120, classification=(48, 72), list_positives=(3.92, 1.10),
        ),
        Preset(
            "aliyun", 2_781, 19_542, 678, 3_179, 1_006, 3_179, 22_124 / 2_718, 22_124 / 19_542, 38, 4, 6.0,
            queries=300, classification=(133, 167), list_positives=(1.33, 4.55),
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Market:
    """A composed corpus with its latents.

    `resumes`, `jobs`: frames aligned with `corpus.resumes` and `corpus.jobs`; columns family,
    occupation, level, city, degree, years, skills (ids: held by a resume, required by a job).
    `skills`, `occupations`: names by id.
    """

    corpus: Corpus
    preset: Preset
    seed: int
    resumes: pd.DataFrame
    jobs: pd.DataFrame
    skills: pd.Series
    occupations: pd.Series
    latents: dict[Side, Latents]

    def coverage(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> NDArray[np.float32]:
        """The share of required skills covered, `[n_resume_ids, n_job_ids]`."""
        return world.coverage(*self._block(resume_ids, job_ids))

    def fit(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> NDArray[np.float32]:
        """Coverage less the level gap penalty, `[n_resume_ids, n_job_ids]`."""
        return world.fit(*self._block(resume_ids, job_ids))

    def _block(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> tuple[Latents, Latents]:
        rows = self.corpus.positions("resume", resume_ids)
        columns = self.corpus.positions("job", job_ids)
        return self.latents["resume"].rows(rows), self.latents["job"].rows(columns)


def compose(preset: str = "laptop", seed: int = 0, **overrides: Any) -> Market:
    """Compose a market; the same preset, seed and overrides always give the same corpus.

    `overrides` replace fields of the preset, e.g. `train_resumes=20_000`. Raises ValueError for
    an unknown preset or override.
    """
    chosen = _preset(preset, overrides)
    bank = load_bank().first(chosen.families)
    streams = iter(np.random.default_rng(seed).spawn(5))
    splits = {side: assign_splits(chosen, side) for side in SIDES}
    latents: dict[Side, Latents] = {
        "resume": world.draw_resumes(bank, len(splits["resume"]), next(streams)),
        "job": world.draw_jobs(bank, len(splits["job"]), next(streams)),
    }
    ids = {side: _ids(side, len(splits[side])) for side in SIDES}
    documents = {}
    for side, write in (("resume", write_resumes), ("job", write_jobs)):
        text = write(bank, latents[side], splits[side] != "train", next(streams))
        documents[side] = text.assign(split=splits[side]).set_index(ids[side])
    tables = _judgements(chosen, bank, latents, ids, splits, next(streams))
    corpus = Corpus(
        resumes=documents["resume"],
        jobs=documents["job"],
        labels=tables[0],
        rankings=tables[1],
        truth=world.true_pairs(latents["resume"], latents["job"]),
        name=f"market-{chosen.name}-{seed}",
    )
    return Market(
        corpus=corpus,
        preset=chosen,
        seed=seed,
        resumes=world.describe(latents["resume"], bank, ids["resume"]),
        jobs=world.describe(latents["job"], bank, ids["job"]),
        skills=pd.Series({skill.id: skill.name for skill in bank.skills}, name="skill"),
        occupations=pd.Series({entry.id: entry.name for entry in bank.occupations}, name="occupation"),
        latents=latents,
    )


def _preset(name: str, overrides: dict[str, Any]) -> Preset:
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {sorted(PRESETS)}")
    unknown = set(overrides) - set(Preset.__dataclass_fields__)
    if unknown:
        raise ValueError(f"unknown override {sorted(unknown)}: a preset has {sorted(Preset.__dataclass_fields__)}")
    return replace(PRESETS[name], **overrides)


def assign_splits(preset: Preset, side: Side) -> NDArray[np.str_]:
    """The split of every document of a side, in row order: no document belongs to two (cold start)."""
    counts = preset.counts(side)
    return np.repeat(list(counts), list(counts.values()))


def _ids(side: Side, n: int) -> pd.Index:
    letter = side[0].upper()
    return pd.Index([f"{letter}{number:06d}" for number in range(n)], name=f"{side}_id")


def _judgements(
    preset: Preset,
    bank: Bank,
    latents: dict[Side, Latents],
    ids: dict[Side, pd.Index],
    splits: dict[Side, NDArray[np.str_]],
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels of every split and candidate lists of valid and test."""
    family = np.unique([entry.family for entry in bank.occupations], return_inverse=True)[1]
    activity = Applications(
        preset.applications_per_resume,
        preset.applications_per_job,
        preset.most_per_resume,
        preset.most_per_job,
        preset.pull,
    )
    tables, lists = [], []
    for split in SPLITS:
        rows = {side: np.flatnonzero(splits[side] == split) for side in SIDES}
        people, posts = latents["resume"].rows(rows["resume"]), latents["job"].rows(rows["job"])
        pairs = process.apply(people, posts, family, activity, rng)
        pools = {side: ids[side][rows[side]] for side in SIDES}
        table = pd.DataFrame(
            {
                "resume_id": pools["resume"][pairs[0]],
                "job_id": pools["job"][pairs[1]],
                "label": process.decide(people, posts, pairs, rng),
                "split": split,
            }
        )
        if split != "train":
            lists.append(process.candidate_lists(table, pools, split, preset.queries, preset.list_positives, rng))
            table = _classification(table, preset.classification, rng)
        tables.append(table)
    return pd.concat(tables, ignore_index=True), pd.concat(lists, ignore_index=True)


def _classification(table: pd.DataFrame, counts: tuple[int, int] | None, rng: np.random.Generator) -> pd.DataFrame:
    """The accepted and rejected pairs kept as classification labels (None: all)."""
    if counts is None:
        return table
    kept = [table[table["label"] == label].sample(n, random_state=rng) for label, n in zip((1, 0), counts, strict=True)]
    return pd.concat(kept).sort_index()
