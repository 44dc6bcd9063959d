"""The call that composes a market: latents, texts, applications, candidate lists and truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import ANY_SPLIT, RANKING_COLUMNS, SIDES, SPLITS, Corpus, Side, Split, empty_frame
from confitlib.market import labels as process
from confitlib.market import world
from confitlib.market.composition import write_jobs, write_resumes
from confitlib.market.phrases import Bank, load_bank
from confitlib.market.presets import PRESETS, Preset
from confitlib.market.world import Latents

Regime = Literal["cold", "warm"]
WARM_SHARES = (0.8, 0.1, 0.1)  # of the labels, by split


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
        return world.coverage(*self._latents_of(resume_ids, job_ids))

    def fit(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> NDArray[np.float32]:
        """Coverage less a penalty for the difference in level, `[n_resume_ids, n_job_ids]`."""
        return world.fit(*self._latents_of(resume_ids, job_ids))

    def _latents_of(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> tuple[Latents, Latents]:
        rows = self.corpus.positions("resume", resume_ids)
        columns = self.corpus.positions("job", job_ids)
        return self.latents["resume"].rows(rows), self.latents["job"].rows(columns)


def compose(preset: str = "laptop", seed: int = 0, regime: Regime = "cold", **overrides: Any) -> Market:
    """Compose a market; the same preset, seed, regime and overrides always give the same corpus.

    `regime`: "cold" splits documents, "warm" splits labels: every document has split `any` and applies as
    `activity` says, and 80 % of the labels train, the rest is divided between valid and test; there are no
    candidate lists, so rank pools by labels. `overrides` replace fields of the preset, e.g.
    `train_resumes=20_000`. Raises ValueError for an unknown preset, regime or field.
    """
    if regime not in get_args(Regime):
        raise ValueError(f"regime {regime!r} is unknown: use one of {get_args(Regime)}")
    chosen = resolve(preset, overrides)
    bank = load_bank().first(chosen.families)
    people, posts, people_text, posts_text, judging = np.random.default_rng(seed).spawn(5)
    splits = {side: assign_splits(chosen, side, regime) for side in SIDES}
    ids = {side: _ids(side, len(splits[side])) for side in SIDES}
    resumes = world.draw_resumes(bank, len(ids["resume"]), people)
    jobs = world.draw_jobs(bank, len(ids["job"]), posts)
    resume_texts = write_resumes(bank, resumes, _held_out(splits["resume"]), people_text)
    job_texts = write_jobs(bank, jobs, _held_out(splits["job"]), posts_text)
    latents: dict[Side, Latents] = {"resume": resumes, "job": jobs}
    judge = _warm_judgements if regime == "warm" else _judgements
    labels, rankings = judge(chosen, bank, latents, ids, splits, judging)
    corpus = Corpus(
        resumes=resume_texts.assign(split=splits["resume"]).set_index(ids["resume"]),
        jobs=job_texts.assign(split=splits["job"]).set_index(ids["job"]),
        labels=labels,
        rankings=rankings,
        truth=world.true_pairs(resumes, jobs),
        name=f"market-{chosen.name}-{seed}" + ("-warm" if regime == "warm" else ""),
        regime=regime,
    )
    return Market(
        corpus=corpus,
        preset=chosen,
        seed=seed,
        resumes=world.describe(resumes, bank, ids["resume"]),
        jobs=world.describe(jobs, bank, ids["job"]),
        skills=pd.Series({skill.id: skill.name for skill in bank.skills}, name="skill"),
        occupations=pd.Series({entry.id: entry.name for entry in bank.occupations}, name="occupation"),
        latents=latents,
    )


def assign_splits(preset: Preset, side: Side, regime: Regime = "cold") -> NDArray[np.str_]:
    """The split of every document of a side, in row order; `any` in the warm regime, else exactly one."""
    sizes = preset.sizes(side)
    names = list(sizes) if regime == "cold" else [ANY_SPLIT] * len(sizes)
    return np.repeat(names, list(sizes.values()))


def _held_out(splits: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Documents written with the phrases that training never sees."""
    return ~np.isin(splits, ["train", ANY_SPLIT])


def resolve(name: str, overrides: dict[str, Any]) -> Preset:
    """A preset by name with some fields replaced; raises ValueError for an unknown name or field."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    known = [field.name for field in fields(Preset)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"unknown override {unknown[0]!r}: a preset has {', '.join(known)}")
    return replace(PRESETS[name], **overrides)


def _ids(side: Side, n: int) -> pd.Index:
    return pd.Index([f"{side[0].upper()}{number:06d}" for number in range(n)], name=f"{side}_id")


def _judgements(
    preset: Preset,
    bank: Bank,
    latents: dict[Side, Latents],
    ids: dict[Side, pd.Index],
    splits: dict[Side, NDArray[np.str_]],
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels of every split, and the candidate lists of valid and test."""
    tables, lists = [], []
    for split in SPLITS:
        rows = {side: np.flatnonzero(splits[side] == split) for side in SIDES}
        pools = {side: ids[side][rows[side]] for side in SIDES}
        people, posts = latents["resume"].rows(rows["resume"]), latents["job"].rows(rows["job"])
        table = draw_labels(preset, bank, people, posts, pools, split, rng)
        if split != "train":
            lists.append(process.candidate_lists(table, pools, split, preset.queries, preset.list_positives, rng))
            table = _sample_labels(table, preset.classification, rng)
        tables.append(table)
    return pd.concat(tables, ignore_index=True), pd.concat(lists, ignore_index=True)


def _warm_judgements(
    preset: Preset,
    bank: Bank,
    latents: dict[Side, Latents],
    ids: dict[Side, pd.Index],
    splits: dict[Side, NDArray[np.str_]],
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels of one application process over all documents, dealt to the splits at random; no candidate lists."""
    table = draw_labels(preset, bank, latents["resume"], latents["job"], ids, "train", rng)
    order = rng.permutation(len(table))
    first, second = np.round(np.cumsum(WARM_SHARES[:2]) * len(table)).astype(int)
    dealt = np.select([order < first, order < second], SPLITS[:2], SPLITS[2])
    by_split = np.argsort(pd.Index(SPLITS).get_indexer(pd.Index(dealt)), kind="stable")
    return table.assign(split=dealt).iloc[by_split].reset_index(drop=True), empty_frame(RANKING_COLUMNS)


def draw_labels(
    preset: Preset,
    bank: Bank,
    resumes: Latents,
    jobs: Latents,
    pools: dict[Side, pd.Index],
    split: Split,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Who applied where in one split, and how it was decided: `resume_id, job_id, label, split`."""
    activity = preset.activity if split == "train" else preset.held_out_activity
    family = np.unique([entry.family for entry in bank.occupations], return_inverse=True)[1]
    rows, columns = process.apply(resumes, jobs, family, activity, rng)
    decisions = process.decide(resumes, jobs, (rows, columns), rng)
    ids = {"resume_id": pools["resume"][rows], "job_id": pools["job"][columns]}
    return pd.DataFrame({**ids, "label": decisions, "split": split})


def _sample_labels(table: pd.DataFrame, counts: tuple[int, int] | None, rng: np.random.Generator) -> pd.DataFrame:
    """The accepted and rejected pairs kept as labels (None: all)."""
    if counts is None:
        return table
    accepted, rejected = (np.flatnonzero(table["label"] == label) for label in (1, 0))
    kept = [rng.permutation(rows)[:n] for rows, n in zip((accepted, rejected), counts, strict=True)]
    return table.iloc[np.sort(np.concatenate(kept))]
