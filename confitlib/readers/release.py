"""The ConFit release layout, versions 1 and 2: read it, and write it for the official scripts.

What the layout cannot hold (splits, HyRe texts, the truth, scores, name, regime and row order) `save` writes to one
file beside it, confitlib.npz.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from confitlib.corpus import COPY_OF, LABEL_COLUMNS, RANKING_COLUMNS, RESERVED, SIDES, SPLITS, Corpus, Regime, Side
from confitlib.readers import repairs
from confitlib.readers.repairs import PLACE, Accept, Report, as_id, fail, select
from confitlib.util import atomic, checked, files_hash, make_folder, parse_json, read_yaml

IDS: dict[Side, str] = {"resume": "user_id", "job": "jd_no"}
LISTS: dict[Side, str] = {"resume": "user_ids", "job": "jd_nos"}
SATISFIED = "satisfied"
LAYOUT = read_yaml(Path(__file__).with_name("release.yaml"), dict)
FILES: dict[str, list[str]] = LAYOUT["files"]
AUGMENTED = r"^aug_(?:eda|chatgpt)_"  # opens the ids of copies in the augmented files of version 1
SIDECAR = "confitlib.npz"
TRUTH = ("data", "indices", "indptr")
NEEDS_QUOTES = re.compile('[,"\r\n]')


# --- reading ---


@checked
def load(path: str | Path, accept: Accept = (), *, encoding: str = "utf-8", regime: Regime = "cold") -> Corpus:
    """Read a folder in the ConFit release layout (v1 or v2), or one that `save` wrote.

    `accept`: kinds of defect to repair (`ACCEPTABLE` lists them and what each repair drops);
    `Corpus.notes` counts what was dropped. `regime`: "warm" lets a document be used in several splits.
    Both are for releases; a saved corpus is read as it was.

    A document belongs to the split that uses it. A document `aug_eda_7` or `aug_chatgpt_7` of the official augmented
    files is a copy of document `7`. Raises CorpusError with every defect, each with file, row and remedy.

    >>> from tempfile import TemporaryDirectory
    >>> from confitlib import compose, load
    >>> from confitlib.readers import save
    >>> corpus = compose("tiny").corpus
    >>> with TemporaryDirectory() as folder:
    ...     print(load(save(corpus, folder)) == corpus)
    True
    """
    folder, report = Path(path), Report(accept)
    paths = locate(folder, FILES, ("resumes", "jobs"))
    if any(folder.glob("confitlib*")):
        return _load_saved(folder, paths)
    documents = {f"{side}s": _documents(paths[f"{side}s"], side, report, encoding) for side in SIDES}
    keys = [*IDS.values(), SATISFIED]
    labels = [pd.DataFrame(columns=[*LABEL_COLUMNS, PLACE])]
    for split in [split for split in SPLITS if split in paths]:
        raw = repairs.read_jsonl(paths[split], report, encoding, required=keys)
        for column in raw.columns.difference(keys):
            report.add("unexpected_column", paths[split], f"key {column!r} is in no official layout")
        ids = {f"{side}_id": raw[IDS[side]].map(as_id).astype("str") for side in SIDES}
        label = repairs.label_column(raw[SATISFIED])
        labels.append(pd.DataFrame({**ids, "label": label, "split": split, PLACE: raw.index}))
    roles = {f"{split}_rank_{target}": (target, split) for target in SIDES for split in SPLITS}
    rows = [row for role in roles if role in paths for row in _list_rows(paths[role], *roles[role], report, encoding)]
    report.settle()
    absent = [role for role in FILES if role not in paths and not role.startswith("train_rank")]
    report.notes += [f"the folder has no file for: {', '.join(absent)}"] if absent else []
    tables = documents | {"labels": pd.concat(labels[1:] or labels), "rankings": repairs.list_frame(rows)}
    return repairs.assemble(tables, report, folder.name, regime)


def locate(folder: Path, files: Mapping[str, Sequence[str]], needed: Collection[str] = ()) -> dict[str, Path]:
    """The file of every role for which the folder has one, by patterns; the roles that are needed must have one."""
    if not folder.is_dir():
        raise fail("missing_file", folder, "the folder does not exist")
    paths, report = {}, Report()
    for role, patterns in files.items():
        names = sorted({match.name for pattern in patterns for match in folder.glob(pattern)})
        if len(names) > 1:
            report.add("several_files", folder, f"several files hold {role}: {', '.join(names)}")
        elif names:
            paths[role] = folder / names[0]
        elif role in needed:
            report.add("missing_file", folder, f"no file named {' or '.join(patterns)}", "Give the file this name.")
    report.settle()
    return paths


def _documents(path: Path, side: Side, report: Report, encoding: str) -> pd.DataFrame:
    raw = repairs.read_separated(path, report, encoding)
    ids = select(raw, [IDS[side]], path, f"Name the column of ids {IDS[side]!r}.", report)[IDS[side]]
    others = [column for column in raw.columns if column != IDS[side]]
    # the official scripts assert that every column is a configured field (src/preprocess/dataset.py)
    raw_names = LAYOUT["aliyun"][side]
    layouts = [list(raw_names.values()), list(raw_names), LAYOUT["intellipro"][side], [f"text_{side}"]]
    layout = next((layout for layout in layouts if set(layout) <= set(others)), others)
    fit = [name for name in layout if name.strip() and not name.startswith("Unnamed:")]
    odd = [name for name in others if name not in (*fit, *RESERVED)]
    for name in odd:
        report.add("unexpected_column", f"{path}, header", f"column {name!r} is in no official layout")
    frame = repairs.document_frame(side, ids, raw[[name for name in others if name not in odd]])
    origin = frame.index.to_series().str.replace(AUGMENTED, "", regex=True)
    copied = (origin != frame.index) & origin.isin(frame.index)
    return frame if not copied.any() or COPY_OF in frame else frame.assign(**{COPY_OF: origin.where(copied, "")})


def _list_rows(path: Path, target: Side, split: str, report: Report, encoding: str) -> list[tuple[Any, ...]]:
    try:
        lists = parse_json(repairs.decode(path, encoding))
        if not isinstance(lists, dict):
            raise ValueError("an object of queries was expected")
    except ValueError as error:
        raise fail("malformed_json", path, error, "Repair the file.") from None
    keys = (LISTS[target], SATISFIED)
    rows: list[tuple[Any, ...]] = []
    for query, entry in lists.items():
        place = f"{path}, query {query!r}"
        ids, judged = (entry.get(key) if isinstance(entry, dict) else None for key in keys)
        if not isinstance(ids, list) or not isinstance(judged, list):
            report.add("missing_column", place, f"the lists {keys[0]!r} and {keys[1]!r} were expected", "Provide both.")
        elif len(ids) != len(judged):
            report.add("unequal_lists", place, f"{len(ids)} {keys[0]} but {len(judged)} {keys[1]}")
        else:
            rows += [(target, split, query, as_id(name), label, place) for name, label in zip(ids, judged, strict=True)]
    return rows


def _load_saved(folder: Path, paths: Mapping[str, Path]) -> Corpus:
    """The corpus that `save` wrote: texts from the CSV files, everything else from the sidecar."""
    parts: dict[str, Any] = {}
    try:
        with np.load(folder / SIDECAR) as arrays:
            saved = json.loads(arrays["settings"].tobytes())
            truth: Any = tuple(arrays[f"truth_{name}"] for name in TRUTH if f"truth_{name}" in arrays)
        if saved["files"] != files_hash(*paths.values()):
            raise ValueError("the release files are not those that were saved with it")
        for side in SIDES:
            texts = repairs.read_separated(paths[f"{side}s"], Report()).set_index(IDS[side]).rename_axis(f"{side}_id")
            parts[f"{side}s"] = texts.assign(**saved[f"{side}s"])[saved["columns"][side]].astype("str")
        for table, columns in (("labels", LABEL_COLUMNS), ("rankings", RANKING_COLUMNS)):
            types = {column: "int64" if column == "label" else "str" for column in columns}
            parts[table] = pd.DataFrame(saved[table]).astype(types)
        parts["truth"] = csr_array(truth, shape=(len(parts["resumes"]), len(parts["jobs"]))) if truth else None
        parts |= {"name": saved["name"], "regime": saved["regime"]}
        parts |= {"accepted": frozenset(saved["accepted"]), "notes": tuple(saved["notes"])}
        return Corpus(**parts)
    except Exception as error:  # whatever numpy, zipfile or pandas make of it, it is not what was saved
        what = f"not saved completely, saved by another version, or changed since: {error}"
        raise fail("stale_sidecar", folder / SIDECAR, what) from None


# --- writing ---


def save(corpus: Corpus, path: str | Path) -> Path:
    """Write a corpus in the ConFit release layout; `load` gives back an equal corpus.

    The official scripts read the CSV, JSONL and JSON files as they are. What these cannot hold goes to the file
    confitlib.npz beside them; without it the folder reads as a plain release. (The scripts let pandas guess types and
    so take the id "007" for "7"; `load` keeps it.) Returns the folder. Raises FileExistsError if it holds a corpus
    already, ValueError for a corpus that the layout cannot hold.
    """
    folder = Path(path)
    # 1. what the layout cannot hold is refused
    extra = set(corpus.labels.columns) - {*LABEL_COLUMNS, "score"} | set(corpus.rankings.columns) - set(RANKING_COLUMNS)
    if extra:
        raise ValueError(f"the ConFit layout cannot hold the label or ranking columns {sorted(extra)}: drop them")
    for side in SIDES:
        if IDS[side] in corpus.fields(side):
            raise ValueError(f"the ConFit layout keeps {side} ids in {IDS[side]!r}: rename the field of that name")
    if any(table["label"].dtype.kind not in "biu" for table in (corpus.labels, corpus.rankings)):
        raise ValueError("the ConFit layout holds whole-number labels only")
    patterns = [pattern for role in FILES.values() for pattern in role]
    if present := sorted({match.name for pattern in [*patterns, "confitlib*"] for match in folder.glob(pattern)}):
        raise FileExistsError(f"{folder} holds a corpus already ({', '.join(present)}): choose or clear a folder")
    # 2. the release files
    make_folder(folder)
    (folder / SIDECAR).touch()  # so that `load` refuses what a killed `save` leaves
    settings: dict[str, Any] = {"name": corpus.name, "regime": corpus.regime, "notes": corpus.notes, "columns": {}}
    for side in SIDES:
        frame = corpus.documents(side).astype("str").fillna("")
        _write_csv(folder / FILES[f"{side}s"][0], IDS[side], frame[corpus.fields(side)])
        settings["columns"][side] = list(frame.columns)
        settings[f"{side}s"] = frame[[column for column in frame.columns if column in RESERVED]].to_dict("list")
    names = {"resume_id": IDS["resume"], "job_id": IDS["job"], "label": SATISFIED}
    for split in SPLITS:
        judged = corpus.labelled(split)[list(names)].astype({"label": "int64"}).rename(columns=names)
        _write(folder / FILES[split][0], "".join(json.dumps(record) + "\n" for record in judged.to_dict("records")))
        for target in SIDES:
            entries = corpus.rankings[(corpus.rankings["split"] == split) & (corpus.rankings["target"] == target)]
            lists = {}
            for query, group in entries.astype({"label": int}).groupby("query_id", sort=False):
                lists[query] = {LISTS[target]: group["candidate_id"].tolist(), SATISFIED: group["label"].tolist()}
            _write(folder / FILES[f"{split}_rank_{target}"][0], json.dumps(lists, indent=4) if lists else "")
    # 3. the sidecar
    settings |= {"labels": corpus.labels.to_dict("list"), "rankings": corpus.rankings.to_dict("list")}
    settings |= {"accepted": sorted(corpus.accepted), "files": files_hash(*locate(folder, FILES).values())}
    arrays: dict[str, Any] = {"settings": np.frombuffer(json.dumps(settings).encode(), dtype=np.uint8)}
    if corpus.truth is not None:
        arrays |= {f"truth_{name}": getattr(corpus.truth, name) for name in TRUTH}
    with atomic(folder / SIDECAR) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return folder


def _write_csv(path: Path, id_column: str, frame: pd.DataFrame) -> None:
    """Write a CSV with minimal quoting; unlike the csv module, a lone carriage return is quoted too."""
    table = frame.reset_index(names=id_column)
    rows = [list(table.columns), *table.to_numpy().tolist()]
    quoted = ([f'"{x.replace(chr(34), chr(34) * 2)}"' if NEEDS_QUOTES.search(x) else x for x in row] for row in rows)
    _write(path, "".join(",".join(row) + "\n" for row in quoted))


def _write(path: Path, text: str) -> None:
    if text:
        path.write_text(text, encoding="utf-8", newline="")
