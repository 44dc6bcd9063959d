"""Files to frames: CSV, TSV and JSON lines, with every fault named by file and row.

A frame's index holds the number of each row in its file: records below the header (CSV, TSV) or lines (JSON lines)
from 1, blank and dropped ones included.
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
from typing import Any

import pandas as pd

from confitlib.corpus import CorpusError, Defect

ENCODINGS = 'Save the file as UTF-8, or name its encoding, e.g. encoding="cp1252" or "gb18030".'
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # JSON writes a character beyond U+FFFF as two of these
ACCEPTABLE: dict[str, str] = {
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


@dataclass
class Findings:
    """What a reader found wrong, and what the caller chose to live with.

    `accept` holds kinds of `ACCEPTABLE`; `settle` raises `CorpusError` with all other defects and
    turns the accepted ones into `notes`.
    """

    accept: frozenset[str]
    defects: list[Defect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, where: str, what: str, remedy: str) -> None:
        """Record one defect; reading goes on, so that one error names them all."""
        self.defects.append(Defect(kind, where, what, remedy))

    def settle(self) -> None:
        """Raise what is not accepted; note the rest."""
        refused = [defect for defect in self.defects if defect.kind not in self.accept]
        if refused:
            raise CorpusError(refused)
        for kind, count in Counter(defect.kind for defect in self.defects).items():
            self.notes.append(f"accepted {kind!r} ({ACCEPTABLE[kind]}): {count} found while reading")
        self.defects.clear()


def findings(accept: str | Iterable[str]) -> Findings:
    """Start a reader's findings; raises ValueError on a kind that cannot be accepted."""
    kinds = frozenset([accept] if isinstance(accept, str) else accept)
    unknown = sorted(kinds - ACCEPTABLE.keys())
    if unknown:
        raise ValueError(f"accept: {unknown} cannot be accepted; choose from {sorted(ACCEPTABLE)}")
    return Findings(kinds)


def fail(kind: str, where: str, what: str, remedy: str) -> CorpusError:
    """An error with a single defect, for faults that end the reading."""
    return CorpusError([Defect(kind, where, what, remedy)])


def read_table(path: Path, found: Findings, encoding: str = "utf-8") -> pd.DataFrame:
    """Read a .csv, .tsv or .jsonl file (or .gz of one); cells keep their text, ids their zeros."""
    readers: dict[str, Callable[[Path, Findings, str], pd.DataFrame]]
    readers = {".csv": read_csv, ".tsv": read_tsv, ".jsonl": read_jsonl}
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{path}: cannot tell the format; rename it to one of {', '.join(readers)} (or .gz)")
    return readers[suffix](path, found, encoding)


def read_csv(path: Path, found: Findings, encoding: str = "utf-8") -> pd.DataFrame:
    """Read a comma-separated file with a header; quoted cells may hold line breaks."""
    rows = _csv_rows(_decode(path, encoding, lambda prefix: _row(len(list(_csv_rows(prefix, strict=False))))))
    try:
        return _rectangle(path, list(rows), found)
    except csv.Error as error:
        what = f"the row cannot be parsed: {error}"
        raise fail("malformed_row", f"{path}, line {rows.line_num}", what, "Check its quotes.") from None


def read_tsv(path: Path, found: Findings, encoding: str = "utf-8") -> pd.DataFrame:
    """Read a tab-separated file with a header; quotes are text, a row is a line."""
    text = _decode(path, encoding, lambda prefix: _row(prefix.count("\n") + 1))
    lines = text.removesuffix("\n").split("\n")
    return _rectangle(path, [line.removesuffix("\r").split("\t") for line in lines], found)


def read_jsonl(path: Path, found: Findings, encoding: str = "utf-8", required: Sequence[str] = ()) -> pd.DataFrame:
    """Read one JSON object a line; `required` keys must be in every line."""
    records = {}
    for number, line in enumerate(_decode(path, encoding, _line).split("\n"), 1):
        record = _json_line(line, f"{path}, line {number}", found) if line.strip() else None
        missing = [key for key in required if record is not None and key not in record]
        if missing:
            what = f"the line lacks {missing}"
            found.add("missing_column", f"{path}, line {number}", what, f"Provide {list(required)} in every line.")
        elif record is not None:
            records[number] = record
    columns = list(dict.fromkeys(key for record in records.values() for key in record)) or list(required)
    cells = {column: [record.get(column) for record in records.values()] for column in columns}
    return pd.DataFrame(cells, index=list(records), dtype=object)


def read_json(path: Path, encoding: str = "utf-8") -> Any:
    """Read a JSON file; a key that occurs twice in one object is an error, not the last one."""
    text = _decode(path, encoding, _line)
    try:
        return _parse(text)
    except ValueError as error:
        raise fail("malformed_json", str(path), str(error), "Repair the file.") from None


def as_text(value: Any) -> str:
    """A cell as text: nothing as "", a list as its items in lines, anything else as `str` shows it."""
    if isinstance(value, (list, tuple)) or type(value).__name__ == "ndarray":
        return "\n".join(as_text(item) for item in value)
    return "" if value is None or value != value else str(value)


def as_id(value: Any) -> str:
    """A cell as a document id: 7 and 7.0 become "7", a string stays as it is."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else as_text(value)


def require_columns(
    frame: pd.DataFrame, chosen: Mapping[str, str], where: str, remedy: str, found: Findings
) -> pd.DataFrame:
    """The chosen columns under their canonical names; `chosen` maps canonical name to the file's.

    Adds a defect with the `remedy` for every column that is missing.
    """
    for column in chosen.values():
        if column not in frame.columns:
            found.add("missing_column", where, f"no column {column!r} (there are: {_listed(frame)})", remedy)
    present = {canonical: frame[column] for canonical, column in chosen.items() if column in frame.columns}
    return pd.DataFrame({canonical: present.get(canonical) for canonical in chosen}, index=frame.index)


def map_it(table: str, canonical: str) -> str:
    """The remedy for a column named otherwise, where `columns` has a mapping by table."""
    return f'Map it: columns={{"{table}": {{"{canonical}": "<a column of the file>"}}}}.'


def places(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Where the rows of a table that was read stand, as `origins` of Corpus wants it."""
    return pd.DataFrame({"source": where, "row": frame.index})


def check_columns(columns: Mapping[str, Mapping[str, Any]], allowed: Mapping[str, Iterable[str]]) -> None:
    """Raise ValueError for a table or a name in `columns` that a reader does not know."""
    for table, names in columns.items():
        if table not in allowed:
            raise ValueError(f"columns: {table!r} is an unknown table; choose from {sorted(allowed)}")
        unknown = sorted(set(names) - set(allowed[table]))
        if unknown:
            raise ValueError(f"columns: {unknown} are unknown names of {table!r}; choose from {sorted(allowed[table])}")


def _listed(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, frame.columns)) or "none"


def _line(prefix: str) -> str:
    return f"line {prefix.count(chr(10)) + 1}"


def _row(records: int) -> str:
    """The place of the last of some records, the first of which is the header."""
    return f"row {records - 1}" if records > 1 else "header"


def _decode(path: Path, encoding: str, place_of: Callable[[str], str]) -> str:
    """The text of a file; `place_of` names the place where a prefix of the text ends."""
    raw = _bytes_of(path)
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise ValueError(f"encoding {encoding!r} is unknown to Python: use e.g. 'utf-8', 'cp1252', 'gb18030'") from None
    except UnicodeDecodeError as error:
        place = place_of(raw[: error.start].decode(encoding).removeprefix("\ufeff") + "?")
        what = f"byte 0x{raw[error.start]:02x} at offset {error.start} is not {encoding}"
        raise fail("encoding", f"{path}, {place}", what, ENCODINGS) from None


def _bytes_of(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except FileNotFoundError:
        raise fail("missing_file", str(path), "the file does not exist", "Check the path.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise fail("unreadable", str(path), str(error), "Fetch or pack the file again.") from None


def _csv_rows(text: str, strict: bool = True) -> Any:
    return csv.reader(io.StringIO(text, newline=""), strict=strict)


def _rectangle(path: Path, rows: list[list[str]], found: Findings) -> pd.DataFrame:
    header = rows[0] if rows else []
    _check_header(path, header)
    kept = {}
    for number, row in enumerate(rows[1:], 1):
        if len(row) == len(header):
            kept[number] = row
        elif row not in ([], [""]):  # an empty line separates nothing
            what = f"{len(row)} cells, the header has {len(header)}"
            remedy = "Quote cells that hold the separator, or accept 'ragged_row' to drop the row."
            found.add("ragged_row", f"{path}, row {number}", what, remedy)
    return pd.DataFrame(list(kept.values()), index=list(kept), columns=header, dtype="str")


def _check_header(path: Path, header: list[str]) -> None:
    if not header or header == [""]:
        raise fail("missing_column", str(path), "the file is empty", "Provide a header and rows.")
    repeated = sorted(name for name, count in Counter(header).items() if count > 1)
    if repeated:
        raise fail("duplicate_column", f"{path}, header", f"columns {repeated} occur twice", "Rename one of them.")


def _json_line(line: str, where: str, found: Findings) -> dict[str, Any] | None:
    remedy = "Repair the line, or accept 'malformed_json' to drop it."
    try:
        record = _parse(line)
    except ValueError as error:
        found.add("malformed_json", where, str(error), remedy)
        return None
    if not isinstance(record, dict):
        found.add("malformed_json", where, f"a JSON object was expected, not {line[:40]!r}", remedy)
        return None
    return record


def _parse(text: str) -> Any:
    """JSON whose keys are unique and whose text is whole; raises ValueError."""
    content = json.loads(text, object_pairs_hook=_unique_keys)
    if HALF_PAIR.search(text):
        json.dumps(content, ensure_ascii=False).encode()  # a lone surrogate is no character: UnicodeEncodeError
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"key {repeated[0]!r} occurs twice in one object")
    return record
