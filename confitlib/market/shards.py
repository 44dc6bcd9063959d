"""Markets larger than memory: composed shard by shard, straight into Parquet files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from confitlib.corpus import SIDES, Side
from confitlib.market import world
from confitlib.market.composition import write_jobs, write_resumes
from confitlib.market.market import draw_labels, resolve
from confitlib.market.phrases import Bank, load_bank
from confitlib.market.presets import Preset
from confitlib.util import atomic, claim

ABOUT = "market.json"
TABLES = ("resumes", "jobs", "labels")


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
    chosen, path = resolve(preset, overrides), Path(folder)
    for table in TABLES:
        (path / table).mkdir(parents=True, exist_ok=True)
    _claim(path, {"preset": asdict(chosen), "seed": seed})
    bank = load_bank().first(chosen.families)
    for shard in tqdm(range(shards), desc="composing", unit="shard", delay=1, leave=False):
        files = {table: path / table / f"{shard:05d}.parquet" for table in TABLES}
        if not all(file.is_file() for file in files.values()):
            for table, frame in _shard(chosen, bank, seed, shard).items():
                _write(frame, files[table])
    return path


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Say what the folder holds, or refuse to mix two markets."""
    file, content = folder / ABOUT, json.dumps(about, indent=2) + "\n"
    if not claim(file, content):
        raise FileExistsError(f"{folder} holds another market, see {file}: choose another folder or delete this one")


def _shard(preset: Preset, bank: Bank, seed: int, shard: int) -> dict[str, pd.DataFrame]:
    people, posts, people_text, posts_text, judging = np.random.default_rng([seed, shard]).spawn(5)
    resumes = world.draw_resumes(bank, preset.train_resumes, people)
    jobs = world.draw_jobs(bank, preset.train_jobs, posts)
    seen = {side: np.zeros(preset.sizes(side)["train"], dtype=bool) for side in SIDES}
    texts = {
        "resume": write_resumes(bank, resumes, seen["resume"], people_text),
        "job": write_jobs(bank, jobs, seen["job"], posts_text),
    }
    pools: dict[Side, pd.Index] = {side: _ids(side, shard, len(texts[side])) for side in SIDES}
    labels = draw_labels(preset, bank, resumes, jobs, pools, "train", judging)
    documents = {f"{side}s": texts[side].assign(split="train").set_index(pools[side]).reset_index() for side in SIDES}
    return documents | {"labels": labels}


def _ids(side: Side, shard: int, n: int) -> pd.Index:
    """Ids that say the shard; their order is that of the files and of the rows in them."""
    return pd.Index([f"{side[0].upper()}{shard:05d}-{number:06d}" for number in range(n)], name=f"{side}_id")


def _write(frame: pd.DataFrame, file: Path) -> None:
    with atomic(file) as partial:
        frame.to_parquet(partial, index=False)
