"""Files to frames, and frames to a valid Corpus: every fault is named by file and row, refused or repaired.

Frames that were read are indexed by the place of each row, such as "jobs.csv, row 3": records below the header
(CSV, TSV) or lines (JSON lines) from 1, blank and dropped ones included. Until the Corpus is built, every table
carries these in the column `PLACE`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from confitlib.corpus import (
    ANY_SPLIT,
    ENTRY,
    RANKING_COLUMNS,
    RESERVED,
    SIDES,
    SPLITS,
    Corpus,
    CorpusError,
    Defect,
    Side,
    blank_documents,
    conflicting_rows,
    document_uses,
    empty_frame,
)

Regime = Literal["cold", "warm"]
PLACE = "\0place"
ENCODINGS = 'Save the file as UTF-8, or name its encoding, e.g. encoding="cp1252" or "gb18030".'
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # JSON writes a character beyond U+FFFF as two of these
ACCEPTABLE: dict[str, str] = {  # repairs are made in this order: documents before what names them
    "malformed_json": "the line is dropped",
    "ragged_row": "the row is dropped",
    "unexpected_column": "the column is ignored",
    "duplicate_id": "the first document of an id is kept",
    "empty_text": "the document, its labels and its list entries are dropped",
    "unknown_document": "the label or list entry that names it is dropped",
    "unknown_label": "the label or list entry is dropped",
    "conflicting_label": "all labels of the pair are dropped",
    "duplicate_label": "the first label of the pair is kept",
    "duplicate_candidate": "the first entry is kept",
    "placeholder": "the text is kept as it is",
}

csv.field_size_limit(sys.maxsize)  # a long resume exceeds the module's 131,072 characters


class Report:
    """What a reader meets: defects, and notes of what was repaired or left out.

    `accept` names kinds of `ACCEPTABLE`; raises ValueError for another one.
    """

    def __init__(self, accept: str | Iterable[str] = ()) -> None:
        self.accept = frozenset([accept] if isinstance(accept, str) else accept)
        self.defects: list[Defect] = []
        self.notes: list[str] = []
        unknown = sorted(self.accept - ACCEPTABLE.keys())
        if unknown:
            raise ValueError(f"accept: {unknown} cannot be accepted; choose from {sorted(ACCEPTABLE)}")

    def add(self, kind: str, where: str, what: str, remedy: str) -> None:
        """Record one defect; reading goes on, so that one error names them all."""
        self.defects.append(Defect(kind, where, what, remedy))

    def settle(self) -> None:
        """Raise CorpusError with the defects that are not accepted; note the others."""
        refused = [defect for defect in self.defects if defect.kind not in self.accept]
        if refused:
            raise CorpusError(refused)
        for kind, count in Counter(defect.kind for defect in self.defects).items():
            self.notes.append(f"accepted {kind!r} ({ACCEPTABLE[kind]}): {count} found while reading")
        self.defects.clear()


def fail(kind: str, where: object, what: object, remedy: str) -> CorpusError:
    """An error with a single defect, for faults that end the reading."""
    return CorpusError([Defect(kind, str(where), str(what), remedy)])


# --- files to frames ---


def read_csv(path: Path, report: Report, encoding: str = "utf-8") -> pd.DataFrame:
    """Read a comma-separated file with a header; quoted cells may hold line breaks."""
    rows = csv.reader(io.StringIO(_decode(path, encoding), newline=""), strict=True)
    try:
        return _rectangle(path, list(rows), report)
    except csv.Error as error:
        what = f"the row cannot be parsed: {error}"
        raise fail("malformed_row", f"{path}, line {rows.line_num}", what, "Check its quotes.") from None


def read_tsv(path: Path, report: Report, encoding: str = "utf-8") -> pd.DataFrame:
    """Read a tab-separated file with a header; quotes are text, a row is a line."""
    lines = _decode(path, encoding).removesuffix("\n").split("\n")
    return _rectangle(path, [line.removesuffix("\r").split("\t") for line in lines], report)


def read_jsonl(path: Path, report: Report, encoding: str = "utf-8", required: Sequence[str] = ()) -> pd.DataFrame:
    """Read one JSON object a line; `required` keys must be in every line."""
    records: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(_decode(path, encoding).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = _parse(line)
            if not isinstance(record, dict):
                raise ValueError(f"a JSON object was expected, not {line[:40]!r}")
        except ValueError as error:
            remedy = "Repair the line, or accept 'malformed_json' to drop it."
            report.add("malformed_json", f"{path}, line {number}", str(error), remedy)
            continue
        missing = [key for key in required if key not in record]
        if missing:
            remedy = f"Provide {list(required)} in every line."
            report.add("missing_column", f"{path}, line {number}", f"the line lacks {missing}", remedy)
        else:
            records[f"{path}, row {number}"] = record
    columns = list(dict.fromkeys(key for record in records.values() for key in record)) or list(required)
    cells = {column: [record.get(column) for record in records.values()] for column in columns}
    return pd.DataFrame(cells, index=list(records), dtype=object)


def read_parquet(path: Path, report: Report, encoding: str = "utf-8") -> pd.DataFrame:
    """Read a Parquet file; numbers and lists keep their types."""
    try:
        frame = pd.read_parquet(path, dtype_backend="numpy_nullable").astype(object)
    except FileNotFoundError:
        raise fail("missing_file", path, "the file does not exist", "Check the path.") from None
    except (OSError, ValueError) as error:
        raise fail("unreadable", path, error, "Fetch or write the file again.") from None
    return frame.where(frame.notna(), None).set_axis(numbered(path, len(frame)))


def read_json(path: Path, encoding: str = "utf-8") -> Any:
    """Read a JSON file; a key that occurs twice in one object is an error, not the last one."""
    text = _decode(path, encoding)
    try:
        return _parse(text)
    except ValueError as error:
        raise fail("malformed_json", path, error, "Repair the file.") from None


FORMATS: dict[str, Callable[[Path, Report, str], pd.DataFrame]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def read_table(path: Path, report: Report, encoding: str = "utf-8") -> pd.DataFrame:
    """Read a .csv, .tsv, .jsonl (or .gz of one) or .parquet file; cells keep their text, ids their zeros."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: cannot tell the format; rename it to one of {', '.join(FORMATS)} (or .gz)")
    return FORMATS[suffix](path, report, encoding)


def numbered(where: object, n: int) -> list[str]:
    """The places of n rows, counted from 1."""
    return [f"{where}, row {number}" for number in range(1, n + 1)]


def as_text(value: Any) -> str:
    """A cell as text: nothing as "", a list as its items in lines, anything else as `str` shows it."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return "\n".join(as_text(item) for item in value)
    return "" if value is None or value != value else str(value)


def as_id(value: Any) -> str:
    """A cell as a document id: 7 and 7.0 become "7", a string stays as it is."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else as_text(value)


def _decode(path: Path, encoding: str) -> str:
    """The text of a file; an error names the row or line of the first byte that is not in this encoding."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except FileNotFoundError:
        raise fail("missing_file", path, "the file does not exist", "Check the path.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise fail("unreadable", path, error, "Fetch or pack the file again.") from None
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise ValueError(f"encoding {encoding!r} is unknown to Python: use e.g. 'utf-8', 'cp1252', 'gb18030'") from None
    except UnicodeDecodeError as error:
        before, what = (
            raw[: error.start].decode(encoding) + "?",
            f"byte 0x{raw[error.start]:02x} at offset {error.start}",
        )
        records = len(list(csv.reader(io.StringIO(before, newline="")))) if ".csv" in path.suffixes else 0
        row = (records or before.count("\n") + 1) - 1  # below the header
        place = f"line {row + 1}" if {".json", ".jsonl"} & set(path.suffixes) else f"row {row}" if row else "header"
        raise fail("encoding", f"{path}, {place}", f"{what} is not {encoding}", ENCODINGS) from None


def _rectangle(path: Path, rows: list[list[str]], report: Report) -> pd.DataFrame:
    """The rows below the header as a frame; one with another number of cells is a defect."""
    header = rows[0] if rows else []
    if header in ([], [""]):
        raise fail("missing_column", path, "the file is empty", "Provide a header and rows.")
    repeated = sorted(name for name, count in Counter(header).items() if count > 1)
    if repeated:
        raise fail("duplicate_column", f"{path}, header", f"columns {repeated} occur twice", "Rename one of them.")
    complete = {}
    for place, row in zip(numbered(path, len(rows) - 1), rows[1:], strict=True):
        if len(row) == len(header):
            complete[place] = row
        elif row not in ([], [""]):  # an empty line separates nothing
            remedy = "Quote cells that hold the separator, or accept 'ragged_row' to drop the row."
            report.add("ragged_row", place, f"{len(row)} cells, the header has {len(header)}", remedy)
    return pd.DataFrame(list(complete.values()), index=list(complete), columns=header, dtype="str")


def _parse(text: str) -> Any:
    """JSON whose keys are unique and whose text is whole; raises ValueError."""
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
        if HALF_PAIR.search(text):
            json.dumps(content, ensure_ascii=False).encode()  # a lone surrogate is no character: UnicodeEncodeError
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"key {repeated[0]!r} occurs twice in one object")
    return record


# --- columns ---


def check_columns(columns: Mapping[str, Mapping[str, Any]], allowed: Mapping[str, Iterable[str]]) -> None:
    """Raise ValueError for a table or a name in `columns` that a reader does not know."""
    for table, names in columns.items():
        if table not in allowed:
            raise ValueError(f"columns: {table!r} is an unknown table; choose from {sorted(allowed)}")
        unknown = sorted(set(names) - set(allowed[table]))
        if unknown:
            raise ValueError(f"columns: {unknown} are unknown names of {table!r}; choose from {sorted(allowed[table])}")


def select(frame: pd.DataFrame, columns: Sequence[str], where: object, remedy: str, report: Report) -> pd.DataFrame:
    """The named columns, in this order; adds a defect with the `remedy` for every one that is missing."""
    for column in columns:
        if column not in frame.columns:
            present = ", ".join(map(str, frame.columns)) or "none"
            report.add("missing_column", str(where), f"no column {column!r} (there are: {present})", remedy)
    return frame.reindex(columns=list(columns))


def map_it(table: str, canonical: str) -> str:
    """The remedy for a column named otherwise, where `columns` has a mapping by table."""
    return f'Map it: columns={{"{table}": {{"{canonical}": "<a column of the file>"}}}}.'


def note_unused(frame: pd.DataFrame, used: Iterable[str], where: object, report: Report) -> None:
    """Note the columns of a table that are not used."""
    unused = [str(name) for name in frame.columns if name not in {*used}]
    if unused:
        report.notes.append(f"{where}: columns {unused} are not used")


def document_frame(side: Side, ids: pd.Series, fields: pd.DataFrame) -> pd.DataFrame:
    """A frame of one side as Corpus wants it, index of string ids and columns of text, and `PLACE`."""
    index = pd.Index([as_id(value) for value in ids], name=f"{side}_id", dtype="str")
    columns = {str(name): [as_text(value) for value in fields[name]] for name in fields.columns}
    return pd.DataFrame(columns, index=index, dtype="str").assign(**{PLACE: fields.index})


def label_column(values: pd.Series) -> pd.Series:
    """Labels as integers if all are whole numbers; else the odd ones as text, for the check to name them."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    whole = (numbers % 1 == 0) & (numbers.abs() < 2**53)
    integers = numbers.where(whole).astype("Int64")
    return integers.astype("int64") if whole.all() else integers.astype(object).where(whole, values.map(str))


def merge_events(events: pd.DataFrame, report: Report) -> pd.DataFrame:
    """One label a pair from a log of events, under its first place: accepted if any event was; all in split train."""
    pairs = events.assign(**{PLACE: events.index}).groupby(["resume_id", "job_id"], sort=False)
    merged = pairs.agg(**{"label": ("label", "max"), PLACE: (PLACE, "first")}).reset_index()
    if len(merged) < len(events):
        report.notes.append(f"{len(events)} events were merged into {len(merged)} labelled pairs, accepted if any was")
    return merged.assign(split="train")


# --- frames to a Corpus ---


@dataclass
class Tables:
    """The frames of a corpus on their way to a Corpus, with the column `PLACE` in each."""

    resumes: pd.DataFrame
    jobs: pd.DataFrame
    labels: pd.DataFrame
    rankings: pd.DataFrame = field(default_factory=lambda: empty_frame([*RANKING_COLUMNS, PLACE]))
    truth: csr_array | None = None

    def documents(self, side: Side) -> pd.DataFrame:
        """The frame of one side."""
        return self.resumes if side == "resume" else self.jobs

    def corpus(self, **settings: Any) -> Corpus:
        """The Corpus of these tables; raises CorpusError with every defect and its place."""
        frames = {"resumes": self.resumes, "jobs": self.jobs}
        frames |= {name: getattr(self, name).reset_index(drop=True) for name in ("labels", "rankings")}
        settings |= {name: frame.drop(columns=PLACE) for name, frame in frames.items()}
        return Corpus(
            truth=self.truth, places={name: frame[PLACE].tolist() for name, frame in frames.items()}, **settings
        )

    def drop(self, rows: Mapping[str, ArrayLike]) -> str:
        """Drop the marked rows of each named table, and of the truth with its documents; says how many."""
        counts = Counter({name: int(np.sum(mask)) for name, mask in rows.items()})
        for name, mask in rows.items():
            keep = np.flatnonzero(~np.asarray(mask, dtype=bool))
            setattr(self, name, getattr(self, name).iloc[keep])
            if self.truth is not None and name in ("resumes", "jobs"):
                self.truth = self.truth[keep] if name == "resumes" else self.truth[:, keep]
        done = [f"{counts[name]} {name} dropped" for name in ("resumes", "jobs") if counts[name]]
        if counts["labels"] or counts["rankings"]:
            done.append(f"{counts['labels']} labels and {counts['rankings']} list entries dropped")
        return ", ".join(done)


def assign_splits(tables: Tables, regime: Regime, report: Report) -> None:
    """Give every document without one the split it is used in; documents in no label or list go to train.

    A document used in several splits takes the first of train, valid and test, so that the check
    reports the leak; in the warm regime it takes `any`.
    """
    for side in SIDES:
        frame = tables.documents(side)
        if "split" in frame.columns:
            continue
        uses = document_uses(tables.labels, tables.rankings, side).drop_duplicates(["id", "split"])
        uses = uses.sort_values("split", key=lambda split: split.map(SPLITS.index, na_action="ignore"), kind="stable")
        home = uses.drop_duplicates("id").set_index("id")["split"]
        if regime == "warm":
            home[home.index.isin(uses["id"][uses["id"].duplicated()])] = ANY_SPLIT
        split = frame.index.to_series().map(home)
        unused = int(split.isna().sum())
        if unused:
            report.notes.append(f"{unused} {side}s occur in no label and no list: they are in split 'train'")
        frame["split"] = split.fillna("train").astype("str")


def assemble(
    report: Report, tables: Tables, name: str, regime: Regime = "cold", tolerated: frozenset[str] = frozenset()
) -> Corpus:
    """Build the Corpus, repairing the accepted kinds of defect; `notes` counts what that dropped.

    `tolerated` kinds stay as they are. Raises CorpusError with every defect that was not accepted.
    """
    report.settle()
    try:
        return tables.corpus(name=name, regime=regime, accepted=tolerated, notes=tuple(report.notes))
    except CorpusError as error:
        kinds = Counter(defect.kind for defect in error.defects)
        refused = [defect for defect in error.defects if defect.kind not in report.accept]
    if refused:
        raise CorpusError(refused)
    for kind in ACCEPTABLE:
        rows = rows_to_drop(tables, kind) if kind in report.accept - tolerated else {}
        done = tables.drop(rows)
        report.notes += [f"accepted {kind!r}: {done}"] if done else []
    if kinds["placeholder"]:
        report.notes.append(f"accepted 'placeholder': {kinds['placeholder']} documents keep their placeholder text")
        tolerated |= {"placeholder"}
    for table in (tables.labels, tables.rankings):
        if table["label"].isin([-1, 0, 1]).all():
            table["label"] = table["label"].astype("int64")  # the odd ones are gone
    return tables.corpus(name=name, regime=regime, accepted=tolerated, notes=tuple(report.notes))


def rows_to_drop(tables: Tables, kind: str) -> Mapping[str, ArrayLike]:
    """The rows of each table that an accepted kind of defect costs."""
    labels, rankings = tables.labels, tables.rankings
    if kind == "duplicate_id":
        return {f"{side}s": tables.documents(side).index.duplicated() for side in SIDES}
    if kind == "empty_text":
        blank = {}
        for side in SIDES:
            frame = tables.documents(side)
            blank[f"{side}s"] = blank_documents(frame, frame.columns.difference([*RESERVED, PLACE]).tolist())
        gone = {side: tables.documents(side).index[blank[f"{side}s"]] for side in SIDES}
        return {**blank, **_naming(tables, lambda side, ids: ids.isin(gone[side]))}
    if kind == "unknown_document":
        return _naming(tables, lambda side, ids: ~ids.isin(tables.documents(side).index))
    if kind == "unknown_label":
        return {"labels": ~labels["label"].isin([0, 1]), "rankings": ~rankings["label"].isin([-1, 0, 1])}
    if kind == "conflicting_label":
        return dict(zip(("labels", "rankings"), conflicting_rows(labels, rankings), strict=True))
    if kind == "duplicate_label":
        return {"labels": labels.duplicated(["resume_id", "job_id"])}
    if kind == "duplicate_candidate":
        numbered_rows = rankings.reset_index(drop=True)
        judged_first = numbered_rows.sort_values("label", key=lambda label: label == -1, kind="stable")
        return {"rankings": judged_first.duplicated(ENTRY).sort_index().to_numpy()}
    return {}


def _naming(tables: Tables, gone: Callable[[Side, pd.Series], pd.Series]) -> dict[str, NDArray[np.bool_]]:
    """The labels and list entries that name a document for which `gone(side, ids)` holds."""
    labels, rankings = tables.labels, tables.rankings
    rows, entries = np.zeros(len(labels), dtype=bool), np.zeros(len(rankings), dtype=bool)
    for side in SIDES:
        rows |= gone(side, labels[f"{side}_id"]).to_numpy()
        named = rankings["candidate_id"].where(rankings["target"] == side, rankings["query_id"])
        entries |= gone(side, named).to_numpy()
    return {"labels": rows, "rankings": entries}
