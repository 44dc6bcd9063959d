"""The call that composes a market: latents, texts, applications, candidate lists and truth, in memory or in files."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from confitlib.corpus import ANY_SPLIT, RANKING_COLUMNS, SIDES, SPLITS, Corpus, Regime, Side, empty_frame
from confitlib.market import world
from confitlib.market.labels import Activity, Rng, candidate_lists, draw_labels
from confitlib.market.texts import Bank, load_bank, write_documents
from confitlib.market.world import Latents
from confitlib.util import atomic, check_range, checked, claim, read_yaml

WARM_SHARES = (0.8, 0.1, 0.1)  # of the labels, by split


@checked
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
    classification: Sequence[int] | None = None
    list_positives: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_range(self, *(f"{split}_{side}s" for split in SPLITS for side in SIDES), least=1)
        check_range(self, "families", least=1, most=12)


PRESETS = {
    name: Preset(name, **(numbers | {key: Activity(**numbers[key]) for key in ("activity", "held_out_activity")}))
    for name, numbers in read_yaml(Path(__file__).with_name("presets.yaml"), dict).items()
}


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


@checked
def compose(
    preset: str = "laptop", seed: int = 0, regime: Regime = "cold", redraw: int = 0, **overrides: Any
) -> Market:
    """Compose a market; the same arguments always give the same corpus.

    `regime`: "cold" splits documents, "warm" splits labels: every document has split `any` and applies as
    `activity` says, and 80 % of the labels train, the rest is divided between valid and test; there are no
    candidate lists, so rank pools by labels. `redraw`: by another number people apply anew, with the documents and
    their truth as they are. `overrides` replace fields of the preset, e.g.
    `train_resumes=20_000`. Raises ValueError for an unknown preset, regime or field.

    >>> from confitlib import compose
    >>> market = compose("tiny", seed=0)
    >>> market.corpus
    Corpus('market-tiny-0': 440 resumes, 200 jobs, 1,100 labels, 9,360 list entries)
    """
    if redraw < 0:
        raise ValueError(f"redraw={redraw} must be at least 0")
    # 1. documents
    numbers, splits = _resolve(preset, overrides), {}
    for side in SIDES:
        sizes = [getattr(numbers, f"{split}_{side}s") for split in SPLITS]
        splits[side] = np.repeat(SPLITS if regime == "cold" else [ANY_SPLIT] * len(SPLITS), sizes)
    bank = load_bank(numbers.families)
    latents, documents, rng = _draw_documents(bank, splits, np.random.default_rng(seed))
    rng = np.random.default_rng([seed, redraw]) if redraw else rng
    # 2. labels of every split, and the candidate lists of valid and test (none in the warm regime)
    tables, lists = [], [empty_frame(RANKING_COLUMNS)]
    if regime == "warm":  # one application process over all documents, its labels divided among the splits at random
        pools = {side: documents[side].index for side in SIDES}
        table = draw_labels(bank, latents, pools, numbers.activity, "train", rng)
        starts = np.round(np.cumsum(WARM_SHARES[:2]) * len(table))  # of valid and of test
        code = np.searchsorted(starts, rng.permutation(len(table)), side="right")
        tables.append(table.assign(split=np.take(SPLITS, code)).iloc[np.argsort(code, kind="stable")])
    for split in SPLITS if regime == "cold" else ():
        rows = {side: np.flatnonzero(documents[side]["split"] == split) for side in SIDES}
        pools = {side: documents[side].index[rows[side]] for side in SIDES}
        members = {side: latents[side].rows(rows[side]) for side in SIDES}
        activity = numbers.activity if split == "train" else numbers.held_out_activity
        table = draw_labels(bank, members, pools, activity, split, rng)
        if split != "train":
            lists.append(candidate_lists(table, pools, split, numbers.queries, numbers.list_positives, rng))
            if numbers.classification:  # so many accepted and rejected pairs
                halves = [rng.permutation(np.flatnonzero(table["label"] == label)) for label in (1, 0)]
                picked = [half[:n] for half, n in zip(halves, numbers.classification, strict=True)]
                table = table.iloc[np.sort(np.concatenate(picked))]
        tables.append(table)
    labels, rankings = (pd.concat(parts, ignore_index=True) for parts in (tables, lists))
    # 3. the corpus, and what is known of its documents
    truth = world.suitable_pairs(latents["resume"], latents["job"])
    name = f"market-{numbers.name}-{seed}" + ("-warm" if regime == "warm" else "") + (f"-{redraw}" if redraw else "")
    corpus = Corpus(documents["resume"], documents["job"], labels, rankings, truth, name, regime)
    resumes, jobs = (world.describe(latents[side], bank, corpus.documents(side).index) for side in SIDES)
    frames = {"skill": bank.skills, "occupation": bank.occupations}
    skills, occupations = (frame["name"].rename(kind).rename_axis(None) for kind, frame in frames.items())
    return Market(corpus, numbers, seed, resumes, jobs, skills, occupations, latents)


def _resolve(name: str, overrides: dict[str, Any]) -> Preset:
    """A preset by name with some fields replaced; raises ValueError for an unknown name or field."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    names = [field.name for field in fields(Preset)]
    if unknown := sorted(set(overrides) - set(names)):
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
    bank = load_bank(numbers.families)
    splits = {side: np.repeat(["train"], getattr(numbers, f"train_{side}s")) for side in SIDES}
    for shard in tqdm(range(shards), desc="composing", unit="shard", delay=1, leave=False):
        files = {table: path / table / f"{shard:05d}.parquet" for table in ("resumes", "jobs", "labels")}
        if all(file.is_file() for file in files.values()):
            continue
        # ids name the shard, and their order is that of the files and of the rows in them
        rng = np.random.default_rng([seed, shard])
        latents, documents, judging = _draw_documents(bank, splits, rng, prefix=f"{shard:05d}-")
        pools = {side: documents[side].index for side in SIDES}
        labels = draw_labels(bank, latents, pools, numbers.activity, "train", judging)
        for table, frame in zip(files, [*(documents[side].reset_index() for side in SIDES), labels], strict=True):
            with atomic(files[table]) as partial:
                frame.to_parquet(partial, index=False)
    return path
