"""Files to frames, and frames to a valid Corpus: every fault is named by file and row, refused or repaired.

Frames that were read are indexed by the place of each row, such as "jobs.csv, row 3": records below the header
(CSV, TSV) or lines (JSON lines) from 1, blank and dropped ones included. Until the Corpus is built, every table
carries these in the column `PLACE`.
"""

import csv
import gzip
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from confitlib.corpus import KINDS, RANKING_COLUMNS, SIDES, Corpus, CorpusError, Defect, Regime, defect_rows, home_of
from confitlib.util import parse_json, plain_file

PLACE = "\0place"
ACCEPTABLE = {kind: entry["repair"] for kind, entry in KINDS.items() if "repair" in entry}
Accept = str | Iterable[str]  # kinds of defect
Tables = dict[str, pd.DataFrame]  # resumes, jobs, labels and, where there are any, rankings, each with `PLACE`

csv.field_size_limit(sys.maxsize)  # a long resume exceeds the module's 131,072 characters


class Report:
    """What a reader meets: defects, and notes of what was repaired or left out.

    `accept` names kinds of `ACCEPTABLE`; raises ValueError for another one.
    """

    def __init__(self, accept: Accept = ()) -> None:
        self.accept = frozenset([accept] if isinstance(accept, str) else accept)
        self.defects: list[Defect] = []
        self.notes: list[str] = []
        if unknown := sorted(self.accept - ACCEPTABLE.keys()):
            raise ValueError(f"accept: {unknown} cannot be accepted; choose from {sorted(ACCEPTABLE)}")

    def add(self, kind: str, where: object, what: str, remedy: str = "") -> None:
        """Record one defect; reading goes on, so that one error names them all."""
        self.defects.append(Defect(kind, str(where), what, remedy))

    def settle(self) -> None:
        """Raise CorpusError with the defects that are not accepted; note the others."""
        if refused := [defect for defect in self.defects if defect.kind not in self.accept]:
            raise CorpusError(refused)
        for kind, count in Counter(defect.kind for defect in self.defects).items():
            self.notes.append(f"accepted {kind!r} ({ACCEPTABLE[kind]}): {count} found while reading")
        self.defects.clear()


def fail(kind: str, where: object, what: object, remedy: str = "") -> CorpusError:
    """An error with a single defect, for faults that end the reading."""
    return CorpusError([Defect(kind, str(where), str(what), remedy)])


# --- files to frames ---


def read_separated(path: Path, report: Report, encoding: str = "utf-8", header: int | None = 0) -> pd.DataFrame:
    """Read rows of cells below a header; with `header=None` there is none, and columns are named "1", "2", ….

    In a .csv file cells are separated by commas and quoted ones may hold line breaks; in any other a row is a line,
    cells are separated by tabs, and quotes are text. A row with another number of cells than the header is a defect.
    """
    text = decode(path, encoding)
    if path.name.lower().removesuffix(".gz").endswith(".csv"):
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            rows = list(reader)
        except csv.Error as error:
            what = f"the row cannot be parsed: {error}"
            raise fail("malformed_row", f"{path}, line {reader.line_num}", what) from None
    else:
        rows = [line.removesuffix("\r").split("\t") for line in text.removesuffix("\n").split("\n")]
    if not rows or rows[0] in ([], [""]):
        raise fail("missing_column", path, "the file is empty", "Provide a header and rows.")
    rows = rows if header == 0 else [[str(place) for place in range(1, len(rows[0]) + 1)], *rows]
    names = rows[0]
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise fail("duplicate_column", f"{path}, header", f"columns {repeated} occur twice")
    complete = {}
    for place, row in zip(numbered(path, len(rows) - 1), rows[1:], strict=True):
        if len(row) == len(names):
            complete[place] = row
        elif row not in ([], [""]):  # an empty line separates nothing
            report.add("ragged_row", place, f"{len(row)} cells, the header has {len(names)}")
    return pd.DataFrame(list(complete.values()), index=list(complete), columns=names, dtype="str")


def read_jsonl(path: Path, report: Report, encoding: str = "utf-8", required: Sequence[str] = ()) -> pd.DataFrame:
    """Read one JSON object a line; `required` keys must be in every line."""
    records: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(decode(path, encoding).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
            if not isinstance(record, dict):
                raise ValueError(f"a JSON object was expected, not {line[:40]!r}")
        except ValueError as error:
            report.add("malformed_json", f"{path}, line {number}", str(error))
            continue
        if missing := [key for key in required if key not in record]:
            remedy = f"Provide {list(required)} in every line."
            report.add("missing_column", f"{path}, line {number}", f"the line lacks {missing}", remedy)
        else:
            records[f"{path}, row {number}"] = record
    columns = None if any(records.values()) else list(required)
    return pd.DataFrame(list(records.values()), index=list(records), columns=columns, dtype=object)


def read_table(path: Path, report: Report, encoding: str = "utf-8", header: int | None = 0) -> pd.DataFrame:
    """Read a .csv, .tsv, .jsonl (or .gz of one) or .parquet file; cells keep their text, ids their zeros.

    A folder of .txt files is a table of `id` (the name) and `text`; a file of TREC judgements (.qrels) one of
    `query_id`, `iteration`, `document_id` and `label`.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if path.is_dir() and (files := sorted(path.glob("*.txt"))):
        cells = {"id": [file.stem for file in files], "text": [decode(file, encoding) for file in files]}
        return pd.DataFrame(cells, index=[str(file) for file in files], dtype="str")
    if suffix == ".qrels":
        rows = [line.split() for line in decode(path, encoding).splitlines()]
        ragged = [place for place, row in zip(numbered(path, len(rows)), rows, strict=True) if len(row) not in (0, 4)]
        if ragged:
            raise fail("ragged_row", ragged[0], "not 4 cells", "Write query, iteration, document and label.")
        frame = pd.DataFrame(rows, numbered(path, len(rows)), ["query_id", "iteration", "document_id", "label"], "str")
        return frame.dropna()
    if suffix in (".csv", ".tsv"):
        return read_separated(path, report, encoding, header)
    if suffix == ".jsonl":
        return read_jsonl(path, report, encoding)
    if suffix != ".parquet":
        raise ValueError(f"{path}: cannot tell the format; rename it to one of .csv, .tsv, .jsonl, .parquet (or .gz)")
    try:
        frame = pd.read_parquet(plain_file(path), dtype_backend="numpy_nullable").astype(object)
    except FileNotFoundError as error:
        raise fail("missing_file", path, error) from None
    except (OSError, ValueError) as error:
        raise fail("unreadable", path, error) from None
    return frame.where(frame.notna(), None).set_axis(numbered(path, len(frame)))


def numbered(where: object, n: int) -> list[str]:
    """The places of n rows, counted from 1."""
    return [f"{where}, row {number}" for number in range(1, n + 1)]


def as_text(value: Any) -> str:
    """A cell as text: nothing as "", a list in lines, truth values and objects as JSON, the rest as `str` has it."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return "\n".join(as_text(item) for item in value)
    if isinstance(value, bool | np.bool_ | dict):
        return json.dumps(value, ensure_ascii=False, default=lambda one: one.tolist())
    return "" if value is None or value != value else str(value)


def as_id(value: Any) -> str:
    """A cell as a document id: 7 and 7.0 become "7", a string stays as it is."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else as_text(value)


def decode(path: Path, encoding: str) -> str:
    """The text of a file; an error names the row or line of the first byte that is not in this encoding."""
    try:
        raw = plain_file(path).read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except FileNotFoundError as error:
        raise fail("missing_file", path, error) from None
    except (OSError, EOFError, zlib.error) as error:
        raise fail("unreadable", path, error) from None
    try:
        text = raw.decode(encoding).removeprefix("\ufeff")
        if not encoding.lower().startswith("utf-8") and is_utf_8(raw, text):
            raise fail("encoding", path, f"the file is UTF-8, not {encoding}", 'Leave encoding="utf-8".')
        return text
    except LookupError:
        raise ValueError(f"encoding {encoding!r} is unknown to Python: use e.g. 'utf-8', 'cp1252', 'gb18030'") from None
    except UnicodeDecodeError as error:
        before, what = raw[: error.start].decode(encoding) + "?", f"byte 0x{raw[error.start]:02x}"
        records = len(list(csv.reader(io.StringIO(before, newline="")))) if ".csv" in path.suffixes else 0
        row = (records or before.count("\n") + 1) - 1  # below the header
        place = f"line {row + 1}" if {".json", ".jsonl"} & set(path.suffixes) else f"row {row}" if row else "header"
        raise fail("encoding", f"{path}, {place}", f"{what} at offset {error.start} is not {encoding}") from None


def is_utf_8(raw: bytes, text: str) -> bool:
    """Whether bytes are UTF-8 although they could be decoded otherwise, to `text`: one letter may be chance."""
    plain = raw.decode("utf-8", "replace")
    several = len(plain) < len(text) or sum(sign > "\x7f" for sign in (text if raw.isascii() else plain)) > 1
    return plain != text and several and "\0" not in plain and "\ufffd" not in plain


# --- columns ---


def select(frame: pd.DataFrame, columns: Sequence[str], where: object, remedy: str, report: Report) -> pd.DataFrame:
    """The named columns, in this order; adds a defect with the `remedy` for every one that is missing."""
    for column in columns:
        if column not in frame.columns:
            present = ", ".join(map(str, frame.columns)) or "none"
            report.add("missing_column", str(where), f"no column {column!r} (there are: {present})", remedy)
    return frame.reindex(columns=list(columns))


def note_unused(frame: pd.DataFrame, used: Iterable[str], where: object, report: Report) -> None:
    """Note the columns of a table that are not used."""
    if unused := [str(name) for name in frame.columns if name not in {*used}]:
        report.notes.append(f"{where}: columns {unused} are not used")


def document_frame(side: str, ids: pd.Series, fields: pd.DataFrame) -> pd.DataFrame:
    """A frame of one side as Corpus wants it, index of string ids and columns of text, and `PLACE`."""
    index = pd.Index([as_id(value) for value in ids], name=f"{side}_id", dtype="str")
    return fields.map(as_text).astype("str").rename(columns=str).set_axis(index).assign(**{PLACE: fields.index})


def label_column(values: pd.Series) -> pd.Series:
    """Labels as integers if all are whole numbers; else the odd ones as text, for the check to name them."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    whole = (numbers % 1 == 0) & (numbers.abs() < 2**53)
    integers = numbers.where(whole).astype("Int64")
    return integers.astype("int64") if whole.all() else integers.astype(object).where(whole, values.map(str))


def list_frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """A frame of candidate lists as Corpus wants it, from rows of the columns of `RANKING_COLUMNS` and `PLACE`."""
    table = pd.DataFrame(rows, columns=[*RANKING_COLUMNS, PLACE], dtype=object)
    return table.astype(dict.fromkeys(RANKING_COLUMNS[:4], "str")).assign(label=label_column(table["label"]))


def merge_events(events: pd.DataFrame, report: Report) -> pd.DataFrame:
    """One label a pair from a log of events, under its first place: accepted if any event was; all in split train."""
    pairs = events.assign(**{PLACE: events.index}).groupby(["resume_id", "job_id"], sort=False)
    merged = pairs.agg(**{"label": ("label", "max"), PLACE: (PLACE, "first")}).reset_index()
    if len(merged) < len(events):
        report.notes.append(f"{len(events)} events were merged into {len(merged)} labelled pairs, accepted if any was")
    return merged.assign(split="train")


# --- frames to a Corpus ---


def assemble(tables: Tables, report: Report, name: str, regime: Regime = "cold") -> Corpus:
    """Build the Corpus; the accepted kinds of defect are repaired, and its `notes` count what that dropped.

    A document without a split gets the one it is used in, or train if it is in no label or list.
    Raises CorpusError with every defect that was not accepted.
    """
    report.settle()
    tables = {"rankings": list_frame([]), **tables}
    # 1. splits of the documents
    for side in SIDES:
        frame = tables[f"{side}s"]
        if "split" not in frame.columns:
            split = frame.index.to_series().map(home_of(tables["labels"], tables["rankings"], side, regime))
            if unused := split.isna().sum():
                report.notes.append(f"{unused} {side}s occur in no label and no list: they are in split 'train'")
            tables[f"{side}s"] = frame.assign(split=split.fillna("train").astype("str"))
    # 2. all defects that are not accepted, in one error
    corpus = _corpus(tables, report, name, regime, report.accept)
    if not report.accept:
        return corpus
    # 3. repairs: the rows that an accepted kind marks are dropped, and with a document what names it
    marked, tolerated = defect_rows(corpus), frozenset[str]()
    for kind in [kind for kind in ACCEPTABLE if kind in report.accept]:
        dropped: Counter[str] = Counter()
        for step in (kind, "unknown_document") if kind == "empty_text" else (kind,):
            rows = marked.get(step, {})
            dropped.update({table: int(mask.sum()) for table, mask in rows.items()})
            if rows and kind != "placeholder":
                tables |= {table: tables[table][~mask] for table, mask in rows.items()}
                marked = defect_rows(_corpus(tables, report, name, regime, report.accept | {"unknown_document"}))
        done = [f"{dropped[table]} {table} dropped" for table in ("resumes", "jobs") if dropped[table]]
        if dropped["labels"] or dropped["rankings"]:
            done.append(f"{dropped['labels']} labels and {dropped['rankings']} list entries dropped")
        if dropped and kind == "placeholder":
            tolerated, done = frozenset({kind}), [f"{dropped.total()} documents keep their placeholder text"]
        report.notes += [f"accepted {kind!r}: {', '.join(done)}"] if done else []
    return _corpus(tables, report, name, regime, tolerated)


def _corpus(tables: Tables, report: Report, name: str, regime: Regime, accepted: Iterable[str]) -> Corpus:
    """The Corpus of tables; raises CorpusError with every defect that is not accepted, and its place."""
    parts: dict[str, Any] = {table: frame.drop(columns=PLACE) for table, frame in tables.items()}
    for table in ("labels", "rankings"):
        parts[table] = parts[table].reset_index(drop=True)
        if parts[table]["label"].isin([-1, 0, 1]).all():
            parts[table]["label"] = parts[table]["label"].astype("int64")  # the odd ones are gone
    parts |= {"name": name, "regime": regime, "accepted": frozenset(accepted), "notes": tuple(report.notes)}
    return Corpus(**parts, places={table: frame[PLACE].tolist() for table, frame in tables.items()})
