"""Corpora: saved and loaded, changed on the disk in between, and made of frames that do not fit together."""

import io
import itertools
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from inputs import changed, small_corpus, write
from scipy.sparse import coo_array, csr_array
from verdicts import Case

from confitlib.corpus import Corpus
from confitlib.readers import load, save, split_documents

TEXTS = [
    "plain",
    'quote " here',
    "a,b",
    "line\nbreak",
    "cr\rhere",
    "crlf\r\n",
    " spaces ",
    "護士\u3000",
    "é",
    "e\u0301",
    "\u200bx",
    "=1+1",
    "007",
    "NA",
    "nan",
    "None",
    "null",
    "\ttab",
    "-",
    "\\N",
    "0.10",
    "True",
    "#",
    "'",
    "🙂",
    "\x1f",
    "\x00x",
    "[[x",
    "{}",
    "1e5",
]


def random_corpus(seed: int) -> Corpus:
    """A small valid corpus of awkward texts and ids, drawn by seed."""
    rng = np.random.default_rng(seed)
    parts: dict[str, Any] = {}
    for side in ("resume", "job"):
        n = int(rng.integers(1, 7))
        ids = rng.choice([one for one in TEXTS if one.strip()], n, replace=False).astype(object)
        texts = rng.choice(TEXTS, n).astype(object)
        texts[[not text.strip() for text in texts]] = "x"
        frame = pd.DataFrame(
            {"text": texts, "split": rng.choice(["train", "valid", "test"], n).astype(object)}, index=ids
        )
        parts[f"{side}s"] = frame.assign(other=rng.choice(TEXTS, n)) if seed % 2 else frame
    pairs = [
        (r, j)
        for r, j in itertools.product(parts["resumes"].index, parts["jobs"].index)
        if parts["resumes"].loc[r, "split"] == parts["jobs"].loc[j, "split"]
    ]
    rows = [(r, j, int(rng.integers(2)), parts["resumes"].loc[r, "split"]) for r, j in pairs]
    parts["labels"] = pd.DataFrame(rows, columns=["resume_id", "job_id", "label", "split"]).astype({"label": "int64"})
    if seed % 3 == 0:
        parts["truth"] = csr_array(rng.random((len(parts["resumes"]), len(parts["jobs"]))) < 0.4)
    return Corpus(**parts, name=f"corpus {seed}")


def round_trips() -> Iterator[Case]:
    """What is saved is loaded, cell by cell."""
    for seed in range(40):

        def call(folder: Path, seed: int = seed) -> tuple[Corpus, Corpus]:
            corpus = random_corpus(seed)
            return corpus, load(save(corpus, folder / "saved"))

        def right(both: tuple[Corpus, Corpus]) -> bool:
            a, b = both
            tables = all(
                getattr(a, name).to_numpy().tolist() == getattr(b, name).to_numpy().tolist()
                for name in ("resumes", "jobs", "labels", "rankings")
            )
            truth = (a.truth is None) == (b.truth is None) and (
                a.truth is None or (a.truth.toarray() == b.truth.toarray()).all()
            )
            return tables and truth and list(a.resumes.index) == list(b.resumes.index) and a.name == b.name

        yield Case(f"corpus of seed {seed}", call, right, None)


@cache
def saved() -> dict[str, bytes]:
    """The files of a saved corpus with truth."""
    with TemporaryDirectory() as folder:
        save(small_corpus(known=True), Path(folder) / "saved")
        return {file.name: file.read_bytes() for file in sorted((Path(folder) / "saved").iterdir())}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder of these files."""
    for name, content in files.items():
        write(folder / "saved" / name, content)
    return folder / "saved"


def same(corpus: Corpus) -> bool:
    """Whether a corpus is the one that was saved."""
    return corpus == small_corpus(known=True)


def changed_folders() -> Iterator[Case]:
    """A saved corpus of which a file was changed, emptied, cut, doubled, converted or removed."""
    place = (("confitlib.npz", "all_resume", "all_jd", "saved"),)
    for name, content in saved().items():
        changes = {f"bytes by seed {seed}": changed(content, seed) for seed in range(14)}
        changes |= {
            "emptied": b"",
            "cut in half": content[: len(content) // 2],
            "doubled": content * 2,
            "of other line ends": content.replace(b"\n", b"\r\n"),
            "without its first line": content.partition(b"\n")[2],
            "zeros": b"\0" * len(content),
        }
        for kind, raw in changes.items():
            yield Case(
                f"{name}: {kind}",
                lambda folder, name=name, raw=raw: load(put(folder, {**saved(), name: raw})),
                same,
                place,
            )
        rest = {file: raw for file, raw in saved().items() if file != name}
        # without the sidecar the folder is a plain release, which says so by what it lacks
        right: Callable[[Corpus], bool] | None = (
            (lambda corpus: corpus.truth is None) if name == "confitlib.npz" else None
        )
        yield Case(f"{name}: removed", lambda folder, rest=rest: load(put(folder, rest)), right, place)


def sidecars() -> Iterator[Case]:
    """A sidecar that is a whole archive, with arrays or settings that are no corpus's."""
    with np.load(io.BytesIO(saved()["confitlib.npz"])) as archive:
        arrays = {name: archive[name] for name in archive.files}
    settings = json.loads(arrays["settings"].tobytes())

    def call(folder: Path, changes: dict[str, Any]) -> Corpus:
        buffer = io.BytesIO()
        np.savez(buffer, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})
        return load(put(folder, {**saved(), "confitlib.npz": buffer.getvalue()}))

    far = [np.full_like(arrays["truth_indices"], value) for value in (-1, 6, 2**31 - 1, -(2**31))]
    for array, values in {
        "truth_indices": [
            *far,
            arrays["truth_indices"][:-1],
            arrays["truth_indices"].astype(float),
            arrays["truth_indices"].astype(complex),
        ],
        "truth_indptr": [
            arrays["truth_indptr"][::-1],
            arrays["truth_indptr"] + 1,
            arrays["truth_indptr"][:2],
            np.zeros(0, int),
            arrays["truth_indptr"] * 2**30,
        ],
        "truth_data": [
            arrays["truth_data"][:-1],
            arrays["truth_data"].astype("U9"),
            np.zeros((6, 6)),
            np.array([object()] * 6),
        ],
        "settings": [
            np.zeros(3, np.uint8),
            np.frombuffer(b"[" * 100_000, np.uint8),
            np.frombuffer(b'{"files": 1}', np.uint8),
            np.array(1.5),
            None,
        ],
    }.items():
        for number, value in enumerate(values):
            yield Case(
                f"{array} {number}",
                lambda folder, array=array, value=value: call(folder, {array: value}),
                same,
                ("confitlib.npz",),
            )
    for key in settings:
        for value in ("absent", None, 7, "x", [], {}, {"resume": 5}, [1.5]):

            def of_settings(folder: Path, key: str = key, value: Any = value) -> Corpus:
                new = (
                    {name: one for name, one in settings.items() if name != key}
                    if value == "absent"
                    else settings | {key: value}
                )
                return call(folder, {"settings": np.frombuffer(json.dumps(new).encode(), np.uint8)})

            def kept(corpus: Corpus, key: str = key, value: Any = value) -> bool:
                # a name, notes and kinds of defect are free; all else must be refused or stay as it was
                return (
                    (key == "name" and corpus.name == value)
                    or (key in ("notes", "accepted") and value == [])
                    or same(corpus)
                )

            yield Case(f"settings {key} = {value}", of_settings, kept, (("confitlib.npz", "regime", "defects"),))


def constructors() -> Iterator[Case]:
    """Frames that do not fit together, and ids that are no ids."""
    base = small_corpus()
    ids = list(base.resumes.index)
    for value in (None, float("nan"), "", "  ", 7, 7.0, b"r0", ("r0",), True, ids[1], "\u200b", pd.NaT):
        for side in ("resumes", "jobs"):
            frame = getattr(base, side)
            index = [value if value != ids[1] else frame.index[1], *frame.index[1:]]
            yield Case(
                f"{side} id {value!r}",
                lambda folder, side=side, frame=frame, index=index: small_corpus(
                    **{side: frame.set_axis(pd.Index(index, dtype=object), axis=0)}
                ),
                None,
                (side,),
            )
    for table, column in (
        ("labels", "resume_id"),
        ("labels", "job_id"),
        ("labels", "label"),
        ("labels", "split"),
        ("rankings", "query_id"),
        ("rankings", "candidate_id"),
        ("rankings", "target"),
        ("rankings", "split"),
        ("rankings", "label"),
    ):
        frame = getattr(base, table)
        for value in ("nobody", None, 9, 0.5, "", float("inf"), True if column != "label" else "true"):

            def cell(
                folder: Path, table: str = table, frame: pd.DataFrame = frame, column: str = column, value: Any = value
            ) -> Corpus:
                return small_corpus(**{table: frame.assign(**{column: [value, *frame[column].iloc[1:]]})})

            yield Case(f"{table}.{column} = {value!r}", cell, None, (table,))
        yield Case(
            f"{table} without {column}",
            lambda folder, table=table, frame=frame, column=column: small_corpus(**{table: frame.drop(columns=column)}),
            None,
            (table, column),
        )
    for side, column in itertools.product(("resumes", "jobs"), ("text", "split")):
        frame = getattr(base, side)
        for value in (None, "", " \n", "\u200b\u200b", float("nan"), "\ufeff", "\u00ad"):
            yield Case(
                f"{side}.{column} = {value!r}",
                lambda folder, side=side, frame=frame, column=column, value=value: small_corpus(
                    **{side: frame.assign(**{column: [value, *frame[column].iloc[1:]]})}
                ),
                None,
                (side,),
            )
        yield Case(
            f"{side} without {column}",
            lambda folder, side=side, frame=frame, column=column: small_corpus(**{side: frame.drop(columns=column)}),
            None,
            (side,),
        )
    eye = np.eye(6, dtype=bool)
    damaged = csr_array(eye)
    damaged.indices = damaged.indices + 10
    truths: list[Any] = [
        eye,
        eye.tolist(),
        csr_array(eye[:5]),
        csr_array(eye.T[:, :4]),
        coo_array(eye),
        damaged,
        pd.DataFrame(eye),
        1,
    ]
    for number, truth in enumerate(truths):
        yield Case(f"truth {number}", lambda folder, truth=truth: small_corpus(truth=truth), None, ("truth",))
    for fractions in (
        (0.5, 0.5),
        (float("nan"), 0.5, 0.5),
        (1.2, -0.1, -0.1),
        (0, 0, 0),
        (float("inf"), 0, 0),
        ("a", "b", "c"),
        1,
        "train",
        (0.8, 0.1, 0.1, 0),
        (None, 0.5, 0.5),
        (0.5, float("nan"), 0.5),
    ):
        corpus = small_corpus(rankings=base.rankings[:0])
        yield Case(
            f"fractions {fractions}",
            lambda folder, corpus=corpus, fractions=fractions: split_documents(corpus, fractions),
            None,
            ("fractions",),
        )
    for regime in ("Cold", "", None, 1, "hot"):
        yield Case(f"regime {regime!r}", lambda folder, regime=regime: small_corpus(regime=regime), None, ("regime",))


GROUPS = {
    "corpora: round trips": round_trips,
    "corpora: changed folders": changed_folders,
    "corpora: sidecars": sidecars,
    "corpora: frames": constructors,
}
ISOLATED = {"corpora: sidecars"}
