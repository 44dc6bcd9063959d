"""The ConFit release layout, versions 1 and 2: read it, and write it for the official scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from confitlib.corpus import (
    LABEL_COLUMNS,
    RANKING_COLUMNS,
    RESERVED,
    SIDES,
    SPLITS,
    Corpus,
    CorpusError,
    Defect,
    Side,
    Split,
    empty_frame,
)
from confitlib.readers import _sidecar
from confitlib.readers._layouts import unexpected_columns
from confitlib.readers._repair import Regime, Tables, assemble, assign_splits, document_frame, label_column
from confitlib.readers._tables import (
    Findings,
    as_id,
    check_columns,
    fail,
    findings,
    map_it,
    places,
    read_csv,
    read_json,
    read_jsonl,
    require_columns,
)

IDS: dict[Side, str] = {"resume": "user_id", "job": "jd_no"}
LISTS: dict[Side, str] = {"resume": "user_ids", "job": "jd_nos"}
SATISFIED = "satisfied"
SCORE = "score"
FILES: dict[str, list[str]] = {  # the names of a role's file in the two releases; `save` writes the first
    "resumes": ["all_resume.csv", "all_resume*.csv"],
    "jobs": ["all_jd.csv", "all_jd*.csv", "all_job*.csv"],
    "train": ["train_labeled_data.jsonl", "train_labeled_data*.jsonl"],
    "valid": ["valid_classification_data.jsonl", "valid_classification_data*.jsonl"],
    "test": ["test_classification_data.jsonl", "test_classification_data*.jsonl"],
    "train_rank_resume": ["train_rank_resume.json"],
    "train_rank_job": ["train_rank_job.json"],
    "valid_rank_resume": ["valid_rank_resume.json", "valid_rank_resume*.json"],
    "valid_rank_job": ["valid_rank_job.json", "valid_rank_job*.json"],
    "test_rank_resume": ["rank_resume.json", "rank_resume*.json", "test_rank_resume*.json"],
    "test_rank_job": ["rank_job.json", "rank_job*.json", "test_rank_job*.json"],
}


COLUMNS = {"resumes": ("user_id", "text"), "jobs": ("jd_no", "text"), "labels": ("user_id", "jd_no", "satisfied")}


def load(
    path: str | Path,
    accept: str | Iterable[str] = (),
    *,
    files: Mapping[str, str] | None = None,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
    encoding: str = "utf-8",
    regime: Regime = "cold",
    name: str | None = None,
) -> Corpus:
    """Read a folder in the ConFit release layout (v1 or v2), or one that `save` wrote.

    `accept`: kinds of defect to repair (`ACCEPTABLE` lists them and what each repair drops);
    `Corpus.notes` counts what was dropped. `files`: the file of a role (a key of `FILES`) where
    several match, e.g. `{"resumes": "all_resume.csv"}`. `columns`: columns named otherwise, e.g.
    `{"resumes": {"user_id": "uid", "text": ["cv"]}, "labels": {"satisfied": "ok"}}`, where `text`
    lists the text columns (default: all). `regime`: "warm" lets a document be used in several
    splits. `name`: the corpus's name (default: the folder's).

    A document belongs to the split that uses it; in a folder written by `save`, to its saved one.
    Raises CorpusError with every defect, each with file, row and remedy.
    """
    folder, chosen, found = Path(path), columns or {}, findings(accept)
    check_columns(chosen, COLUMNS)
    paths = _locate(folder, files or {})
    own = (folder / _sidecar.MANIFEST).exists()  # then any field name is meant
    resumes, resume_rows = _documents(paths["resumes"], "resume", chosen.get("resumes", {}), own, found, encoding)
    jobs, job_rows = _documents(paths["jobs"], "job", chosen.get("jobs", {}), own, found, encoding)
    labels, label_rows = _labels(paths, chosen.get("labels", {}), found, encoding)
    origins = {"resumes": resume_rows, "jobs": job_rows, "labels": label_rows}
    tables = Tables(resumes, jobs, labels, _rankings(paths, found, encoding), origins=origins)
    found.settle()
    if not own:
        absent = [role for role in FILES if role not in paths and not role.startswith("train_rank")]
        found.notes += [f"the folder has no file for: {', '.join(absent)}"] if absent else []
        assign_splits(tables, regime, found)
        return assemble(found, tables, name or folder.name, _sources(paths), regime)
    saved = _sidecar.restore(folder, tables)
    found.notes[:0] = saved.notes
    return assemble(found, tables, name or saved.name, _sources(paths), saved.regime, saved.accepted)


def save(corpus: Corpus, path: str | Path, overwrite: bool = False) -> Path:
    """Write a corpus in the ConFit release layout; `load` gives back an equal corpus.

    The official scripts read the CSV, JSONL and JSON files as they are. What these cannot hold
    (splits, HyRe texts, the truth, name and regime) goes to files beside them whose names start
    with `confitlib`. (The scripts let pandas guess types and so take the id "007" for "7"; `load`
    keeps it.) Returns the folder. Raises FileExistsError if it holds a corpus already and
    `overwrite` is not set, ValueError for a corpus that the layout cannot hold.
    """
    folder = Path(path)
    _check_holdable(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder, overwrite)
    _sidecar.begin(folder)
    for side in SIDES:
        frame = corpus.documents(side)
        table = frame[corpus.fields(side)].copy()
        table.insert(0, IDS[side], frame.index)
        _sidecar.write_csv(folder / FILES[f"{side}s"][0], table)
    for split in SPLITS:
        _write_labels(folder / FILES[split][0], corpus.labelled(split))
        for target in SIDES:
            chosen = (corpus.rankings["split"] == split) & (corpus.rankings["target"] == target)
            _write_lists(folder / FILES[f"{split}_rank_{target}"][0], corpus.rankings[chosen], target)
    _sidecar.write(corpus, folder)
    return folder


def _locate(folder: Path, files: Mapping[str, str]) -> dict[str, Path]:
    """The file of every role for which the folder has one."""
    unknown = sorted(files.keys() - FILES.keys())
    if unknown:
        raise ValueError(f"files: {unknown} are unknown roles; choose from {list(FILES)}")
    if not folder.is_dir():
        raise fail("missing_file", str(folder), "the folder does not exist", "Check the path.")
    paths, defects = {}, []
    for role in FILES:
        names = [files[role]] if role in files else _matches(folder, role)
        if len(names) > 1:
            what, remedy = f"several files hold {role}: {', '.join(names)}", f'Choose one: files={{"{role}": "…"}}.'
            defects.append(Defect("several_files", str(folder), what, remedy))
        elif names:
            paths[role] = folder / names[0]
        elif role in ("resumes", "jobs"):
            what, remedy = f"no file named {FILES[role][-1]}", f'Name it: files={{"{role}": "…"}}.'
            defects.append(Defect("missing_file", str(folder), what, remedy))
    if defects:
        raise CorpusError(defects)
    return paths


def _matches(folder: Path, role: str) -> list[str]:
    return sorted({match.name for pattern in FILES[role] for match in folder.glob(pattern)})


def _sources(paths: Mapping[str, Path]) -> dict[str, str]:
    """The file of each table, under the keys by which Corpus names the place of a defect."""
    sources = {}
    for role, path in paths.items():
        split, ranked, side = role.partition("_rank_")
        sources[f"rankings.{side}.{split}" if ranked else role] = str(path)
    return sources


def _documents(
    path: Path, side: Side, chosen: Mapping[str, Any], own: bool, found: Findings, encoding: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The documents of a side, and where each stands."""
    raw = read_csv(path, found, encoding)
    id_column = chosen.get(IDS[side], IDS[side])
    ids = require_columns(raw, {IDS[side]: id_column}, str(path), map_it(f"{side}s", IDS[side]), found)
    others = [column for column in raw.columns if column != id_column]
    if "text" in chosen:
        texts = np.atleast_1d(chosen["text"]).tolist()
        ignored = [column for column in others if column not in texts]
        found.notes += [f"{path}: columns {ignored} are ignored"] if ignored else []
    else:
        texts = others if own else _expected(side, others, path, found)
    fields = require_columns(raw, {column: column for column in texts}, str(path), map_it(f"{side}s", "text"), found)
    return document_frame(side, ids[IDS[side]], fields), places(raw, str(path))


def _expected(side: Side, columns: list[str], path: Path, found: Findings) -> list[str]:
    """The columns to keep; adds a defect for each that no official layout has."""
    odd = unexpected_columns(side, [column for column in columns if column not in RESERVED])
    remedy = (
        f'Name the text columns, columns={{"{side}s": {{"text": […]}}}}, or accept \'unexpected_column\' to ignore it.'
    )
    for column in odd:
        found.add("unexpected_column", f"{path}, header", f"column {column!r} is in no official layout", remedy)
    return [column for column in columns if column not in odd]


def _labels(
    paths: Mapping[str, Path], chosen: Mapping[str, str], found: Findings, encoding: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The labels of all splits, and where each stands."""
    parts = {split: _read_labels(paths[split], split, chosen, found, encoding) for split in SPLITS if split in paths}
    if not parts:
        return empty_frame(LABEL_COLUMNS), places(empty_frame(LABEL_COLUMNS), "labels")
    where = pd.concat([places(part, str(paths[split])) for split, part in parts.items()], ignore_index=True)
    return pd.concat(parts.values(), ignore_index=True), where


def _read_labels(path: Path, split: Split, chosen: Mapping[str, str], found: Findings, encoding: str) -> pd.DataFrame:
    names = {name: chosen.get(name, name) for name in (*IDS.values(), SATISFIED)}
    raw = read_jsonl(path, found, encoding, required=list(names.values()))
    for column in raw.columns.difference([*names.values(), SCORE]):
        remedy = "Remove it, or accept 'unexpected_column' to ignore it."
        found.add("unexpected_column", str(path), f"key {column!r} is in no official layout", remedy)
    ids = {f"{side}_id": raw[names[IDS[side]]].map(as_id).astype("str") for side in SIDES}
    table = pd.DataFrame({**ids, "label": label_column(raw[names[SATISFIED]]), "split": split})
    return table.assign(score=raw[SCORE].infer_objects()) if SCORE in raw.columns else table


def _rankings(paths: Mapping[str, Path], found: Findings, encoding: str) -> pd.DataFrame:
    roles = {f"{split}_rank_{target}": (target, split) for target in SIDES for split in SPLITS}
    parts = [_read_lists(paths[role], *roles[role], found, encoding) for role in roles if role in paths]
    return pd.concat(parts, ignore_index=True) if parts else empty_frame(RANKING_COLUMNS)


def _read_lists(path: Path, target: Side, split: Split, found: Findings, encoding: str) -> pd.DataFrame:
    lists = read_json(path, encoding)
    if not isinstance(lists, dict):
        raise fail("malformed_json", str(path), "an object of queries was expected", "See the official layout.")
    queries: list[str] = []
    candidates: list[str] = []
    labels: list[Any] = []
    for query, entry in lists.items():
        ids, judged = _list_of(entry, f"{path}, query {query!r}", target, found)
        queries += [query] * len(ids)
        candidates += map(as_id, ids)
        labels += judged
    ids_frame = pd.DataFrame({"query_id": queries, "candidate_id": candidates}, dtype="str")
    table = ids_frame.assign(target=target, split=split, label=label_column(pd.Series(labels, dtype=object)))
    return table[RANKING_COLUMNS]


def _list_of(entry: Any, where: str, target: Side, found: Findings) -> tuple[list[Any], list[Any]]:
    """The candidates and labels of one query, empty with a defect if they do not belong together."""
    keys = (LISTS[target], SATISFIED)
    ids, judged = (entry.get(key) if isinstance(entry, dict) else None for key in keys)
    if not isinstance(ids, list) or not isinstance(judged, list):
        found.add("missing_column", where, f"the lists {keys[0]!r} and {keys[1]!r} were expected", "Provide both.")
    elif len(ids) != len(judged):
        what = f"{len(ids)} {keys[0]} but {len(judged)} {keys[1]}"
        found.add("unequal_lists", where, what, "Give one label per candidate.")
    else:
        return ids, judged
    return [], []


def _check_holdable(corpus: Corpus) -> None:
    extra = set(corpus.labels.columns) - {*LABEL_COLUMNS, SCORE} | set(corpus.rankings.columns) - set(RANKING_COLUMNS)
    if extra:
        raise ValueError(f"the ConFit layout cannot hold the label or ranking columns {sorted(extra)}: drop them")
    for side in SIDES:
        if IDS[side] in corpus.fields(side):
            raise ValueError(f"the ConFit layout keeps {side} ids in {IDS[side]!r}: rename the field of that name")
    for table in (corpus.labels, corpus.rankings):
        if not table["split"].isin(SPLITS).all() or table["label"].dtype.kind not in "biu":
            raise ValueError("the ConFit layout holds the splits train, valid and test and whole-number labels only")
    if not corpus.rankings["target"].isin(SIDES).all():
        raise ValueError("the ConFit layout holds lists of the targets resume and job only")


def _clear(folder: Path, overwrite: bool) -> None:
    """Remove what an earlier `save` wrote, so that nothing of it is read along."""
    if overwrite and (folder / _sidecar.MANIFEST).exists():
        _sidecar.remove(folder)
        for names in FILES.values():
            (folder / names[0]).unlink(missing_ok=True)
    present = [name for role in FILES for name in _matches(folder, role)]
    if present or (folder / _sidecar.MANIFEST).exists():
        remedy = "choose another folder" if overwrite else "choose another folder or overwrite=True"
        raise FileExistsError(f"{folder} holds a corpus already ({', '.join(present)}): {remedy}")


def _write_labels(path: Path, labels: pd.DataFrame) -> None:
    names = {"resume_id": IDS["resume"], "job_id": IDS["job"], "label": SATISFIED}
    table = labels.astype({"label": "int64"}).drop(columns="split").rename(columns=names)
    lines = [json.dumps(record) + "\n" for record in table.to_dict("records")]
    if lines:
        path.write_text("".join(lines), encoding="utf-8", newline="")


def _write_lists(path: Path, entries: pd.DataFrame, target: Side) -> None:
    lists = {
        query: {LISTS[target]: group["candidate_id"].tolist(), SATISFIED: group["label"].astype(int).tolist()}
        for query, group in entries.groupby("query_id", sort=False)
    }
    if lists:
        path.write_text(json.dumps(lists, indent=4), encoding="utf-8", newline="")
