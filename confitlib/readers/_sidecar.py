"""What the official layout cannot hold: splits, HyRe texts, the truth, name, regime and row order."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array, load_npz, save_npz

from confitlib.corpus import RESERVED, SIDES, Corpus, Side
from confitlib.readers._repair import SPLIT_ORDER, Regime, Tables
from confitlib.readers._tables import fail, findings, read_csv, read_json
from confitlib.util import atomic

MANIFEST = "confitlib.json"
TRUTH = "confitlib_truth.npz"
DOCUMENTS: dict[Side, str] = {"resume": "confitlib_resumes.csv", "job": "confitlib_jobs.csv"}
SHAPE: dict[str, Any] = {"name": str, "regime": str, "accepted": list, "notes": list, "columns": dict, "order": dict}
PARTS: dict[str, tuple[tuple[str, ...], Any]] = {
    "columns": (("resumes", "jobs", "labels", "rankings"), list),
    "order": (("labels", "rankings"), list | None),
}
STALE = "Save the corpus again, or delete the confitlib* files to read the folder as a plain release."
NEEDS_QUOTES = re.compile('[,"\r\n]')


@dataclass(frozen=True)
class Saved:
    """The settings of a saved corpus."""

    name: str
    regime: Regime
    accepted: frozenset[str]
    notes: tuple[str, ...]


def begin(folder: Path) -> None:
    """Mark a folder as incomplete until `write`, so that `load` refuses what a killed `save` left."""
    (folder / MANIFEST).write_text("{}", encoding="utf-8")


def write(corpus: Corpus, folder: Path) -> None:
    """Write the sidecar files of a corpus; the manifest, last, makes them count."""
    for side in SIDES:
        frame = corpus.documents(side)
        table = frame[[column for column in frame.columns if column in RESERVED]].copy()
        table.insert(0, "id", frame.index)
        write_csv(folder / DOCUMENTS[side], table)
    if corpus.truth is not None:
        save_npz(folder / TRUTH, corpus.truth)
    frames = {"resumes": corpus.resumes, "jobs": corpus.jobs, "labels": corpus.labels, "rankings": corpus.rankings}
    manifest = {
        "name": corpus.name,
        "regime": corpus.regime,
        "accepted": sorted(corpus.accepted),
        "notes": corpus.notes,
        "columns": {table: list(map(str, frame.columns)) for table, frame in frames.items()},
        "order": {"labels": _moved(_label_order(corpus.labels)), "rankings": _moved(_list_order(corpus.rankings))},
    }
    with atomic(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8", newline="")


def restore(folder: Path, tables: Tables) -> Saved:
    """Give tables read from a folder what their sidecar holds."""
    manifest = _read_manifest(folder / MANIFEST)
    columns, order = manifest["columns"], manifest["order"]
    tables.origins["labels"] = _in_order(folder, tables.origins["labels"], order["labels"])
    tables.resumes = _with_reserved(folder, "resume", tables.resumes, columns)
    tables.jobs = _with_reserved(folder, "job", tables.jobs, columns)
    tables.labels = _with_columns(folder, "labels", _in_order(folder, tables.labels, order["labels"]), columns)
    tables.rankings = _with_columns(folder, "rankings", _in_order(folder, tables.rankings, order["rankings"]), columns)
    tables.truth = _read_truth(folder / TRUTH)
    accepted, notes = frozenset(manifest["accepted"]), tuple(manifest["notes"])
    return Saved(manifest["name"], manifest["regime"], accepted, notes)


def _read_manifest(path: Path) -> dict[str, Any]:
    content = read_json(path)
    manifest = content if isinstance(content, dict) else {}
    wrong = sorted(key for key, kind in SHAPE.items() if not isinstance(manifest.get(key), kind))
    for key, (tables, kind) in ({} if wrong else PARTS).items():
        wrong += [f"{key}.{table}" for table in tables if not isinstance(manifest[key].get(table, 0), kind)]
    if wrong:
        raise fail("stale_sidecar", str(path), f"{wrong} are missing or malformed", STALE)
    return manifest


def remove(folder: Path) -> None:
    """Delete the sidecar files of a folder."""
    for name in (MANIFEST, TRUTH, *DOCUMENTS.values()):
        (folder / name).unlink(missing_ok=True)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV with minimal quoting; unlike the csv module, a lone carriage return is quoted too."""
    rows = [table.columns.tolist(), *table.astype("str").fillna("").to_numpy().tolist()]
    text = "".join(",".join(map(_cell, row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="")


def _cell(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if NEEDS_QUOTES.search(value) else value


def _with_reserved(folder: Path, side: Side, frame: pd.DataFrame, columns: dict[str, list[str]]) -> pd.DataFrame:
    path = folder / DOCUMENTS[side]
    found = findings(())
    saved = read_csv(path, found)
    found.settle()
    if saved["id"].tolist() != frame.index.tolist():
        raise fail("stale_sidecar", str(path), f"the ids are not those of the {side}s file", STALE)
    reserved = {column: saved[column].to_numpy() for column in saved.columns if column != "id"}
    return _with_columns(path, f"{side}s", frame.assign(**reserved), columns)


def _with_columns(path: Path, table: str, frame: pd.DataFrame, columns: dict[str, list[str]]) -> pd.DataFrame:
    if set(frame.columns) != set(columns[table]):
        raise fail("stale_sidecar", str(path), f"the {table} file does not have the saved columns", STALE)
    return frame[columns[table]]


def _read_truth(path: Path) -> csr_array | None:
    if not path.exists():
        return None
    try:
        return csr_array(load_npz(path))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise fail("unreadable", str(path), str(error), STALE) from None


def _label_order(labels: pd.DataFrame) -> NDArray[np.intp]:
    """Row numbers in the order in which `load` meets them: split by split."""
    return np.argsort(labels["split"].map(SPLIT_ORDER).to_numpy(), kind="stable")


def _list_order(rankings: pd.DataFrame) -> NDArray[np.intp]:
    """Row numbers in the order in which `load` meets them: target, split, query."""
    queries = rankings.groupby(["target", "split", "query_id"], sort=False).ngroup()
    target = rankings["target"].map({side: number for number, side in enumerate(SIDES)})
    return np.lexsort((queries, rankings["split"].map(SPLIT_ORDER), target))


def _moved(order: NDArray[np.intp]) -> list[int] | None:
    """The order to store, or None if the rows are in file order already."""
    return None if np.array_equal(order, np.arange(len(order))) else order.tolist()


def _in_order(folder: Path, frame: pd.DataFrame, order: list[int] | None) -> pd.DataFrame:
    if order is None:
        return frame
    if len(order) != len(frame):
        what = f"{len(frame)} labels or list entries were read, {len(order)} were saved"
        raise fail("stale_sidecar", str(folder / MANIFEST), what, STALE)
    return frame.iloc[np.argsort(order)].reset_index(drop=True)
