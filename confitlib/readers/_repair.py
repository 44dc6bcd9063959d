"""From frames to a valid Corpus: refuse defects, or apply the repairs the caller accepted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
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
    Side,
    blank_documents,
    conflicting_rows,
    empty_frame,
    other,
)
from confitlib.readers._tables import Findings, as_id, as_text

Regime = Literal["cold", "warm"]
SPLIT_ORDER = {split: order for order, split in enumerate(SPLITS)}


@dataclass
class Tables:
    """The frames of a corpus on their way from files to a Corpus; columns and `origins` as in Corpus."""

    resumes: pd.DataFrame
    jobs: pd.DataFrame
    labels: pd.DataFrame
    rankings: pd.DataFrame = field(default_factory=lambda: empty_frame(RANKING_COLUMNS))
    truth: csr_array | None = None
    origins: dict[str, pd.DataFrame] = field(default_factory=dict)

    def documents(self, side: Side) -> pd.DataFrame:
        """The frame of one side."""
        return self.resumes if side == "resume" else self.jobs


def assemble(
    found: Findings,
    tables: Tables,
    name: str,
    sources: Mapping[str, str],
    regime: Regime = "cold",
    tolerated: frozenset[str] = frozenset(),
) -> Corpus:
    """Build the Corpus, repairing the accepted kinds of defect; `notes` counts what that dropped.

    `tolerated` kinds stay as they are. Raises CorpusError with every defect that was not accepted.
    """
    found.settle()
    try:
        return _corpus(found, tables, name=name, sources=sources, regime=regime, accepted=tolerated)
    except CorpusError as error:
        defects = error.defects
    refused = [defect for defect in defects if defect.kind not in found.accept | tolerated]
    if refused:
        raise CorpusError(refused)
    tables.origins = {}  # the repairs drop rows
    for kind, repair in REPAIRS.items():
        done = repair(tables) if kind in found.accept - tolerated else ""
        if done:
            found.notes.append(f"accepted {kind!r}: {done}")
    stubs = sum(defect.kind == "placeholder" for defect in defects)
    if stubs:
        found.notes.append(f"accepted 'placeholder': {stubs} documents keep their placeholder text")
    accepted = tolerated | ({"placeholder"} if stubs else set())
    return _corpus(found, tables, name=name, sources=sources, regime=regime, accepted=accepted)


def _corpus(found: Findings, tables: Tables, **settings: Any) -> Corpus:
    return Corpus(**vars(tables), notes=tuple(found.notes), **settings)


def document_frame(side: Side, ids: pd.Series, fields: pd.DataFrame) -> pd.DataFrame:
    """A frame of one side as Corpus wants it: index of string ids, columns of text."""
    index = pd.Index([as_id(value) for value in ids], name=f"{side}_id", dtype="str")
    columns = {str(name): [as_text(value) for value in fields[name]] for name in fields.columns}
    return pd.DataFrame(columns, index=index, dtype="str")


def label_column(values: pd.Series) -> pd.Series:
    """Labels as integers if all are whole numbers; else the odd ones as text, for the check to name them."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    whole = (numbers % 1 == 0) & (numbers.abs() < 2**53)
    integers = numbers.where(whole).astype("Int64")
    return integers.astype("int64") if whole.all() else integers.astype(object).where(whole, values.map(str))


def merge_events(events: pd.DataFrame, found: Findings) -> pd.DataFrame:
    """One label a pair from a log of events, under its first row: accepted if any event was; all in split train."""
    pairs = events.assign(row=events.index).groupby(["resume_id", "job_id"], sort=False)
    merged = pairs.agg(label=("label", "max"), row=("row", "first")).reset_index().set_index("row")
    if len(merged) < len(events):
        found.notes.append(f"{len(events)} events were merged into {len(merged)} labelled pairs, accepted if any was")
    return merged.assign(split="train")


def assign_splits(tables: Tables, regime: Regime, found: Findings) -> None:
    """Give every document without one the split it is used in; documents in no label or list go to train.

    A document used in several splits takes the first of train, valid and test, so that the check
    reports the leak; in the warm regime it takes `any`.
    """
    for side in SIDES:
        frame, uses = tables.documents(side), _uses(tables, side)
        if "split" in frame.columns:
            continue
        home = uses.drop_duplicates("id").set_index("id")["split"]
        if regime == "warm":
            home[home.index.isin(uses["id"][uses["id"].duplicated()])] = ANY_SPLIT
        split = frame.index.to_series().map(home)
        unused = int(split.isna().sum())
        if unused:
            found.notes.append(f"{unused} {side}s occur in no label and no list: they are in split 'train'")
        frame["split"] = split.fillna("train").astype("str")


def _uses(tables: Tables, side: Side) -> pd.DataFrame:
    """Every document of a side with each split it is used in, splits in order."""
    labels, rankings = tables.labels, tables.rankings
    parts = [
        labels[[f"{side}_id", "split"]],
        rankings.loc[rankings["target"] == side, ["candidate_id", "split"]],
        rankings.loc[rankings["target"] == other(side), ["query_id", "split"]],
    ]
    uses = pd.concat([part.set_axis(["id", "split"], axis=1) for part in parts]).drop_duplicates()
    return uses.sort_values("split", key=lambda split: split.map(SPLIT_ORDER), kind="stable")


def _keep(tables: Tables, labels: NDArray[np.bool_], entries: NDArray[np.bool_]) -> str:
    """Keep the named rows of labels and candidate lists; says what was dropped."""
    dropped = [f"{int((~labels).sum())} labels", f"{int((~entries).sum())} list entries"]
    tables.labels = tables.labels[labels].reset_index(drop=True)
    tables.rankings = tables.rankings[entries].reset_index(drop=True)
    return "" if labels.all() and entries.all() else f"{' and '.join(dropped)} dropped"


def _drop_naming(tables: Tables, gone: Callable[[Side, pd.Series], pd.Series]) -> str:
    """Drop labels and list entries that name a document for which `gone(side, ids)` holds."""
    labels, rankings = tables.labels, tables.rankings
    rows, entries = np.ones(len(labels), dtype=bool), np.ones(len(rankings), dtype=bool)
    for side in SIDES:
        rows &= ~gone(side, labels[f"{side}_id"]).to_numpy()
        named = rankings["candidate_id"].where(rankings["target"] == side, rankings["query_id"])
        entries &= ~gone(side, named).to_numpy()
    return _keep(tables, rows, entries)


def _drop_documents(tables: Tables, side: Side, rows: NDArray[np.bool_]) -> str:
    if side == "resume":
        tables.resumes = tables.resumes[~rows]
    else:
        tables.jobs = tables.jobs[~rows]
    if tables.truth is not None:
        kept = np.flatnonzero(~rows)
        tables.truth = tables.truth[kept] if side == "resume" else tables.truth[:, kept]
    return f"{int(rows.sum())} {side}s dropped" if rows.any() else ""


def _drop_repeated_ids(tables: Tables) -> str:
    done = [_drop_documents(tables, side, tables.documents(side).index.duplicated()) for side in SIDES]
    return ", ".join(filter(None, done))


def _drop_blank(tables: Tables) -> str:
    blank: dict[Side, pd.Index] = {}
    done = []
    for side in SIDES:
        frame = tables.documents(side)
        rows = blank_documents(frame, [name for name in frame.columns if name not in RESERVED])
        blank[side] = frame.index[rows]
        done.append(_drop_documents(tables, side, rows))
    return ", ".join(filter(None, [*done, _drop_naming(tables, lambda side, ids: ids.isin(blank[side]))]))


def _drop_unknown(tables: Tables) -> str:
    return _drop_naming(tables, lambda side, ids: ~ids.isin(tables.documents(side).index))


def _drop_odd_labels(tables: Tables) -> str:
    rows, entries = tables.labels["label"].isin([0, 1]), tables.rankings["label"].isin([-1, 0, 1])
    done = _keep(tables, rows.to_numpy(), entries.to_numpy())
    tables.labels = tables.labels.astype({"label": "int64"})
    tables.rankings = tables.rankings.astype({"label": "int64"})
    return done


def _drop_conflicts(tables: Tables) -> str:
    rows, entries = conflicting_rows(tables.labels, tables.rankings)
    return _keep(tables, ~rows, ~entries)


def _drop_repeated_labels(tables: Tables) -> str:
    repeated = tables.labels.duplicated(["resume_id", "job_id"]).to_numpy()
    return _keep(tables, ~repeated, np.ones(len(tables.rankings), dtype=bool))


def _drop_repeated_candidates(tables: Tables) -> str:
    judged_first = tables.rankings.sort_values("label", key=lambda label: label == -1, kind="stable")
    repeated = judged_first.duplicated(ENTRY).sort_index().to_numpy()
    return _keep(tables, np.ones(len(tables.labels), dtype=bool), ~repeated)


REPAIRS: dict[str, Callable[[Tables], str]] = {  # in this order: documents before what names them
    "duplicate_id": _drop_repeated_ids,
    "empty_text": _drop_blank,
    "unknown_document": _drop_unknown,
    "unknown_label": _drop_odd_labels,
    "conflicting_label": _drop_conflicts,
    "duplicate_label": _drop_repeated_labels,
    "duplicate_candidate": _drop_repeated_candidates,
}
