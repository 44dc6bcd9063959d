"""The one data object: resumes, jobs, labels, candidate lists and, where it is known, the true fit.

Also which documents are duplicates of each other, and which pairs must never be mined as negatives.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast
from unicodedata import normalize

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from confitlib.util import checked, read_yaml

Side = Literal["resume", "job"]
Split = Literal["train", "valid", "test"]
Regime = Literal["cold", "warm"]

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
REASONS = ("labelled positive", "augmented copy", "same text")
PLACEHOLDER = r"^\s*\[\[[A-Za-z_]+\]\]\s*$"
WIDTHLESS = "[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]"  # signs that nobody sees
SHOWN = 20  # defects that an error message prints in full
KINDS: dict[str, dict[str, str]] = read_yaml(Path(__file__).with_name("defects.yaml"), dict)
Places = Mapping[str, Sequence[str]]
Check = tuple[str, str, ArrayLike, str]


def other(side: Side) -> Side:
    """The opposite side: the query side of a target, or the reverse."""
    return "job" if side == "resume" else "resume"


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong with an input: its kind, where it is, what it is, and what to do.

    The remedy of a kind stands in defects.yaml, unless one is given.
    """

    kind: str
    where: str
    what: str
    remedy: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "remedy", self.remedy or KINDS[self.kind]["remedy"])

    def __str__(self) -> str:
        return f"{self.where}: {self.what} ({self.kind}). {self.remedy}"


class CorpusError(ValueError):
    """Input that cannot be used as it is; `defects` lists every reason with file, row and remedy."""

    def __init__(self, defects: Iterable[Defect]) -> None:
        self.defects = list(defects)
        kinds = Counter(defect.kind for defect in self.defects)
        each = max(SHOWN // max(len(kinds), 1), 1)  # of every kind, so that none hides another
        order = pd.Series([defect.kind for defect in self.defects], dtype="str")
        shown = [self.defects[i] for i in np.flatnonzero(order.groupby(order).cumcount() < each)]
        lines = [f"  - {defect}" for defect in shown]
        if len(shown) < len(self.defects):
            lines.append(f"  … and {len(self.defects) - len(shown)} more (see .defects)")
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        super().__init__("\n".join([f"defects in the input ({counts}):", *lines]))


@checked
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
    `places` (for errors only, not kept): for each table the place of each of its rows, such as "jobs.csv, row 3".

    Raises `CorpusError` with every defect found.

    >>> import pandas as pd
    >>> from confitlib import Corpus
    >>> resumes = pd.DataFrame({"text": ["Nurse", "Baker"], "split": "train"}, index=["r1", "r2"])
    >>> jobs = pd.DataFrame({"text": ["Ward nurse"], "split": "train"}, index=["j1"])
    >>> labels = pd.DataFrame({"resume_id": ["r1", "r2"], "job_id": "j1", "label": [1, 0], "split": "train"})
    >>> Corpus(resumes, jobs, labels)
    Corpus('corpus': 2 resumes, 1 jobs, 2 labels, 0 list entries)
    """

    resumes: pd.DataFrame
    jobs: pd.DataFrame
    labels: pd.DataFrame
    rankings: pd.DataFrame = field(default_factory=lambda: empty_frame(RANKING_COLUMNS))
    truth: csr_array | None = None
    name: str = "corpus"
    regime: Regime = "cold"
    accepted: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    places: InitVar[Places | None] = None

    def __post_init__(self, places: Places | None) -> None:
        if defects := [d for d in find_defects(self, places) if d.kind not in self.accepted]:
            raise CorpusError(defects)

    def __repr__(self) -> str:
        sizes = {"resumes": self.resumes, "jobs": self.jobs, "labels": self.labels, "list entries": self.rankings}
        return f"Corpus({self.name!r}: {', '.join(f'{len(frame):,} {name}' for name, frame in sizes.items())})"

    def __eq__(self, other_corpus: object) -> bool:
        if not isinstance(other_corpus, Corpus):
            return NotImplemented
        same = self.name == other_corpus.name and self.regime == other_corpus.regime
        return same and self.fingerprint() == other_corpus.fingerprint()

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
            raise KeyError(f"{side} {wanted[rows < 0][0]!r} is not in corpus {self.name!r}")
        return rows

    def labelled(self, split: Split | None = None, label: int | None = None) -> pd.DataFrame:
        """The labels of one split (default: all) with one label value (default: all)."""
        labels = self.labels if split is None else self.labels[self.labels["split"] == split]
        labels = labels if label is None else labels[labels["label"] == label]
        return labels.reset_index(drop=True)

    def known_positives(self, split: Split | None = None, lists: bool = True) -> csr_array:
        """Every pair that labels and candidate lists of one split (default: all) accept; without `lists` labels alone.

        Returns sparse booleans `[n_resumes, n_jobs]` in frame order.
        """
        rankings = self.rankings if split is None else self.rankings[self.rankings["split"] == split]
        judged = judged_pairs(self.labelled(split), rankings if lists else rankings[:0])
        table = judged[judged["label"] == 1].drop_duplicates()
        rows, columns = (self.positions(side, table[f"{side}_id"]) for side in SIDES)
        shape = (len(self.resumes), len(self.jobs))
        return csr_array((np.ones(len(table), dtype=bool), (rows, columns)), shape=shape)

    def suitable(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> NDArray[np.bool_]:
        """True suitability of a block of pairs, `[n_resume_ids, n_job_ids]`.

        Raises ValueError on a corpus whose truth is unknown.
        """
        if self.truth is None:
            raise ValueError(f"corpus {self.name!r} has no truth: only the synthetic market knows every pair")
        rows, columns = self.positions("resume", resume_ids), self.positions("job", job_ids)
        return cast(NDArray[np.bool_], self.truth[rows][:, columns].toarray())

    def with_hypothetical_resumes(self, texts: Mapping[str, str]) -> Corpus:
        """A copy whose jobs carry HyRe texts; jobs without one keep an empty string."""
        return self.with_hypothetical("job", texts)

    def with_hypothetical(self, side: Side, texts: Mapping[str, str]) -> Corpus:
        """A copy whose documents of a side carry a text of the other: HyRe for jobs, HyJob for resumes."""
        frame = self.documents(side)
        if unknown := set(texts) - set(frame.index):
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
        return replace(self, **(changes | {f"{side}s": frame}))

    def fingerprint(self) -> str:
        """A hash of all content (16 hex digits); equal content in equal order gives an equal hash."""
        digest = hashlib.sha256()
        for side in SIDES:
            digest.update(pd.util.hash_array(self.documents(side).index.astype("str").to_numpy(object)).tobytes())
        for frame in (self.resumes, self.jobs, self.labels, self.rankings):
            digest.update("\x1f".join(map(str, frame.columns)).encode())
            digest.update(pd.util.hash_pandas_object(frame.astype("str").fillna(""), index=False).to_numpy().tobytes())
        if self.truth is not None:
            truth = self.truth.sorted_indices()
            digest.update(truth.indptr.astype(np.int64).tobytes() + truth.indices.astype(np.int64).tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> pd.DataFrame:
        """Counts of documents, labels and candidate lists by split."""
        table = {}
        for split in SPLITS:
            lists = self.rankings[self.rankings["split"] == split].groupby("target")["query_id"].nunique()
            table[split] = {f"{side}s": len(self.pool(side, split)) for side in SIDES}
            for label, name in ((1, "accepted"), (0, "rejected")):
                table[split][f"{name} pairs"] = len(self.labelled(split, label))
            table[split] |= {f"rank-{side} queries": lists.get(side, 0) for side in SIDES}
        return pd.DataFrame(table).astype(int)


def empty_frame(columns: list[str]) -> pd.DataFrame:
    """A frame of the given columns without rows."""
    return pd.DataFrame({column: pd.Series(dtype="int64" if column == "label" else "str") for column in columns})


def judged_pairs(labels: pd.DataFrame, rankings: pd.DataFrame) -> pd.DataFrame:
    """Labels, then candidate-list entries, each row as `resume_id, job_id, label`."""
    candidate, query = rankings["candidate_id"], rankings["query_id"]
    ids = {f"{side}_id": candidate.where(rankings["target"] == side, query) for side in SIDES}
    listed = pd.DataFrame({**ids, "label": rankings["label"]})
    return pd.concat([labels[["resume_id", "job_id", "label"]], listed], ignore_index=True)


def blank_documents(frame: pd.DataFrame, fields: list[str]) -> NDArray[np.bool_]:
    """Rows whose fields hold nothing that is seen."""
    return frame[fields].astype("str").fillna("").apply(lambda column: _seen(column) == "").all(axis=1).to_numpy()


def _seen(column: pd.Series) -> pd.Series:
    """Texts without signs that have no width, and without white space at their ends."""
    return column.str.replace(WIDTHLESS, "", regex=True).str.strip()


def document_uses(labels: pd.DataFrame, rankings: pd.DataFrame, side: Side) -> pd.DataFrame:
    """Where documents of a side are used: distinct `id, split`, and the first `table` of `labels` and `rankings`."""
    document = rankings["candidate_id"].where(rankings["target"] == side, rankings["query_id"])
    listed = pd.DataFrame({"id": document, "split": rankings["split"]})[rankings["target"].isin(SIDES)]
    labelled = labels[[f"{side}_id", "split"]].set_axis(["id", "split"], axis=1)
    tables = [labelled.assign(table="labels"), listed.assign(table="rankings")]
    return pd.concat(tables).drop_duplicates(["id", "split"])


def home_of(labels: pd.DataFrame, rankings: pd.DataFrame, side: Side, regime: Regime) -> pd.Series:
    """The split in which each document of a side is used, by id.

    A document used in several splits takes the first of train, valid and test; in the warm regime `any`.
    """
    rank = {split: place for place, split in enumerate(SPLITS)}  # an unknown one comes last
    uses = document_uses(labels, rankings, side).sort_values("split", key=lambda split: split.map(rank), kind="stable")
    home = uses.drop_duplicates("id").set_index("id")["split"]
    if regime == "warm":
        home[home.index.isin(uses["id"][uses["id"].duplicated()])] = ANY_SPLIT
    return home


# --- duplicates, and what must never be mined ---


def copy_groups(frame: pd.DataFrame) -> pd.Series:
    """The group of every document, an original with its augmented copies, named by its smallest id; by id."""
    if COPY_OF not in frame.columns:
        return frame.index.to_series()
    ids = pd.Series(frame.index.astype("str"))
    origin = frame[COPY_OF].fillna("").astype("str").reset_index(drop=True)
    return _groups(frame.index, ids, origin.where(origin != "", ids))


def duplicate_groups(corpus: Corpus, side: Side) -> pd.Series:
    """The group of every document, those of the same text and their copies, named by its smallest id; by id.

    Case, spacing and the Unicode form of a letter do not count. Documents whose text is empty or a placeholder
    are alike to none.
    """
    frame = corpus.documents(side)[corpus.fields(side)].astype("str").fillna("")
    hidden = np.any([frame[name].str.fullmatch(PLACEHOLDER) for name in frame], axis=0)
    plain = [_seen(frame[name]).str.normalize("NFC").str.casefold().str.split().str.join(" ") for name in frame]
    text = pd.Series(["\x1f".join(parts) for parts in zip(*plain, strict=True)], dtype="str")
    ids = pd.Series(frame.index.astype("str"))
    same_text = ("text " + text).where(~hidden & (text.str.strip("\x1f") != ""), "id " + ids)
    return _groups(frame.index, "copy " + copy_groups(corpus.documents(side)).reset_index(drop=True), same_text)


def _groups(index: pd.Index, *keys: pd.Series) -> pd.Series:
    """The smallest id among the documents that share a key, directly or through others."""
    n, names = len(index), pd.factorize(pd.concat(keys))[0]
    size = n + int(names.max(initial=-1)) + 1
    # documents and keys are the nodes of a graph, its components are the groups
    edges = (np.tile(np.arange(n), len(keys)), n + names)
    graph = coo_array((np.ones(len(names), dtype=bool), edges), shape=(size, size))
    numbers = connected_components(graph, directed=False)[1][:n]
    return pd.Series(index, index=index).groupby(numbers).transform("min")


def known_positive_mask(corpus: Corpus, target: Side) -> csr_array:
    """Which documents must never be mined for a query, and why: int8 codes `[queries, documents]` in frame order.

    A pair that is positive in any split or candidate list has code 3; code 2 extends this to augmented copies
    (the optional column `copy_of` names the original), code 1 to documents of the same text, on both sides: a
    reposted job shares the positives of its first posting. 0: may be mined. `REASONS[3 - code]` is the reason.
    """
    positive = corpus.known_positives()
    if 0 in positive.shape:  # a side without documents
        return csr_array(positive.T if target == "resume" else positive).astype(np.int8)
    codes = positive.astype(np.int8)
    copies = [copy_groups(corpus.documents(side)) for side in SIDES]
    duplicates = [duplicate_groups(corpus, side) for side in SIDES]
    for groups in (copies, duplicates):  # every pair whose groups hold a positive; each set holds the one before it
        numbers = [pd.factorize(names)[0] for names in groups]
        # one-hot [documents, groups]
        resumes, jobs = (csr_array((np.ones(len(n), dtype=bool), (np.arange(len(n)), n))) for n in numbers)
        codes = codes + (resumes @ (resumes.T @ positive @ jobs) @ jobs.T).astype(np.int8)
    return csr_array(codes.T if target == "resume" else codes)


# --- validation ---


def find_defects(corpus: Corpus, places: Places | None = None) -> list[Defect]:
    """Everything that is wrong with a corpus, accepted kinds included, so that one error can name all."""
    # 1. columns, and the shape of the truth
    defects = []
    columns = {"labels": LABEL_COLUMNS, "rankings": RANKING_COLUMNS, "resumes": ["split"], "jobs": ["split"]}
    for table, required in columns.items():
        names = getattr(corpus, table).columns
        if missing := sorted(set(required) - set(names)):
            defects.append(Defect("missing_column", table, f"columns {missing} are missing", f"Provide {required}."))
        if repeated := names[names.duplicated()].unique().tolist():
            defects.append(Defect("duplicate_column", table, f"columns {repeated} occur twice"))
    bare = [f"{side}s" for side in SIDES if not corpus.fields(side)]
    defects += [Defect("missing_column", table, "no text field", "Add a text column.") for table in bare]
    truth, sizes = corpus.truth, (len(corpus.resumes), len(corpus.jobs))
    if truth is not None:
        try:
            if truth.shape != sizes or truth.dtype.kind not in "biuf":
                raise ValueError(f"shape {truth.shape} of {truth.dtype}, documents need {sizes} of bool")
            truth.check_format(full_check=True)
            if truth.indptr.max(initial=0) > len(truth.indices):  # which its differences may hide, when they overflow
                raise ValueError("its rows end behind its entries")
        except ValueError as error:
            defects.append(Defect("truth_shape", "truth", f"truth is damaged or misaligned: {error}"))
    if defects:  # the checks of rows need the columns
        return defects
    # 2. rows; an unknown id may be there in another form of Unicode
    for kind, table, rows, what in _checks(corpus):
        frame, unknown = getattr(corpus, table), kind == "unknown_document" and np.any(rows)
        ids = {str(name) for side in SIDES if unknown for name in corpus.documents(side).index}
        forms = {normalize("NFC", name) for name in ids}
        for row in np.flatnonzero(rows).tolist():
            cells = {str(name): value for name, value in frame.iloc[row].items()} | {"id": frame.index[row]}
            place = f"rankings, query {cells['query_id']!r}" if table == "rankings" else f"{table}, row {row + 1}"
            place = places[table][row] if places and table in places else place
            other_form = any(normalize("NFC", name) in forms for name in {*map(str, cells.values())} - ids)
            remedy = "It is there in another form of Unicode: write ids alike, normalised to NFC." if other_form else ""
            defects.append(Defect(kind, place, what.format(**cells), remedy))
    return list(dict.fromkeys(defects))  # an unknown query once, not once per candidate


def defect_rows(corpus: Corpus) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """The rows that have a defect, by kind and table."""
    marked: dict[str, dict[str, NDArray[np.bool_]]] = {}
    for kind, table, rows, _ in _checks(corpus):
        if (mask := np.asarray(rows, dtype=bool)).any():
            marked.setdefault(kind, {})[table] = mask | marked.get(kind, {}).get(table, False)
    return marked


def _document_checks(corpus: Corpus, side: Side) -> Iterator[Check]:
    table, frame, fields = f"{side}s", corpus.documents(side), corpus.fields(side)
    ids = frame.index
    missing = np.asarray(ids.isna() | (_seen(ids.astype(str).to_series()) == "").to_numpy())
    yield "missing_id", table, missing, f"{side} without an id"
    mistyped = np.array([not isinstance(name, str) for name in ids], dtype=bool) & ~missing
    yield "id_type", table, mistyped, f"{side} id {{id!r}} is not a string"
    yield "duplicate_id", table, ids.duplicated() & ~missing, f"{side} id {{id!r}} appears again"
    yield "unknown_split", table, ~frame["split"].isin([*SPLITS, ANY_SPLIT]), "split {split!r} of {id!r} is unknown"
    yield "empty_text", table, blank_documents(frame, fields), f"{side} {{id!r}} has no text"
    hidden = frame[fields].astype("str").apply(lambda column: column.str.fullmatch(PLACEHOLDER, na=False)).any(axis=1)
    yield "placeholder", table, hidden, f"{side} {{id!r}} holds placeholder text"
    for column, named in ((COPY_OF, side), (NEGATIVE_FOR, other(side))):
        if column in frame.columns:
            cells = frame[column].fillna("").astype("str")
            lost = (cells != "") & ~cells.isin(corpus.documents(named).index)
            yield "unknown_reference", table, lost, f"{column} of {{id!r}} names no {named}"
    if corpus.regime == "cold":  # a document must be used in its own split only
        uses = document_uses(corpus.labels, corpus.rankings, side)
        for (split, place), used in uses[uses["split"].isin(SPLITS)].groupby(["split", "table"])["id"]:
            leak = ids.isin(used) & ~ids.duplicated() & (frame["split"] != split)
            yield "split_leak", table, leak, f"{side} {{id!r}} of split {{split!r}} is used in {split!r} ({place})"
        yield "split_leak", table, frame["split"] == ANY_SPLIT, f"{side} {{id!r}} has split 'any' in the cold regime"


def _checks(corpus: Corpus) -> Iterator[Check]:
    """Every check of rows: kind of defect, table, the rows that have it, and what is wrong.

    What is wrong is a template of the cells of a row and, for documents, its `id`.
    """
    for side in SIDES:
        yield from _document_checks(corpus, side)
    labels, rankings = corpus.labels, corpus.rankings
    # 1. values
    yield "unknown_label", "labels", ~labels["label"].isin([0, 1]), "label {label} is not 0 or 1"
    yield "unknown_label", "rankings", ~rankings["label"].isin([-1, 0, 1]), "label {label} is unknown"
    yield "unknown_split", "labels", ~labels["split"].isin(SPLITS), "split {split!r} is unknown"
    yield "unknown_split", "rankings", ~rankings["split"].isin(SPLITS), "split {split!r} is unknown"
    yield "unknown_target", "rankings", ~rankings["target"].isin(SIDES), "target {target!r} is unknown"
    # 2. documents
    for side in SIDES:
        ids, key = corpus.documents(side).index, f"{side}_id"
        yield "unknown_document", "labels", ~labels[key].isin(ids), f"label names unknown {side} {{{key}!r}}"
        lost = (rankings["target"] == side) & ~rankings["candidate_id"].isin(ids)
        yield "unknown_document", "rankings", lost, f"the list names unknown {side} {{candidate_id!r}}"
        lost = (rankings["target"] == other(side)) & ~rankings["query_id"].isin(ids)
        yield "unknown_document", "rankings", lost, f"the query is an unknown {side}"
    # 3. pairs that are accepted in one place and rejected in another, or judged twice
    pairs = judged_pairs(labels, rankings)
    votes = pairs[pairs["label"].isin([0, 1])].groupby(["resume_id", "job_id"])["label"].transform("nunique")
    conflict = (votes.reindex(pairs.index) > 1).to_numpy()
    in_labels, in_lists = conflict[: len(labels)], conflict[len(labels) :]
    both, pair = "both accepted and rejected", "resume {resume_id!r} and job {job_id!r}"
    yield "conflicting_label", "labels", in_labels, f"{pair} are {both}"
    yield "conflicting_label", "rankings", in_lists, f"the pair with {{candidate_id!r}} is {both}"
    repeated = labels.duplicated(["resume_id", "job_id"]) & ~in_labels
    yield "duplicate_label", "labels", repeated, f"{pair} are labelled twice"
    judged_first = rankings.reset_index(drop=True).sort_values("label", key=lambda label: label == -1, kind="stable")
    repeated = judged_first.duplicated(RANKING_COLUMNS[:-1]).sort_index()
    yield "duplicate_candidate", "rankings", repeated, "candidate {candidate_id!r} is listed twice"
