"""Hugging Face datasets, by hub name or from disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from confitlib.corpus import Corpus, Split
from confitlib.readers._repair import Regime
from confitlib.readers._tables import findings
from confitlib.readers.pairs import Choices, Columns, Source, build

SAVED = ("dataset_dict.json", "state.json")


def load_hub(
    name_or_path: str | Path,
    *,
    configs: Mapping[str, str] | None = None,
    columns: Columns | None = None,
    label_values: Mapping[Any, int] | None = None,
    threshold: float | None = None,
    split: Split | Sequence[float] | None = None,
    seed: int = 0,
    regime: Regime = "cold",
    accept: str | Iterable[str] = (),
    name: str | None = None,
    **options: Any,
) -> Corpus:
    """Read a Hugging Face dataset: a hub name, a folder of data files, or what `save_to_disk` wrote.

    The dataset is one table of pairs, whose splits (if there are several) are the corpus's; or
    its parts named `pairs`, `resumes` and `jobs` are tables. `configs` names the configuration
    that holds each table, e.g. `{"pairs": "labels", "resumes": "cv", "jobs": "posts"}`. `options`
    go to `datasets.load_dataset` (revision, cache_dir, token, …). All other parameters, the
    columns and the errors are those of `load_pairs`; class labels are read by their names.
    """
    found = findings(accept)
    tables = _tables(name_or_path, configs or {}, options)
    if "pairs" not in tables:
        raise ValueError(f"configs: name the configuration of the pairs; got {sorted(tables)}")
    sources = {table: Source(_numbered(_frame(part)), f"{name_or_path} [{table}]") for table, part in tables.items()}
    title = name or str(name_or_path).rstrip("/").rsplit("/", maxsplit=1)[-1]
    return build(sources, found, Choices(columns or {}, label_values or {}, threshold, split, seed, regime, title))


def _tables(name_or_path: str | Path, configs: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Datasets (or dictionaries of splits) by table name."""
    if configs:
        return {table: _fetch(name_or_path, config, options) for table, config in configs.items()}
    whole = _fetch(name_or_path, None, options)
    return dict(whole) if isinstance(whole, dict) and "pairs" in whole else {"pairs": whole}


def _fetch(name_or_path: str | Path, config: str | None, options: Mapping[str, Any]) -> Any:
    import datasets  # takes seconds, and only this reader needs it

    if any((Path(name_or_path) / marker).exists() for marker in SAVED):
        return datasets.load_from_disk(str(name_or_path))
    return datasets.load_dataset(str(name_or_path), config, **options)


def _frame(part: Any) -> pd.DataFrame:
    """A dataset as a frame; several splits become the column `split`."""
    if not isinstance(part, dict):
        return _decoded(part)
    frames = {split: _decoded(dataset) for split, dataset in part.items()}
    if len(frames) == 1:
        return next(iter(frames.values()))
    return pd.concat([frame.assign(split=split) for split, frame in frames.items()], ignore_index=True)


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows counted from 1, as in a table from a file."""
    return frame.set_axis(range(1, len(frame) + 1))


def _decoded(dataset: Any) -> pd.DataFrame:
    frame = dataset.to_pandas()
    for column, feature in dataset.features.items():
        names = getattr(feature, "names", None)
        if names:
            frame[column] = [names[code] if code >= 0 else None for code in frame[column]]
    return frame
