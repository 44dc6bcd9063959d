"""One's own data: a table of labelled pairs, with the texts inside or in tables of their own; and splits for it."""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.corpus import RESERVED, SIDES, SPLITS, Corpus, Regime, Side, Split, duplicate_groups, other
from confitlib.readers import repairs
from confitlib.readers.repairs import PLACE, Accept, Report, as_id, as_text, document_frame, select
from confitlib.util import checked

Columns = Mapping[str, Mapping[str, str | Sequence[str]]]

TABLES: dict[str, tuple[str, ...]] = {f"{side}s": (f"{side}_id", "text") for side in SIDES}
TABLES["pairs"] = ("resume_id", "job_id", "label", "split", "resume_text", "job_text")
SPLIT_NAMES = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid", "testing": "test"}
FRACTIONS = (0.8, 0.1, 0.1)


@checked
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
    accept: Accept = (),
    encoding: str | Mapping[str, str] = "utf-8",
    header: Literal[0] | None = 0,
    name: str | None = None,
) -> Corpus:
    """Read labelled pairs from a .csv, .tsv, .jsonl (or .gz of one), .parquet or .qrels file.

    The `pairs` table has the columns `resume_id, job_id, label`, and, where texts are not in
    files of their own, `resume_text` and `job_text`; without an id column, ids are made from the
    texts. `resumes` and `jobs` are tables with `resume_id` (`job_id`) or `id`, and `text`; without
    a `text` column every other column is a text field. Their documents need no label. Each may be a folder of .txt
    files, whose names are the ids. Where an id of `pairs` is a list of them (JSON lines), each makes a pair; without
    a column `label` all these are accepted. A .qrels file has `query_id, document_id` and `label`: map them.

    `columns`: other names, by table, e.g. `{"resumes": {"resume_id": "cv_no", "text": ["skills",
    "history"]}, "pairs": {"label": "rating"}}`. `label_values`: labels that are not 0 and 1, e.g.
    `{"good fit": 1, "no fit": 0}`. `threshold`: labels are scores, accepted from here on; they
    stay in the column `score` of `Corpus.labels`. `split`: the split of all labels, or fractions
    for `split_documents` (with `seed`), which in the warm regime deal out the labels themselves; default:
    the column `split` of the pairs, else fractions.
    `regime`, `accept`, `name`: see `load`. `encoding`: of all files, or of each by table. `header=None`: tables have
    no header, and their columns are "1", "2", …. Columns that are not used are named in `Corpus.notes`.

    Raises CorpusError with every defect, each with file, row and remedy.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from confitlib import load_pairs
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "pairs.csv")
    ...     _ = file.write_text("resume_text,job_text,label\\nNurse,Ward nurse,1\\nBaker,Ward nurse,0\\n")
    ...     load_pairs(file, split="train")
    Corpus('pairs': 2 resumes, 1 jobs, 2 labels, 0 list entries)
    """
    report, paths = Report(accept), {"pairs": pairs, "resumes": resumes, "jobs": jobs}
    given = {table: Path(path) for table, path in paths.items() if path is not None}
    codes = dict.fromkeys(given, encoding) if isinstance(encoding, str) else encoding
    if odd := sorted(codes.keys() - given.keys()):
        raise ValueError(f"encoding names {odd}: use tables that are given, {[*given]}")
    tables = {}
    for table, path in given.items():
        tables[table] = repairs.read_table(path, report, codes.get(table, "utf-8"), header), str(path)
    reader = PairReader(tables, report, columns or {}, label_values or {}, threshold, split)
    return reader.corpus(name or Path(pairs).name.split(".")[0], regime, seed)


@checked
@dataclass
class PairReader:
    """The way from tables to a corpus, for `load_pairs` and `load_hub`; the fields are parameters of theirs.

    `tables`: for `pairs` and, where they exist, `resumes` and `jobs`: the frame, indexed by place, and its source.
    """

    tables: Mapping[str, tuple[pd.DataFrame, str]]
    report: Report
    columns: Columns = field(default_factory=dict)
    label_values: Mapping[Any, int] = field(default_factory=dict)
    threshold: float | None = None
    split: Split | Sequence[float] | None = None

    def __post_init__(self) -> None:
        for table, names in self.columns.items():
            if table not in TABLES:
                raise ValueError(f"columns: {table!r} is an unknown table; choose from {sorted(TABLES)}")
            unknown, allowed = sorted(set(names) - set(TABLES[table])), sorted(TABLES[table])
            if unknown:
                raise ValueError(f"columns: {unknown} are unknown names of {table!r}; choose from {allowed}")
            if table not in self.tables:
                raise ValueError(f"columns: there is no table {table!r} here; give it, or leave it out of columns")
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise ValueError(f"threshold={self.threshold} must be finite")
        if not {*self.label_values.values()} <= {0, 1}:
            raise ValueError(f"label_values={dict(self.label_values)} must name 0 or 1 for each label")
        if self.threshold is not None and self.label_values:
            raise ValueError("give threshold (for scores) or label_values (for named labels), not both")
        self.pairs, self.where = self.tables["pairs"]
        for column in [self.names("pairs", f"{side}_id")[0] for side in SIDES]:
            if column in self.pairs and self.pairs[column].map(lambda cell: isinstance(cell, list)).any():
                self.pairs = self.pairs.explode(column)
                if self.names("pairs", "label") == ["label"] and "label" not in self.pairs:
                    self.pairs = self.pairs.assign(label=1)
                    self.report.notes.append(f"{self.where}: no column 'label', so every pair is accepted")
        self.tables = {**self.tables, "pairs": (self.pairs, self.where)}

    def corpus(self, name: str, regime: Regime, seed: int) -> Corpus:
        """The corpus of the tables; raises CorpusError with every defect."""
        # 1. ids and documents
        inline = {side: _text_fields(self.optional(f"{side}_text")) for side in SIDES}
        ids = {side: self.ids(side, inline[side]) for side in SIDES}
        tables = {f"{side}s": self.documents(side, ids[side], inline[side]) for side in SIDES}
        # 2. labels
        given = self.pairs[[]] if self.split is not None else self.optional("split")
        (label,) = self.names("pairs", "label")
        used = [column for role in TABLES["pairs"] if role != "split" for column in self.names("pairs", role)]
        repairs.note_unused(self.pairs, [*used, *given.columns], self.where, self.report)
        values = self.select("pairs", "label", [label])[label]
        labels = pd.DataFrame({f"{side}_id": ids[side] for side in SIDES})
        if self.threshold is not None:
            labels["score"] = pd.to_numeric(values, errors="coerce")
            values = (labels["score"] >= self.threshold).astype(object).where(labels["score"].notna(), values)
        elif self.label_values:
            numbers = {_spelling(value): number for value, number in self.label_values.items()}
            values = values.map(lambda value: numbers.get(_spelling(value), f"{value} (not in label_values)"))
        labels.insert(2, "label", repairs.label_column(values))
        # 3. splits: one for all, those of a column, or fractions
        self.report.settle()
        fractions = None if isinstance(self.split, str) or len(given.columns) else self.split or FRACTIONS
        split: Any = self.split if isinstance(self.split, str) else "train"
        if len(given.columns):
            split = given.iloc[:, 0].map(as_text).str.strip().str.lower().replace(SPLIT_NAMES)
        if fractions is not None and regime == "warm":
            places = np.random.default_rng(seed).permutation(len(labels)) + 0.5
            split = _split_of(places / max(len(labels), 1), fractions)
            self.report.notes += empty_splits(pd.Series(split), fractions)
        tables["labels"] = labels.assign(split=split, **{PLACE: labels.index})
        corpus = repairs.assemble(tables, self.report, name, regime)
        return corpus if fractions is None or regime == "warm" else split_documents(corpus, fractions, seed)

    def names(self, table: str, canonical: str, default: Sequence[str] | None = None) -> list[str]:
        """The columns of a table that hold a canonical name's content."""
        column = self.columns.get(table, {}).get(canonical, default or [canonical])
        return [column] if isinstance(column, str) else list(column)

    def select(self, table: str, canonical: str, columns: Sequence[str]) -> pd.DataFrame:
        """Columns of a table that hold a canonical name's content; each that is missing is a defect."""
        remedy = f'Map it: columns={{"{table}": {{"{canonical}": "<a column of the file>"}}}}.'
        remedy += " If the file has no header, pass header=None."
        return select(self.tables[table][0], columns, self.tables[table][1], remedy, self.report)

    def optional(self, canonical: str) -> pd.DataFrame:
        """The columns of an optional content that the pairs have; naming one that they lack is a defect."""
        names = self.names("pairs", canonical)
        if canonical in self.columns.get("pairs", {}):
            self.select("pairs", canonical, names)
        return self.pairs[[name for name in names if name in self.pairs.columns]]

    def ids(self, side: Side, inline: pd.DataFrame) -> pd.Series:
        """The document ids of one side, one a pair; made from the texts if there is no id column."""
        canonical = f"{side}_id"
        column = self.names("pairs", canonical)[0]
        if column in self.pairs.columns or canonical in self.columns.get("pairs", {}) or not len(inline.columns):
            return self.select("pairs", canonical, [column])[column].map(as_id).astype("str")
        used = {name for role in TABLES["pairs"] for name in self.names("pairs", role)}
        rest = {str(name).strip().lower(): name for name in self.pairs.columns if name not in used}
        if close := difflib.get_close_matches(canonical, rest, n=1, cutoff=0.75):
            what, remedy = f"no column {canonical!r}, but {rest[close[0]]!r}", f"Rename it to {canonical}, or drop it."
            self.report.add("missing_column", f"{self.where}, header", what, remedy)
        keys = pd.Series(["\x1f".join(row) for row in inline.to_numpy()], index=inline.index, dtype="str")
        self.report.notes.append(f"{self.where}: {side} ids are made from {keys.nunique()} distinct texts")
        return keys.map(lambda key: hashlib.sha1(key.encode()).hexdigest()[:16]).astype("str")

    def documents(self, side: Side, ids: pd.Series, inline: pd.DataFrame) -> pd.DataFrame:
        """The documents of one side: its own table's, then those whose text stands in the pairs."""
        canonical, table = f"{side}_id", f"{side}s"
        if table not in self.tables and not len(inline.columns):
            what = f"no {side} texts: neither a column {self.names('pairs', f'{side}_text')} nor {table}=…"
            remedy = f'Give {table}=…, or map columns={{"pairs": {{"{side}_text": "<a column>"}}}}.'
            self.report.add("missing_column", self.where, what, remedy)
        # 1. those in the pairs: one text per id
        n = len(ids) if len(inline.columns) else 0
        given = document_frame(side, ids[:n], inline[:n])
        first = given[~given.index.duplicated()]
        other_text = given.drop(columns=PLACE).to_numpy() != first.reindex(given.index).drop(columns=PLACE).to_numpy()
        for document, place in given.loc[other_text.any(axis=1), PLACE].items():
            what = f"{side} {document!r} has another text here than in an earlier row"
            self.report.add("conflicting_text", place, what)
        if table not in self.tables:
            return first
        # 2. those of the table, which wins
        frame, where = self.tables[table]
        default = "id" if "id" in frame.columns and canonical not in frame.columns else canonical
        column = self.names(table, canonical, [default])[0]
        rest = [name for name in frame.columns if name != column and name not in RESERVED]
        texts = self.names(table, "text", ["text"] if "text" in rest else rest)
        table_ids = self.select(table, canonical, [column])[column]
        listed = document_frame(side, table_ids, _text_fields(self.select(table, "text", texts)))
        repairs.note_unused(frame, [column, *texts], where, self.report)
        more = first[~first.index.isin(listed.index)]
        if len(more) < len(first):
            what = f"{len(first) - len(more)} {table} stand in {where} and in the pairs"
            self.report.notes.append(f"{what}: the former's text is used")
        return pd.concat([listed, more]).fillna("")


def _text_fields(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells as text; a lone column gets the name `text`, which is serialised as it is."""
    texts = frame.map(as_text).astype("str")
    return texts.set_axis(["text"], axis=1) if len(texts.columns) == 1 else texts


def _spelling(value: Any) -> str:
    """A label as text, numbers alike however they are written: 1, 1.0 and "1.0" become "1"."""
    number = pd.to_numeric(str(value), errors="coerce")
    return str(value) if pd.isna(number) else as_id(float(number))


# --- splits for data that comes without any ---


@checked
def split_documents(corpus: Corpus, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> Corpus:
    """A cold-start split: every document gets one of train, valid and test, and so do the labels.

    The side with fewer labelled documents is dealt out at random, in `fractions` of its labels;
    each document of the other side follows most of its labels. Documents of the same text, such as a job that was
    posted twice, and copies go together. A label whose documents end in
    different splits cannot be used in a cold start: it is left out and counted in `notes`.
    Unlabelled documents are in train. Raises ValueError on a corpus with candidate lists, which
    belong to a split already, and on fractions that do not sum to 1.
    """
    if len(corpus.rankings):
        raise ValueError(f"corpus {corpus.name!r} has candidate lists, so its splits are given")
    groups = {side: duplicate_groups(corpus, side) for side in SIDES}
    labelled = {side: corpus.labels[f"{side}_id"].map(groups[side]) for side in SIDES}
    leader: Side = "job" if labelled["job"].nunique() <= labelled["resume"].nunique() else "resume"
    # 1. the leading side: groups in random order, cut where the running number of labels passes each fraction
    counts = labelled[leader].value_counts().sort_index()
    counts = counts.iloc[np.random.default_rng(seed).permutation(len(counts))]
    middle = (counts.cumsum() - counts / 2) / max(int(counts.sum()), 1)
    homes = {leader: pd.Series(_split_of(middle.to_numpy(), fractions), index=counts.index, dtype=object)}
    # 2. the other side: the split of most labels of each group; ties go to the smaller split, which needs them more
    votes = pd.crosstab(labelled[other(leader)], labelled[leader].map(homes[leader]))
    votes = votes.reindex(columns=list(SPLITS), fill_value=0)
    homes[other(leader)] = votes[votes.sum().sort_values(kind="stable").index].idxmax(axis=1)
    # 3. labels within one split are kept
    split = {side: groups[side].map(homes[side]) for side in SIDES}
    labels = corpus.labels.assign(split=corpus.labels["resume_id"].map(split["resume"]))
    inside = labels["split"] == labels["job_id"].map(split["job"])
    note = f"cold-start split: {(~inside).sum()} of {len(labels)} labels join documents of two splits and are left out"
    labels = labels[inside].reset_index(drop=True)
    resumes, jobs = (corpus.documents(side).assign(split=split[side].fillna("train").astype("str")) for side in SIDES)
    notes = (*corpus.notes, note, *empty_splits(labels["split"], fractions))
    return replace(corpus, resumes=resumes, jobs=jobs, labels=labels, regime="cold", notes=notes)


def empty_splits(splits: pd.Series, fractions: Sequence[float]) -> list[str]:
    """A note for each split that was to have labels and got none."""
    remedy = "give it a larger fraction, another seed or more labels, or name the splits in the data"
    wanted = [split for split, share in zip(SPLITS, fractions, strict=True) if share > 0]
    return [f"split {split!r} has no label: {remedy}" for split in wanted if not (splits == split).any()]


def _split_of(places: NDArray[Any], fractions: Sequence[float]) -> NDArray[np.object_]:
    """The split of each place between 0 and 1, when train, valid and test have these fractions in turn."""
    if len(fractions) != len(SPLITS) or not min(fractions) >= 0 or not abs(sum(fractions) - 1) < 1e-9:
        raise ValueError(f"fractions {tuple(fractions)}: give the shares of {SPLITS}, which sum to 1")
    return np.array(SPLITS, dtype=object)[np.searchsorted(np.cumsum(fractions)[:-1], places, side="right")]
