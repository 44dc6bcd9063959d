"""RecBole-PJF atomic files: .inter, .user, .item, .udoc and .idoc with typed headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from confitlib.corpus import SIDES, Corpus, Side
from confitlib.readers._repair import Tables, assemble, assign_splits, document_frame, merge_events
from confitlib.readers._split import FRACTIONS, split_documents
from confitlib.readers._tables import Findings, as_id, fail, findings, places, read_tsv, require_columns

TYPES = ("token", "token_seq", "float", "float_seq")
ID_COLUMNS: dict[Side, tuple[str, ...]] = {"resume": ("user_id",), "job": ("job_id", "item_id")}
SUFFIXES: dict[Side, tuple[str, str]] = {"resume": (".user", ".udoc"), "job": (".item", ".idoc")}
THRESHOLD = 0.5  # of the label, as in recbole_pjf/properties/dataset/zhilian.yaml


def load_recbole(
    folder: str | Path,
    name: str,
    *,
    columns: Mapping[str, str] | None = None,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    accept: str | Iterable[str] = (),
    encoding: str = "utf-8",
) -> Corpus:
    """Read the atomic files `<name>.inter` and `.user`, `.item`, `.udoc`, `.idoc`, as far as they exist.

    Headers are typed (`user_id:token`, `label:float`). Users are resumes, items are jobs. The
    sentences of a document, one a row, become the lines of the field `text`; other columns of
    .user and .item are fields of their own. A pair is accepted if its label is at least 0.5 in
    any of its interactions, rejected otherwise; without a label column every interaction is an
    acceptance. `columns`: other names, e.g. `{"resume_id": "geek_id", "job_id": "job", "label":
    "ok"}`. Splits come from `split_documents` (`fractions`, `seed`); `accept`: see `load`.
    """
    found, chosen = findings(accept), columns or {}
    path = Path(folder) / f"{name}.inter"
    inter = _read_atomic(path, found, encoding)
    ids = {side: _id_column(inter, side, chosen, path) for side in SIDES}
    parts = {side: _documents(Path(folder), name, side, ids[side], found, encoding) for side in SIDES}
    labels = _labels(inter, ids, chosen.get("label", "label"), path, found)
    found.settle()
    origins = {f"{side}s": parts[side][1] for side in SIDES} | {"labels": places(labels, str(path))}
    tables = Tables(parts["resume"][0], parts["job"][0], labels.reset_index(drop=True), origins=origins)
    assign_splits(tables, "cold", found)
    sources = {f"{side}s": str(path.with_suffix("")) + "/".join(SUFFIXES[side]) for side in SIDES}
    corpus = assemble(found, tables, name, sources | {"labels": str(path)})
    return split_documents(corpus, fractions, seed)


def _read_atomic(path: Path, found: Findings, encoding: str) -> pd.DataFrame:
    raw = read_tsv(path, found, encoding)
    names = []
    for cell in raw.columns:
        column, _, kind = cell.partition(":")
        if kind not in TYPES:
            what = f"header cell {cell!r} has no known type"
            raise fail("untyped_header", f"{path}, header", what, f"Write name:type, with one of {', '.join(TYPES)}.")
        names.append(column)
    return raw.set_axis(names, axis=1)


def _id_column(inter: pd.DataFrame, side: Side, chosen: Mapping[str, str], path: Path) -> str:
    names = (chosen[f"{side}_id"],) if f"{side}_id" in chosen else ID_COLUMNS[side]
    present = [name for name in names if name in inter.columns]
    if not present:
        what = f"no column {' or '.join(names)} (there are: {', '.join(inter.columns)})"
        raise fail("missing_column", f"{path}, header", what, f'Map it: columns={{"{side}_id": "<a column>"}}.')
    return present[0]


def _documents(
    folder: Path, name: str, side: Side, id_column: str, found: Findings, encoding: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features and sentences of one side, joined on the id, and where each begins; one file may be missing."""
    features, sentences = (folder / f"{name}{suffix}" for suffix in SUFFIXES[side])
    parts = []
    if features.exists():
        raw = _read_atomic(features, found, encoding)
        remedy = f"Name the ids of {side}s alike in every file."
        ids = require_columns(raw, {id_column: id_column}, str(features), remedy, found)
        frame = document_frame(side, ids[id_column], raw.drop(columns=id_column, errors="ignore"))
        parts.append((frame, places(raw, str(features))))
    if sentences.exists():
        parts.append(_joined_sentences(sentences, side, id_column, found, encoding))
    if not parts:
        raise fail("missing_file", str(features), f"neither it nor {sentences.name} exists", "Check folder and name.")
    if len(parts) == 1:
        return parts[0]
    (known, known_rows), (texts, text_rows) = parts
    rest = ~texts.index.isin(known.index)
    joined = known.join(texts, how="left", rsuffix="_sentences")
    return pd.concat([joined, texts[rest]]).fillna(""), pd.concat([known_rows, text_rows[rest]], ignore_index=True)


def _joined_sentences(
    path: Path, side: Side, id_column: str, found: Findings, encoding: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    raw = _read_atomic(path, found, encoding)
    names = [column for column in raw.columns if column != id_column]
    if id_column not in raw.columns or len(names) != 1:
        what = f"expected {id_column!r} and one column of sentences, found {', '.join(raw.columns)}"
        raise fail("missing_column", f"{path}, header", what, "See the RecBole-PJF format.")
    joined = raw.groupby(id_column, sort=False)[names[0]].agg("\n".join)
    first = raw[~raw[id_column].duplicated()]
    return document_frame(side, first[id_column], joined.to_frame("text")), places(first, str(path))


def _labels(inter: pd.DataFrame, ids: Mapping[Side, str], column: str, path: Path, found: Findings) -> pd.DataFrame:
    pairs = pd.DataFrame({f"{side}_id": inter[ids[side]].map(as_id).astype("str") for side in SIDES})
    unused = [name for name in inter.columns if name not in (*ids.values(), column)]
    if unused:
        found.notes.append(f"{path}: columns {unused} are not used")
    if column not in inter.columns:
        found.notes.append(f"{path}: no column {column!r}, so every interaction counts as an acceptance")
        return merge_events(pairs.assign(label=1), found)
    scores = pd.to_numeric(inter[column], errors="coerce")
    for row, score in inter[column][scores.isna()].items():
        found.add("unknown_label", f"{path}, row {row}", f"label {score!r} is not a number", "Write 0 or 1.")
    return merge_events(pairs.assign(label=(scores >= THRESHOLD).astype("int64"))[scores.notna()], found)
