"""One's own data: a table of labelled pairs, with the texts inside or in tables of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from confitlib.corpus import RESERVED, SIDES, SPLITS, Corpus, Side, Split
from confitlib.readers._repair import Regime, Tables, assemble, assign_splits, document_frame, label_column
from confitlib.readers._split import FRACTIONS, empty_splits, split_documents, split_labels
from confitlib.readers._tables import (
    Findings,
    as_id,
    as_text,
    check_columns,
    findings,
    map_it,
    places,
    read_table,
    require_columns,
)

Columns = Mapping[str, Mapping[str, Any]]

TABLES = {
    "pairs": ("resume_id", "job_id", "label", "split", "resume_text", "job_text"),
    "resumes": ("resume_id", "text"),
    "jobs": ("job_id", "text"),
}
SPLIT_NAMES = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid", "testing": "test"}


@dataclass(frozen=True)
class Source:
    """One table that was read, and where it came from."""

    frame: pd.DataFrame
    where: str


@dataclass(frozen=True)
class Choices:
    """How tables become a corpus; the fields are the parameters of `load_pairs`."""

    columns: Columns
    label_values: Mapping[Any, int]
    threshold: float | None
    split: Split | Sequence[float] | None
    seed: int
    regime: Regime
    name: str

    def __post_init__(self) -> None:
        check_columns(self.columns, TABLES)
        if isinstance(self.split, str) and self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} is unknown: use one of {SPLITS}, or fractions")
        if self.threshold is not None and self.label_values:
            raise ValueError("give threshold (for scores) or label_values (for named labels), not both")

    def optional(self, table: Source, canonical: str, found: Findings) -> list[str]:
        """The columns of an optional content that the pairs have; naming one that they lack is a defect."""
        columns = self.columns_of("pairs", canonical)
        if canonical in self.columns.get("pairs", {}):
            remedy = map_it("pairs", canonical)
            require_columns(table.frame, {name: name for name in columns}, table.where, remedy, found)
        return [name for name in columns if name in table.frame.columns]

    def columns_of(self, table: str, canonical: str, default: Sequence[str] | None = None) -> list[str]:
        """The columns of a table that hold a canonical name's content."""
        chosen = self.columns.get(table, {}).get(canonical, default or [canonical])
        return [chosen] if isinstance(chosen, str) else list(chosen)

    def fractions(self, pairs: pd.DataFrame) -> Sequence[float] | None:
        """The fractions to split documents by, or None if the splits are given."""
        if self.split is None:
            return None if self.columns_of("pairs", "split")[0] in pairs.columns else FRACTIONS
        return None if isinstance(self.split, str) else self.split


def load_pairs(
    pairs: str | Path,
    *,
    resumes: str | Path | None = None,
    jobs: str | Path | None = None,
    columns: Columns | None = None,
    label_values: Mapping[Any, int] | None = None,
    threshold: float | None = None,
    split: Split | Sequence[float] | None = None,
    seed: int = 0,
    regime: Regime = "cold",
    accept: str | Iterable[str] = (),
    encoding: str = "utf-8",
    name: str | None = None,
) -> Corpus:
    """Read labelled pairs from a .csv, .tsv or .jsonl file (or .gz of one).

    The `pairs` table has the columns `resume_id, job_id, label`, and, where texts are not in
    files of their own, `resume_text` and `job_text`; without an id column, ids are made from the
    texts. `resumes` and `jobs` are tables with `resume_id` (`job_id`) or `id`, and `text`; without
    a `text` column every other column is a text field. Their documents need no label.

    `columns`: other names, by table, e.g. `{"resumes": {"resume_id": "cv_no", "text": ["skills",
    "history"]}, "pairs": {"label": "rating"}}`. `label_values`: labels that are not 0 and 1, e.g.
    `{"good fit": 1, "no fit": 0}`. `threshold`: labels are scores, accepted from here on; they
    stay in the column `score` of `Corpus.labels`. `split`: the split of all labels, or fractions
    for `split_documents` (with `seed`), which in the warm regime deal out the labels themselves; default:
    the column `split` of the pairs, else fractions.
    `regime`, `accept`, `name`: see `load`. Columns that are not used are named in `Corpus.notes`.

    Raises CorpusError with every defect, each with file, row and remedy.
    """
    found, sources = findings(accept), {}
    for table, path in {"pairs": pairs, "resumes": resumes, "jobs": jobs}.items():
        if path is not None:
            sources[table] = Source(read_table(Path(path), found, encoding), str(path))
    title = name or Path(pairs).name.split(".")[0]
    return build(sources, found, Choices(columns or {}, label_values or {}, threshold, split, seed, regime, title))


def build(sources: Mapping[str, Source], found: Findings, choices: Choices) -> Corpus:
    """A corpus from the tables `pairs` and, where there are any, `resumes` and `jobs`."""
    pairs = sources["pairs"]
    inline = {side: _text_fields(pairs.frame[choices.optional(pairs, f"{side}_text", found)]) for side in SIDES}
    ids = {side: _ids(pairs, side, inline[side], choices, found) for side in SIDES}
    frames, origins = {}, {"labels": places(pairs.frame, pairs.where)}
    for side in SIDES:
        frames[side], origins[f"{side}s"] = _documents(sources, side, ids[side], inline[side], choices, found)
    labels = pd.DataFrame({f"{side}_id": ids[side] for side in SIDES}).assign(**_labels(pairs, choices, found))
    found.settle()
    fractions = choices.fractions(pairs.frame)
    if fractions is not None and choices.regime == "warm":
        labels["split"] = split_labels(len(labels), fractions, choices.seed)
        found.notes += empty_splits(labels["split"], fractions)
        fractions = None
    tables = Tables(frames["resume"], frames["job"], labels.reset_index(drop=True), origins=origins)
    assign_splits(tables, choices.regime, found)
    files = {f"{side}s": sources.get(f"{side}s", pairs).where for side in SIDES} | {"labels": pairs.where}
    corpus = assemble(found, tables, choices.name, files, choices.regime)
    return corpus if fractions is None else split_documents(corpus, fractions, choices.seed)


def _text_fields(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells as text; a lone column gets the name `text`, which is serialised as it is."""
    texts = pd.DataFrame({name: frame[name].map(as_text) for name in frame.columns}, index=frame.index, dtype="str")
    return texts.set_axis(["text"], axis=1) if len(texts.columns) == 1 else texts


def _ids(pairs: Source, side: Side, texts: pd.DataFrame, choices: Choices, found: Findings) -> pd.Series:
    """The document ids of one side, one a pair; made from the texts if there is no id column."""
    column = choices.columns_of("pairs", f"{side}_id")[0]
    if column not in pairs.frame.columns and len(texts.columns):
        keys = pd.Series(["\x1f".join(row) for row in texts.to_numpy()], index=texts.index, dtype="str")
        found.notes.append(f"{pairs.where}: {side} ids are made from {keys.nunique()} distinct texts")
        return keys.map(lambda key: hashlib.sha1(key.encode()).hexdigest()[:16]).astype("str")
    chosen = require_columns(pairs.frame, {f"{side}_id": column}, pairs.where, map_it("pairs", f"{side}_id"), found)
    return chosen[f"{side}_id"].map(as_id).astype("str")


def _documents(
    sources: Mapping[str, Source], side: Side, ids: pd.Series, inline: pd.DataFrame, choices: Choices, found: Findings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The documents of one side, its own table's, then those whose text stands in the pairs; and where each stands."""
    where, table = sources["pairs"].where, sources.get(f"{side}s")
    if table is None and not len(inline.columns):
        what = f"no {side} texts: neither a column {choices.columns_of('pairs', f'{side}_text')} nor {side}s=…"
        remedy = f'Give {side}s=…, or map columns={{"pairs": {{"{side}_text": "<a column>"}}}}.'
        found.add("missing_column", where, what, remedy)
    ids, inline = (ids, inline) if len(inline.columns) else (ids[:0], inline[:0])
    given, rows = document_frame(side, ids, inline), places(inline, where)
    _check_one_text(given, rows, side, found)
    first = ~given.index.duplicated()
    given, rows = given[first], rows[first]
    if table is None:
        return given, rows
    listed = _own_table(table, side, choices, found)
    rest = ~given.index.isin(listed.index)
    if not rest.all():
        what = f"{int((~rest).sum())} {side}s stand in {table.where} and in the pairs"
        found.notes.append(f"{what}: the former's text is used")
    return pd.concat([listed, given[rest]]).fillna(""), pd.concat([places(table.frame, table.where), rows[rest]])


def _own_table(table: Source, side: Side, choices: Choices, found: Findings) -> pd.DataFrame:
    columns = table.frame.columns
    default = "id" if "id" in columns and f"{side}_id" not in columns else f"{side}_id"
    id_column = choices.columns_of(f"{side}s", f"{side}_id", [default])[0]
    rest = [name for name in columns if name != id_column and name not in RESERVED]
    texts = choices.columns_of(f"{side}s", "text", ["text"] if "text" in rest else rest)
    remedy = map_it(f"{side}s", f"{side}_id")
    ids = require_columns(table.frame, {f"{side}_id": id_column}, table.where, remedy, found)[f"{side}_id"]
    remedy = map_it(f"{side}s", "text")
    fields = require_columns(table.frame, {name: name for name in texts}, table.where, remedy, found)
    _note_unused(table, [id_column, *texts], found)
    return document_frame(side, ids, _text_fields(fields))


def _check_one_text(given: pd.DataFrame, rows: pd.DataFrame, side: Side, found: Findings) -> None:
    first = given[~given.index.duplicated()].reindex(given.index)
    other_text = (given.to_numpy() != first.to_numpy()).any(axis=1)
    for name, place in zip(given.index[other_text], rows[other_text].itertuples(), strict=True):
        what = f"{side} {name!r} has another text here than in an earlier row"
        found.add("conflicting_text", f"{place.source}, row {place.row}", what, "Give one text per id.")


def _labels(pairs: Source, choices: Choices, found: Findings) -> dict[str, Any]:
    """The columns label, split and, for scores, score of every pair."""
    given = choices.optional(pairs, "split", found) if choices.split is None else []
    label = choices.columns_of("pairs", "label")[0]
    texts_and_ids = [f"{side}_{kind}" for side in SIDES for kind in ("id", "text")]
    used = [column for role in texts_and_ids for column in choices.columns_of("pairs", role)]
    _note_unused(pairs, [*used, *given, label], found)
    values = require_columns(pairs.frame, {"label": label}, pairs.where, map_it("pairs", "label"), found)["label"]
    columns: dict[str, Any] = {"label": _label_values(values, choices)}
    if choices.threshold is not None:
        columns["score"] = pd.to_numeric(values, errors="coerce")
    if given:
        return columns | {"split": pairs.frame[given[0]].map(_split_name)}
    return columns | {"split": choices.split if isinstance(choices.split, str) else "train"}


def _label_values(values: pd.Series, choices: Choices) -> pd.Series:
    if choices.threshold is not None:
        scores = pd.to_numeric(values, errors="coerce")
        return label_column((scores >= choices.threshold).astype(object).where(scores.notna(), values))
    if not choices.label_values:
        return label_column(values)
    named = {_spelling(value): label for value, label in choices.label_values.items()}
    return label_column(values.map(lambda value: named.get(_spelling(value), f"{value} (not in label_values)")))


def _spelling(value: Any) -> str:
    """A label as text, numbers alike however they are written: 1, 1.0 and "1.0" become "1"."""
    number = pd.to_numeric(str(value), errors="coerce")
    return str(value) if pd.isna(number) else as_id(float(number))


def _split_name(value: Any) -> str:
    return SPLIT_NAMES.get(as_text(value).strip().lower(), as_text(value).strip().lower())


def _note_unused(table: Source, used: Sequence[str], found: Findings) -> None:
    unused = [str(name) for name in table.frame.columns if name not in used]
    if unused:
        found.notes.append(f"{table.where}: columns {unused} are not used")
