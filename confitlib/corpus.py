"""The one data object: resumes, jobs, labels, candidate lists and, where it is known, the true fit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

Side = Literal["resume", "job"]
Split = Literal["train", "valid", "test"]

SIDES: tuple[Side, Side] = ("resume", "job")
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
ANY_SPLIT = "any"
HYRE = "hypothetical_resume"
HYJOB = "hypothetical_job"
COPY_OF = "copy_of"
NEGATIVE_FOR = "negative_for"
RESERVED = ("split", HYRE, HYJOB, COPY_OF, NEGATIVE_FOR)
HYPOTHETICAL: dict[Side, str] = {"job": HYRE, "resume": HYJOB}
LABEL_COLUMNS = ["resume_id", "job_id", "label", "split"]
RANKING_COLUMNS = ["target", "split", "query_id", "candidate_id", "label"]
ENTRY = ["target", "split", "query_id", "candidate_id"]
Origins = Mapping[str, pd.DataFrame]
PLACEHOLDER = r"^\s*\[\[[A-Za-z_]+\]\]\s*$"


def other(side: Side) -> Side:
    """The opposite side: the query side of a target, or the reverse."""
    return "job" if side == "resume" else "resume"


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong with an input: its kind, where it is, what it is, and what to do."""

    kind: str
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} ({self.kind}). {self.remedy}"


class CorpusError(ValueError):
    """Input that cannot be used as it is; `defects` lists every reason with file, row and remedy."""

    def __init__(self, defects: Iterable[Defect]) -> None:
        self.defects = list(defects)
        shown = [f"  - {defect}" for defect in self.defects[:20]]
        more = len(self.defects) - len(shown)
        tail = [f"  … and {more} more (see .defects)"] if more else []
        kinds = Counter(defect.kind for defect in self.defects)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        super().__init__("\n".join([f"defects in the input ({counts}):", *shown, *tail]))


@dataclass(frozen=True, eq=False)
class Corpus:
    """Resumes, jobs and what is known of their fit; validates itself on construction.

    `resumes`, `jobs`: frames indexed by string id (`resume_id`, `job_id`; the two sides have
    separate id spaces, so ids may coincide). Every column is a text field except the reserved
    `split` (train, valid, test, or `any` in the warm regime) and the optional `hypothetical_resume` of jobs
    (HyRe), `hypothetical_job` of resumes (HyJob), `copy_of`, which names the original of an augmented document,
    and `negative_for`, which names the query that a synthetic document was written not to fit.
    `labels`: `resume_id, job_id, label, split` with label 1 (accepted) or 0 (rejected).
    `rankings`: candidate lists in file order, one row a candidate: `target` (the side that is
    ranked), `split, query_id, candidate_id, label` with label 1, 0 or -1 (unjudged).
    `truth`: true suitability of every pair, `[n_resumes, n_jobs]` sparse booleans, or None.
    `regime`: "cold" (splits share no document) or "warm" (documents with split `any` may recur).
    `accepted`: kinds of defect the caller chose to live with; `notes` says what that changed.
    `sources`: the file of each table. `origins` (for errors only, not kept): for each table a frame aligned with its
    rows, `source` and `row` (from 1, in that source).

    Raises `CorpusError` with every defect found.
    """

    resumes: pd.DataFrame
    jobs: pd.DataFrame
    labels: pd.DataFrame
    rankings: pd.DataFrame = field(default_factory=lambda: empty_frame(RANKING_COLUMNS))
    truth: csr_array | None = None
    name: str = "corpus"
    regime: Literal["cold", "warm"] = "cold"
    accepted: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    origins: InitVar[Origins | None] = None

    def __post_init__(self, origins: Origins | None) -> None:
        if self.regime not in ("cold", "warm"):
            raise ValueError(f"regime {self.regime!r} is unknown: use 'cold' or 'warm'")
        defects = [d for d in find_defects(self, origins) if d.kind not in self.accepted]
        if defects:
            raise CorpusError(defects)

    def __repr__(self) -> str:
        sizes = {"resumes": self.resumes, "jobs": self.jobs, "labels": self.labels, "list entries": self.rankings}
        return f"Corpus({self.name!r}: {', '.join(f'{len(frame):,} {name}' for name, frame in sizes.items())})"

    def __eq__(self, other_corpus: object) -> bool:
        if not isinstance(other_corpus, Corpus):
            return NotImplemented
        return (self.name, self.regime, self.fingerprint()) == (
            other_corpus.name,
            other_corpus.regime,
            other_corpus.fingerprint(),
        )

    def documents(self, side: Side) -> pd.DataFrame:
        """The frame of one side."""
        return self.resumes if side == "resume" else self.jobs

    def fields(self, side: Side) -> list[str]:
        """The text fields of one side, in column order."""
        return [column for column in self.documents(side).columns if column not in RESERVED]

    def pool(self, side: Side, split: Split) -> pd.Index:
        """Ids of the documents that belong to a split."""
        frame = self.documents(side)
        return frame.index[frame["split"].isin([split, ANY_SPLIT])]

    def positions(self, side: Side, ids: Iterable[str]) -> NDArray[np.intp]:
        """Row numbers of ids; raises KeyError naming the first unknown id."""
        wanted = pd.Index(ids)
        rows = self.documents(side).index.get_indexer(wanted)
        if (rows < 0).any():
            unknown = wanted[rows < 0][0]
            raise KeyError(f"{side} {unknown!r} is not in corpus {self.name!r}")
        return rows

    def labelled(self, split: Split | None = None, label: int | None = None) -> pd.DataFrame:
        """The labels of one split (default: all) with one label value (default: all)."""
        keep = np.ones(len(self.labels), dtype=bool)
        if split is not None:
            keep &= (self.labels["split"] == split).to_numpy()
        if label is not None:
            keep &= (self.labels["label"] == label).to_numpy()
        return self.labels[keep].reset_index(drop=True)

    def known_positives(self, split: Split | None = None, lists: bool = True) -> csr_array:
        """Every pair that labels and candidate lists of one split (default: all) accept; without `lists` labels alone.

        Returns sparse booleans `[n_resumes, n_jobs]` in frame order.
        """
        chosen = self.rankings["split"] == split if split is not None else np.ones(len(self.rankings), dtype=bool)
        judged = judged_pairs(self.labelled(split), self.rankings[chosen & lists])
        table = judged[judged["label"] == 1].drop_duplicates()
        rows = self.positions("resume", table["resume_id"])
        columns = self.positions("job", table["job_id"])
        shape = (len(self.resumes), len(self.jobs))
        return csr_array((np.ones(len(table), dtype=bool), (rows, columns)), shape=shape)

    def suitable(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> NDArray[np.bool_]:
        """True suitability of a block of pairs, `[n_resume_ids, n_job_ids]`.

        Raises ValueError on a corpus whose truth is unknown.
        """
        if self.truth is None:
            raise ValueError(f"corpus {self.name!r} has no truth: only the synthetic market knows every pair")
        rows = self.positions("resume", resume_ids)
        columns = self.positions("job", job_ids)
        return cast(NDArray[np.bool_], self.truth[rows][:, columns].toarray())

    def with_hypothetical_resumes(self, texts: Mapping[str, str]) -> Corpus:
        """A copy whose jobs carry HyRe texts; jobs without one keep an empty string."""
        return self.with_hypothetical("job", texts)

    def with_hypothetical(self, side: Side, texts: Mapping[str, str]) -> Corpus:
        """A copy whose documents of a side carry a text of the other: HyRe for jobs, HyJob for resumes."""
        frame = self.documents(side)
        unknown = set(texts) - set(frame.index)
        if unknown:
            what = f"hypothetical {other(side)}s name {len(unknown)} unknown {side}s"
            raise KeyError(f"{what}, e.g. {sorted(unknown)[0]!r}")
        column = [texts.get(name, "") for name in frame.index]
        return self.with_documents(side, frame.assign(**{HYPOTHETICAL[side]: column}))

    def without_hypothetical(self) -> Corpus:
        """A copy without HyRe and HyJob texts."""
        resumes, jobs = (self.documents(side).drop(columns=HYPOTHETICAL[side], errors="ignore") for side in SIDES)
        return replace(self, resumes=resumes, jobs=jobs)

    def with_documents(self, side: Side, frame: pd.DataFrame, **changes: Any) -> Corpus:
        """A copy with another frame of one side, and whatever else `changes` names."""
        own: dict[str, Any] = {f"{side}s": frame}
        return replace(self, **own, **changes)

    def fingerprint(self) -> str:
        """A hash of all content (16 hex digits); equal content in equal order gives an equal hash."""
        digest = hashlib.sha256()
        for side in SIDES:
            digest.update(pd.util.hash_array(self.documents(side).index.astype("str").to_numpy(object)).tobytes())
        for frame in (self.resumes, self.jobs, self.labels, self.rankings):
            digest.update("\x1f".join(map(str, frame.columns)).encode())
            digest.update(pd.util.hash_pandas_object(_cells(frame), index=False).to_numpy().tobytes())
        if self.truth is not None:
            truth = self.truth.sorted_indices()
            digest.update(truth.indptr.astype(np.int64).tobytes() + truth.indices.astype(np.int64).tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> pd.DataFrame:
        """Counts of documents, labels and candidate lists by split."""
        return pd.DataFrame({split: self._count(split) for split in SPLITS}).astype(int)

    def _count(self, split: Split) -> dict[str, int]:
        ranked = self.rankings[self.rankings["split"] == split]
        lists = ranked.groupby("target")["query_id"].nunique()
        return {
            "resumes": len(self.pool("resume", split)),
            "jobs": len(self.pool("job", split)),
            "accepted pairs": len(self.labelled(split, 1)),
            "rejected pairs": len(self.labelled(split, 0)),
            "rank-resume queries": lists.get("resume", 0),
            "rank-job queries": lists.get("job", 0),
        }


def empty_frame(columns: list[str]) -> pd.DataFrame:
    """A frame of the given columns without rows."""
    return pd.DataFrame({column: pd.Series(dtype="int64" if column == "label" else "str") for column in columns})


def judged_pairs(labels: pd.DataFrame, rankings: pd.DataFrame) -> pd.DataFrame:
    """Labels, then candidate-list entries, each row as `resume_id, job_id, label`."""
    ranks_resumes = rankings["target"] == "resume"
    candidate, query = rankings["candidate_id"], rankings["query_id"]
    columns = {"resume_id": candidate.where(ranks_resumes, query), "job_id": query.where(ranks_resumes, candidate)}
    listed = pd.DataFrame({**columns, "label": rankings["label"]})
    return pd.concat([labels[["resume_id", "job_id", "label"]], listed], ignore_index=True)


def conflicting_rows(labels: pd.DataFrame, rankings: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows of labels, and of candidate lists, whose pair is accepted in one place and rejected in another."""
    judged = judged_pairs(labels, rankings)
    known = judged["label"].isin([0, 1])
    votes = judged[known].groupby(["resume_id", "job_id"])["label"].transform("nunique")
    conflict = (votes.reindex(judged.index) > 1).to_numpy()
    return conflict[: len(labels)], conflict[len(labels) :]


def blank_documents(frame: pd.DataFrame, fields: list[str]) -> NDArray[np.bool_]:
    """Rows whose fields hold nothing but white space."""
    return _cells(frame[fields]).apply(lambda column: column.str.strip() == "").all(axis=1).to_numpy()


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """All cells as text, a missing one as an empty string."""
    return frame.astype("str").fillna("")


class Locate(Protocol):
    """Names the place of a table, or of one of its rows."""

    def __call__(self, table: str, row: int | None = None) -> str: ...


def find_defects(corpus: Corpus, origins: Origins | None = None) -> list[Defect]:
    """Everything that is wrong with a corpus, accepted kinds included, so that one error can name all."""
    where = partial(_where, corpus.sources, origins or {})
    shape = _shape_defects(corpus, where)
    if shape:  # the other checks need the columns
        return shape
    defects = []
    for side in SIDES:
        defects += _document_defects(corpus, side, where)
    return defects + _label_defects(corpus, where) + _ranking_defects(corpus) + _split_defects(corpus, where)


def _where(sources: Mapping[str, str], origins: Origins, table: str, row: int | None = None) -> str:
    if row is not None and table in origins:
        place = origins[table].iloc[row]
        return f"{place['source']}, row {place['row']}"
    source = sources.get(table, table)
    return source if row is None else f"{source}, row {row + 1}"


def _shape_defects(corpus: Corpus, where: Locate) -> list[Defect]:
    defects = []

    def add(kind: str, table: str, what: str, remedy: str) -> None:
        defects.append(Defect(kind, where(table), what, remedy))

    for table, columns in (("labels", LABEL_COLUMNS), ("rankings", RANKING_COLUMNS)):
        missing = set(columns) - set(getattr(corpus, table).columns)
        if missing:
            add("missing_column", table, f"columns {sorted(missing)} are missing", f"Provide {columns}.")
    for side in SIDES:
        names = corpus.documents(side).columns
        repeated = names[names.duplicated()].unique().tolist()
        if repeated:
            add("duplicate_column", f"{side}s", f"columns {repeated} occur twice", "Rename one of them.")
        if "split" not in names:
            add("missing_column", f"{side}s", "no split column", "Name each split.")
        elif not corpus.fields(side):
            add("missing_column", f"{side}s", "no text field", "Add a text column.")
    expected = (len(corpus.resumes), len(corpus.jobs))
    if corpus.truth is not None and not isinstance(corpus.truth, csr_array):
        add("truth_type", "truth", f"truth is a {type(corpus.truth).__name__}", "Give scipy.sparse.csr_array(truth).")
    elif corpus.truth is not None and corpus.truth.shape != expected:
        what = f"truth has shape {corpus.truth.shape}, documents need {expected}"
        add("truth_shape", "truth", what, "Align truth with the frames.")
    return defects


def _document_defects(corpus: Corpus, side: Side, where: Locate) -> list[Defect]:
    frame, table, defects = corpus.documents(side), f"{side}s", []
    ids, names, splits = frame.index, frame.index.tolist(), frame["split"].tolist()

    def add(kind: str, rows: NDArray[np.bool_], what: str, remedy: str) -> None:
        for row in np.flatnonzero(rows).tolist():
            text = what.format(id=names[row], split=splits[row])
            defects.append(Defect(kind, where(table, row), text, remedy))

    missing = ids.isna() | (ids.astype(str).str.strip() == "")
    add("missing_id", np.asarray(missing), f"{side} without an id", "Give every document an id.")
    mistyped = np.array([not isinstance(name, str) for name in names], dtype=bool) & ~missing
    add("id_type", np.asarray(mistyped), f"{side} id {{id!r}} is not a string", "Index by frame.index.astype(str).")
    repeated = ids.duplicated() & ~missing
    add(
        "duplicate_id",
        np.asarray(repeated),
        f"{side} id {{id!r}} appears again",
        "Keep one row per id, or accept 'duplicate_id' to keep the first.",
    )
    odd = ~frame["split"].isin([*SPLITS, ANY_SPLIT]).to_numpy()
    add("unknown_split", odd, "split {split!r} of {id!r} is unknown", "Use train, valid, test or any.")
    blank = blank_documents(frame, corpus.fields(side))
    add("empty_text", blank, f"{side} {{id!r}} has no text", "Supply text, or accept 'empty_text' to drop it.")
    text = _cells(frame[corpus.fields(side)])
    stub = text.apply(lambda column: column.str.fullmatch(PLACEHOLDER)).any(axis=1).to_numpy()
    remedy = "The public release hides texts; get the real ones, or accept 'placeholder'."
    add("placeholder", stub, f"{side} {{id!r}} holds placeholder text", remedy)
    for column, named in ((COPY_OF, side), (NEGATIVE_FOR, other(side))):
        if column in frame.columns:
            cells = frame[column].fillna("").astype("str")
            lost = ((cells != "") & ~cells.isin(corpus.documents(named).index)).to_numpy()
            remedy = f"Name a {named} of the corpus, or leave the cell empty."
            add("unknown_reference", lost, f"{column} of {{id!r}} names no {named}", remedy)
    return defects


def _label_defects(corpus: Corpus, where: Locate) -> list[Defect]:
    labels, defects = corpus.labels, []

    def add(kind: str, rows: pd.Series | NDArray[np.bool_], what: str, remedy: str) -> None:
        """Report the marked rows."""
        for row in np.flatnonzero(rows).tolist():
            text = what.format(**labels.iloc[row])
            defects.append(Defect(kind, where("labels", row), text, remedy))

    for side in SIDES:
        lost = ~labels[f"{side}_id"].isin(corpus.documents(side).index)
        what = f"label names unknown {side} {{{side}_id!r}}"
        add("unknown_document", lost, what, "Add the document, or accept 'unknown_document' to drop the label.")
    remedy = "Map labels to 0 and 1 (load_pairs: label_values or threshold), or accept 'unknown_label' to drop the row."
    add("unknown_label", ~labels["label"].isin([0, 1]), "label {label} is not 0 or 1", remedy)
    add("unknown_split", ~labels["split"].isin(SPLITS), "split {split!r} is unknown", "Use train, valid or test.")
    conflict = conflicting_rows(labels, corpus.rankings)[0]
    pair = "resume {resume_id!r} and job {job_id!r}"
    remedy = "Keep one label per pair, or accept 'conflicting_label' to drop all of them."
    add("conflicting_label", conflict, f"{pair} are both accepted and rejected", remedy)
    repeated = labels.duplicated(["resume_id", "job_id"]) & ~conflict
    add("duplicate_label", repeated, f"{pair} are labelled twice", "Keep one row, or accept 'duplicate_label'.")
    return defects


def _ranking_defects(corpus: Corpus) -> list[Defect]:
    rankings, defects = corpus.rankings, []

    def add(kind: str, rows: pd.Series | NDArray[np.bool_], what: str, remedy: str) -> None:
        """Report the marked entries."""
        for row in np.flatnonzero(rows):
            entry = rankings.iloc[row]
            table = f"rankings.{entry['target']}.{entry['split']}"
            place = f"{corpus.sources.get(table, 'rankings')}, query {entry['query_id']!r}"
            defects.append(Defect(kind, place, what.format(**entry), remedy))

    add("unknown_target", ~rankings["target"].isin(SIDES), "target {target!r} is unknown", "Use resume or job.")
    add("unknown_split", ~rankings["split"].isin(SPLITS), "split {split!r} is unknown", "Use train, valid or test.")
    remedy = "Use -1, 0 or 1, or accept 'unknown_label' to drop the entry."
    add("unknown_label", ~rankings["label"].isin([-1, 0, 1]), "label {label} is unknown", remedy)
    first_entry = ~rankings.duplicated(["target", "split", "query_id"])  # name a query once, not per candidate
    for side in SIDES:
        known = corpus.documents(side).index
        ranked = rankings["target"] == side
        lost = ranked & ~rankings["candidate_id"].isin(known)
        remedy = "Add the document, or accept 'unknown_document' to drop the entry."
        add("unknown_document", lost, f"the list names unknown {side} {{candidate_id!r}}", remedy)
        lost_query = (rankings["target"] == other(side)) & ~rankings["query_id"].isin(known) & first_entry
        add("unknown_document", lost_query, f"the query is an unknown {side}", remedy)
    conflict = conflicting_rows(corpus.labels, rankings)[1]
    remedy = "Keep one label per pair, or accept 'conflicting_label' to drop all of them."
    what = "the pair with {candidate_id!r} is both accepted and rejected"
    add("conflicting_label", conflict, what, remedy)
    twice = rankings.duplicated(ENTRY)
    remedy = "List a candidate once, or accept 'duplicate_candidate' to keep one."
    add("duplicate_candidate", twice, "candidate {candidate_id!r} is listed twice", remedy)
    return defects


def _split_defects(corpus: Corpus, where: Locate) -> list[Defect]:
    """In the cold regime a document must be used in its own split only."""
    if corpus.regime == "warm":
        return []
    defects = []
    for side in SIDES:
        uses = _uses(corpus, side)
        home = uses["id"].map(corpus.documents(side)["split"][~corpus.documents(side).index.duplicated()])
        wrong = home.notna() & (home != uses["split"])
        for use in uses[wrong].assign(home=home[wrong]).drop_duplicates(["id", "split"]).itertuples():
            what = f"{side} {use.id!r} of split {use.home!r} is used in {use.split!r} ({use.table})"
            remedy = "Split by document, or declare regime='warm' with split 'any'."
            defects.append(Defect("split_leak", where(f"{side}s"), what, remedy))
        stray = corpus.documents(side)["split"] == ANY_SPLIT
        for row in np.flatnonzero(stray):
            what = f"{side} {corpus.documents(side).index[int(row)]!r} has split 'any' in the cold regime"
            defects.append(Defect("split_leak", where(f"{side}s", int(row)), what, "Name its split."))
    return defects


def _uses(corpus: Corpus, side: Side) -> pd.DataFrame:
    """Where documents of a side are used: columns id, split, table."""
    labels = corpus.labels.rename(columns={f"{side}_id": "id"})[["id", "split"]].assign(table="labels")
    rankings = corpus.rankings
    ranked = rankings[rankings["target"] == side].rename(columns={"candidate_id": "id"})
    asked = rankings[rankings["target"] == other(side)].rename(columns={"query_id": "id"})
    listed = pd.concat([ranked, asked])[["id", "split"]].assign(table="rankings")
    return pd.concat([labels, listed]).drop_duplicates().reset_index(drop=True)
