"""The raw Tianchi (AliYun) person-job fit tables: users, jobs and the log of actions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.readers._layouts import ALIYUN
from confitlib.readers._repair import Tables, assemble, assign_splits, document_frame, merge_events
from confitlib.readers._split import FRACTIONS, split_documents
from confitlib.readers._tables import Findings, fail, findings, places, read_csv, read_tsv, require_columns

FILES = {"resume": "table1_user", "job": "table2_jd", "action": "table3_action"}
IDS: dict[Side, str] = {"resume": "user_id", "job": "jd_no"}
MISSING = ["-", "\\N", "NULL"]  # how the dump writes an empty cell
FLAGS = ["delivered", "satisfied"]


def load_tianchi(
    folder: str | Path,
    *,
    only_labelled: bool = False,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    accept: str | Iterable[str] = (),
    encoding: str = "utf-8",
    name: str = "tianchi",
) -> Corpus:
    """Read `table1_user`, `table2_jd` and `table3_action` (no suffix, .txt, .tsv or .csv).

    Label 1: the recruiter was satisfied. Label 0: the resume was delivered and the recruiter was
    not satisfied. Pairs that were only browsed are not judged, hence no labels; `Corpus.notes`
    counts them. Of several actions on a pair the most favourable counts. Fields carry the Chinese
    names of the official configuration, so that `save` writes what the official scripts read;
    薪资 joins min_salary and max_salary. `only_labelled` leaves out documents without a label.
    Splits come from `split_documents` (`fractions`, `seed`); `accept`: see `load`; the dump has
    broken rows, hence `accept="ragged_row"`.
    """
    found, root = findings(accept), Path(folder)
    paths = {table: _path_of(root, stem) for table, stem in FILES.items()}
    labels = _labels(paths["action"], found, encoding)
    frames, origins = {}, {"labels": places(labels, str(paths["action"]))}
    for side in SIDES:
        frames[side], origins[f"{side}s"] = _documents(paths[side], side, found, encoding)
    found.settle()
    if only_labelled:
        for side in SIDES:
            used = frames[side].index.isin(labels[f"{side}_id"])
            found.notes.append(f"{int((~used).sum())} {side}s without a label are left out")
            frames[side], origins[f"{side}s"] = frames[side][used], origins[f"{side}s"][used]
    tables = Tables(frames["resume"], frames["job"], labels.reset_index(drop=True), origins=origins)
    assign_splits(tables, "cold", found)
    sources = {f"{side}s": str(paths[side]) for side in SIDES} | {"labels": str(paths["action"])}
    return split_documents(assemble(found, tables, name, sources), fractions, seed)


def _path_of(folder: Path, stem: str) -> Path:
    present = [folder / f"{stem}{suffix}" for suffix in ("", ".txt", ".tsv", ".csv")]
    present = [path for path in present if path.is_file()]
    if not present:
        raise fail("missing_file", str(folder), f"no file {stem}, {stem}.txt, .tsv or .csv", "Check the folder.")
    if len(present) > 1:
        names = ", ".join(path.name for path in present)
        raise fail("several_files", str(folder), f"several files hold {stem}: {names}", "Leave one of them there.")
    return present[0]


def _read(path: Path, columns: Sequence[str], found: Findings, encoding: str) -> pd.DataFrame:
    """The named columns of a table; the dump is tab-separated without quoting."""
    raw = read_csv(path, found, encoding) if path.suffix == ".csv" else read_tsv(path, found, encoding)
    unused = [column for column in raw.columns if column not in columns]
    if unused:
        found.notes.append(f"{path}: columns {unused} are not used")
    remedy = "Restore the header of the dump."
    frame = require_columns(raw, {column: column for column in columns}, str(path), remedy, found)
    found.settle()
    return frame


def _documents(path: Path, side: Side, found: Findings, encoding: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The documents of a side, and where each stands."""
    names = ALIYUN[side]
    raw_names = [name for name in names if name != "salary"] + (["min_salary", "max_salary"] if side == "job" else [])
    raw = _read(path, [IDS[side], *raw_names], found, encoding)
    fields = raw[raw_names].replace(MISSING, "")
    if side == "job":
        fields["salary"] = fields["min_salary"].str.cat(fields["max_salary"], sep="-").replace("-", "")
    return document_frame(side, raw[IDS[side]], fields[list(names)].rename(columns=names)), places(raw, str(path))


def _labels(path: Path, found: Findings, encoding: str) -> pd.DataFrame:
    raw = _read(path, [*IDS.values(), "browsed", *FLAGS], found, encoding)
    flags = raw[FLAGS].apply(pd.to_numeric, errors="coerce")
    odd = ~flags.isin([0, 1]).all(axis=1)
    for row in raw.index[odd]:
        what = f"delivered {raw['delivered'][row]!r}, satisfied {raw['satisfied'][row]!r}: not 0 or 1"
        remedy = "Correct the row, or accept 'unknown_label' to drop it."
        found.add("unknown_label", f"{path}, row {row}", what, remedy)
    judged = ~odd & flags.any(axis=1)
    browsed = int((~odd & ~judged).sum())
    if browsed:
        found.notes.append(f"{path}: {browsed} actions were browsing only and give no label")
    events = pd.DataFrame({f"{side}_id": raw[IDS[side]] for side in SIDES}).assign(label=flags["satisfied"])[judged]
    return merge_events(events.astype({"label": "int64"}), found)
