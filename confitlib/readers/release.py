"""The ConFit release layout, versions 1 and 2: read it, and write it for the official scripts.

What the layout cannot hold (splits, HyRe texts, the truth, name, regime and row order) `save` writes to files
beside it whose names start with `confitlib`.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy.sparse import load_npz, save_npz

from confitlib.corpus import (
    COPY_OF,
    LABEL_COLUMNS,
    RANKING_COLUMNS,
    RESERVED,
    SIDES,
    SPLITS,
    Corpus,
    CorpusError,
    Side,
    Split,
    empty_frame,
)
from confitlib.readers import repairs
from confitlib.readers.repairs import PLACE, Regime, Report, Tables, as_id, fail, select
from confitlib.util import atomic

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
AUGMENTED = r"^aug_(?:eda|chatgpt)_"  # opens the ids of copies in the augmented files of version 1

# Column names of the released data sets, as the official configurations list them.
ALIYUN: dict[Side, dict[str, str]] = {  # src/config/aliyun.py of ConFit
    "resume": {
        "live_city_id": "居住城市", "desire_jd_city_id": "期望工作城市", "desire_jd_industry_id": "期望工作行业",
        "desire_jd_type_id": "期望工作类型", "desire_jd_salary_id": "期望薪资", "cur_industry_id": "当前工作行业",
        "cur_jd_type": "当前工作类型", "cur_salary_id": "当前薪资", "cur_degree_id": "学历", "birthday": "年龄",
        "start_work_date": "开始工作时间", "experience": "工作经验",
    },
    "job": {
        "jd_title": "工作名称", "city": "工作城市", "jd_sub_type": "工作类型", "require_nums": "招聘人数",
        "salary": "薪资", "start_date": "招聘开始时间", "end_date": "招聘结束时间", "is_travel": "是否要求出差",
        "min_years": "工作年限", "min_edu_level": "最低学历", "job_description": "工作描述",
    },
}  # fmt: skip
INTELLIPRO: dict[Side, list[str]] = {  # src/config/proprietary.py of ConFit
    "resume": [
        "education", "experiences", "location", "preferred_locations", "industry", "languages", "skills", "projects",
    ],
    "job": [
        "Job Title", "Job Description/Responsibilities", "Job Location", "Job Position Type",
        "Required Qualifications/Skills", "Preferred Qualifications/Skills",
        "Company Name", "Company Description", "Company Location",
    ],
}  # fmt: skip
MANIFEST = "confitlib.json"
TRUTH = "confitlib_truth.npz"
RESERVED_FILES = {"resumes": "confitlib_resumes.csv", "jobs": "confitlib_jobs.csv"}  # the reserved columns
STALE = "Save the corpus again, or delete the confitlib* files to read the folder as a plain release."
NEEDS_QUOTES = re.compile('[,"\r\n]')


# --- reading ---


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

    A document belongs to the split that uses it; in a folder written by `save`, to its saved one. A document
    `aug_eda_7` or `aug_chatgpt_7` of the official augmented files is a copy of document `7`.
    Raises CorpusError with every defect, each with file, row and remedy.

    >>> from tempfile import TemporaryDirectory
    >>> from confitlib import compose, load
    >>> from confitlib.readers import save
    >>> corpus = compose("tiny").corpus
    >>> with TemporaryDirectory() as folder:
    ...     print(load(save(corpus, folder)) == corpus)
    True
    """
    folder, mapping, report = Path(path), columns or {}, Report(accept)
    repairs.check_columns(mapping, COLUMNS)
    paths = _locate(folder, files or {})
    saved = (folder / MANIFEST).exists()  # then any field name is meant
    documents = [
        _documents(paths[f"{side}s"], side, mapping.get(f"{side}s", {}), saved, report, encoding) for side in SIDES
    ]
    roles: dict[str, Split] = {split: split for split in SPLITS if split in paths}
    labels = [_labels(paths[role], roles[role], mapping.get("labels", {}), report, encoding) for role in roles]
    lists = [
        _rankings(paths[role], target, split, report, encoding)
        for target in SIDES for split in SPLITS if (role := f"{split}_rank_{target}") in paths
    ]  # fmt: skip
    tables = Tables(
        documents[0],
        documents[1],
        pd.concat(labels or [empty_frame([*LABEL_COLUMNS, PLACE])], ignore_index=True),
        pd.concat(lists or [empty_frame([*RANKING_COLUMNS, PLACE])], ignore_index=True),
    )
    report.settle()
    if saved:
        try:
            manifest = _restore(folder, tables)
        except (KeyError, TypeError, AttributeError) as error:
            raise fail("stale_sidecar", folder / MANIFEST, f"malformed: {error!r}", STALE) from None
        report.notes[:0] = manifest["notes"]
        tolerated = frozenset(manifest["accepted"])
        return repairs.assemble(report, tables, name or manifest["name"], manifest["regime"], tolerated)
    absent = [role for role in FILES if role not in paths and not role.startswith("train_rank")]
    report.notes += [f"the folder has no file for: {', '.join(absent)}"] if absent else []
    repairs.assign_splits(tables, regime, report)
    return repairs.assemble(report, tables, name or folder.name, regime)


def _locate(folder: Path, files: Mapping[str, str]) -> dict[str, Path]:
    """The file of every role for which the folder has one."""
    unknown = sorted(files.keys() - FILES.keys())
    if unknown:
        raise ValueError(f"files: {unknown} are unknown roles; choose from {list(FILES)}")
    if not folder.is_dir():
        raise fail("missing_file", folder, "the folder does not exist", "Check the path.")
    paths, report = {}, Report()
    for role in FILES:
        names = [files[role]] if role in files else _matches(folder, role)
        if len(names) > 1:
            what = f"several files hold {role}: {', '.join(names)}"
            report.add("several_files", str(folder), what, f'Choose one: files={{"{role}": "…"}}.')
        elif names:
            paths[role] = folder / names[0]
        elif role in ("resumes", "jobs"):
            what, remedy = f"no file named {FILES[role][-1]}", f'Name it: files={{"{role}": "…"}}.'
            report.add("missing_file", str(folder), what, remedy)
    report.settle()
    return paths


def _matches(folder: Path, role: str) -> list[str]:
    return sorted({match.name for pattern in FILES[role] for match in folder.glob(pattern)})


def _documents(
    path: Path, side: Side, mapping: Mapping[str, Any], saved: bool, report: Report, encoding: str
) -> pd.DataFrame:
    raw, table = repairs.read_csv(path, report, encoding), f"{side}s"
    id_column = mapping.get(IDS[side], IDS[side])
    ids = select(raw, [id_column], path, repairs.map_it(table, IDS[side]), report)[id_column].map(as_id)
    texts = others = [column for column in raw.columns if column != id_column]
    if "text" in mapping:
        texts = np.atleast_1d(mapping["text"]).tolist()
        ignored = [column for column in others if column not in texts]
        report.notes += [f"{path}: columns {ignored} are ignored"] if ignored else []
    elif not saved:
        # the official scripts assert that every column is a configured field (src/preprocess/dataset.py)
        layouts = [list(ALIYUN[side].values()), list(ALIYUN[side]), INTELLIPRO[side], [f"text_{side}"]]
        layout = next((layout for layout in layouts if set(layout) <= set(others)), others)
        odd = [name for name in others if name not in layout or not name.strip() or name.startswith("Unnamed:")]
        odd = [name for name in odd if name not in RESERVED]
        remedy = f'Name the text columns, columns={{"{table}": {{"text": […]}}}}, or accept \'unexpected_column\'.'
        for name in odd:
            report.add("unexpected_column", f"{path}, header", f"column {name!r} is in no official layout", remedy)
        texts = [name for name in others if name not in odd]
    frame = repairs.document_frame(side, ids, select(raw, texts, path, repairs.map_it(table, "text"), report))
    origin = frame.index.to_series().str.replace(AUGMENTED, "", regex=True)
    copied = (origin != frame.index) & origin.isin(frame.index)
    return (
        frame if saved or not copied.any() or COPY_OF in frame else frame.assign(**{COPY_OF: origin.where(copied, "")})
    )


def _labels(path: Path, split: Split, mapping: Mapping[str, str], report: Report, encoding: str) -> pd.DataFrame:
    names = {name: mapping.get(name, name) for name in (*IDS.values(), SATISFIED)}
    raw = repairs.read_jsonl(path, report, encoding, required=list(names.values()))
    for column in raw.columns.difference([*names.values(), SCORE]):
        remedy = "Remove it, or accept 'unexpected_column' to ignore it."
        report.add("unexpected_column", str(path), f"key {column!r} is in no official layout", remedy)
    ids = {f"{side}_id": raw[names[IDS[side]]].map(as_id).astype("str") for side in SIDES}
    score = {SCORE: raw[SCORE].infer_objects()} if SCORE in raw.columns else {}
    label = repairs.label_column(raw[names[SATISFIED]])
    return pd.DataFrame({**ids, "label": label, "split": split, **score, PLACE: raw.index})


def _rankings(path: Path, target: Side, split: Split, report: Report, encoding: str) -> pd.DataFrame:
    lists = repairs.read_json(path, encoding)
    if not isinstance(lists, dict):
        raise fail("malformed_json", path, "an object of queries was expected", "See the official layout.")
    keys, rows = (LISTS[target], SATISFIED), []
    for query, entry in lists.items():
        place = f"{path}, query {query!r}"
        ids, judged = (entry.get(key) if isinstance(entry, dict) else None for key in keys)
        if not isinstance(ids, list) or not isinstance(judged, list):
            report.add("missing_column", place, f"the lists {keys[0]!r} and {keys[1]!r} were expected", "Provide both.")
        elif len(ids) != len(judged):
            what = f"{len(ids)} {keys[0]} but {len(judged)} {keys[1]}"
            report.add("unequal_lists", place, what, "Give one label per candidate.")
        else:
            rows += [(target, split, query, as_id(name), label, place) for name, label in zip(ids, judged, strict=True)]
    table = pd.DataFrame(rows, columns=[*RANKING_COLUMNS, PLACE], dtype=object)
    return table.astype(dict.fromkeys(RANKING_COLUMNS[:4], "str")).assign(label=repairs.label_column(table["label"]))


def _restore(folder: Path, tables: Tables) -> dict[str, Any]:
    """Give tables read from a folder what `save` wrote beside it; returns the manifest.

    Raises KeyError, TypeError or AttributeError for a manifest of another shape.
    """

    def stale(name: str, what: str) -> CorpusError:
        return fail("stale_sidecar", folder / name, what, STALE)

    manifest = repairs.read_json(folder / MANIFEST)
    for name in ("resumes", "jobs", "labels", "rankings"):
        frame, columns = getattr(tables, name), manifest["columns"][name]
        order = manifest["order"][name] if name not in RESERVED_FILES else None
        if name in RESERVED_FILES:
            saved = repairs.read_csv(folder / RESERVED_FILES[name], Report())
            if saved["id"].tolist() != frame.index.tolist():
                raise stale(RESERVED_FILES[name], f"the ids are not those of the {name} file")
            frame = frame.assign(**{column: saved[column].to_numpy() for column in saved.columns[1:]})
        if order is not None and sorted(order) != list(range(len(frame))):
            raise stale(MANIFEST, f"{len(frame)} {name} were read, {len(order)} were saved")
        if {*frame.columns} != {*columns, PLACE}:
            raise stale(MANIFEST, f"the {name} file does not have the saved columns")
        frame = frame if order is None else frame.iloc[np.argsort(order)]
        setattr(tables, name, frame[[*columns, PLACE]])
    if manifest.get("truth", (folder / TRUTH).exists()):
        try:
            tables.truth = cast(Any, load_npz(folder / TRUTH))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise fail("unreadable", folder / TRUTH, error, STALE) from None
    return {key: manifest[key] for key in ("name", "regime", "accepted", "notes")}


# --- writing ---


def save(corpus: Corpus, path: str | Path, overwrite: bool = False) -> Path:
    """Write a corpus in the ConFit release layout; `load` gives back an equal corpus.

    The official scripts read the CSV, JSONL and JSON files as they are. What these cannot hold
    (splits, HyRe texts, the truth, name and regime) goes to files beside them whose names start
    with `confitlib`. (The scripts let pandas guess types and so take the id "007" for "7"; `load`
    keeps it.) Returns the folder. Raises FileExistsError if it holds a corpus already and
    `overwrite` is not set, ValueError for a corpus that the layout cannot hold.
    """
    folder, frames = Path(path), {"labels": corpus.labels, "rankings": corpus.rankings}
    _check_holdable(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder, overwrite)
    (folder / MANIFEST).write_text("{}", encoding="utf-8")  # so that `load` refuses what a killed `save` leaves
    for side in SIDES:
        frame = corpus.documents(side)
        frames[f"{side}s"] = frame
        _write_csv(folder / FILES[f"{side}s"][0], IDS[side], frame[corpus.fields(side)])
        _write_csv(
            folder / RESERVED_FILES[f"{side}s"], "id", frame[[name for name in frame.columns if name in RESERVED]]
        )
    for split in SPLITS:
        names = {"resume_id": IDS["resume"], "job_id": IDS["job"], "label": SATISFIED}
        table = corpus.labelled(split).astype({"label": "int64"}).drop(columns="split").rename(columns=names)
        _write(folder / FILES[split][0], "".join(json.dumps(record) + "\n" for record in table.to_dict("records")))
        for target in SIDES:
            entries = corpus.rankings[(corpus.rankings["split"] == split) & (corpus.rankings["target"] == target)]
            lists = {
                query: {LISTS[target]: group["candidate_id"].tolist(), SATISFIED: group["label"].astype(int).tolist()}
                for query, group in entries.groupby("query_id", sort=False)
            }
            _write(folder / FILES[f"{split}_rank_{target}"][0], json.dumps(lists, indent=4) if lists else "")
    if corpus.truth is not None:
        save_npz(folder / TRUTH, corpus.truth)
    manifest = {
        **{"name": corpus.name, "regime": corpus.regime, "accepted": sorted(corpus.accepted), "notes": corpus.notes},
        "columns": {table: list(map(str, frame.columns)) for table, frame in frames.items()},
        "order": {"labels": _file_order(corpus.labels), "rankings": _file_order(corpus.rankings)},
        "truth": corpus.truth is not None,
    }
    with atomic(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8", newline="")
    return folder


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
    if overwrite and (folder / MANIFEST).exists():
        for name in (MANIFEST, TRUTH, *RESERVED_FILES.values(), *(names[0] for names in FILES.values())):
            (folder / name).unlink(missing_ok=True)
    present = [name for role in FILES for name in _matches(folder, role)]
    if present or (folder / MANIFEST).exists():
        remedy = "choose another folder" if overwrite else "choose another folder or overwrite=True"
        raise FileExistsError(f"{folder} holds a corpus already ({', '.join(present)}): {remedy}")


def _write_csv(path: Path, id_column: str, frame: pd.DataFrame) -> None:
    """Write a CSV with minimal quoting; unlike the csv module, a lone carriage return is quoted too."""
    cells = frame.astype("str").fillna("").to_numpy().tolist()
    rows = [[id_column, *frame.columns], *([name, *row] for name, row in zip(frame.index, cells, strict=True))]
    quoted = ([f'"{x.replace(chr(34), chr(34) * 2)}"' if NEEDS_QUOTES.search(x) else x for x in row] for row in rows)
    _write(path, "".join(",".join(row) + "\n" for row in quoted))


def _write(path: Path, text: str) -> None:
    if text:
        path.write_text(text, encoding="utf-8", newline="")


def _file_order(frame: pd.DataFrame) -> list[int] | None:
    """Row numbers in the order in which `load` meets them, or None if that is the order of the frame."""
    keys = [frame["split"].map(SPLITS.index)]
    if "target" in frame.columns:
        queries = frame.groupby(["target", "split", "query_id"], sort=False).ngroup()
        keys = [queries, *keys, frame["target"].map(SIDES.index)]  # the last key leads
    order = np.lexsort(keys)
    return None if np.array_equal(order, np.arange(len(order))) else order.tolist()
