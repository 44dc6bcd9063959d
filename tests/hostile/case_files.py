"""Files and readers: changed bytes, encodings, headers, cells, and paths that are no plain file."""

import functools
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from inputs import JOBS, RESUMES, changed, jsonl, odd_files, release, table, write
from verdicts import Case

from confitlib import notebooks, records, util
from confitlib.corpus import Corpus
from confitlib.llm import Store
from confitlib.llm.requests import read_requests
from confitlib.mining.negatives import Negatives, read_official
from confitlib.readers import load, load_pairs, load_recbole, load_tianchi

PAIRS = (
    'resume_text,job_text,label\nNurse,"Ward, nurse",1\nBäcker,"Ward ""night"" nurse",0\n'
    'Cook,"Two\nlines",1\n护士,Kitchen help,0\n'
)
TRIPLES = [("Nurse", "Ward, nurse", 1), ("Bäcker", "Line\nbreak", 0), ("护士", 'She said "yes"', 1)]
LINES = jsonl(*({"resume_text": a, "job_text": b, "label": c} for a, b, c in TRIPLES))
Triples = list[tuple[str, str, int]]


def triples(corpus: Corpus) -> Triples:
    """What a corpus says: resume text, job text and label of each pair."""
    texts = [corpus.resumes.loc[corpus.labels["resume_id"]], corpus.jobs.loc[corpus.labels["job_id"]]]
    columns = [list(frame.drop(columns="split").iloc[:, 0]) for frame in texts]
    return sorted(zip(*columns, corpus.labels["label"].tolist(), strict=True))


def number(value: Any) -> int:
    """A label as a whole number."""
    return int(float(value))


def pairs_of_csv(raw: bytes) -> Triples:
    """What a CSV file of pairs says by pandas."""
    rows = [row for row in table(raw) if any(row.values())]
    return sorted((row["resume_text"], row["job_text"], number(row["label"])) for row in rows)


def as_text(value: Any) -> str:
    """A JSON value as text: a list in lines, nothing as nothing, a truth value or object as JSON writes it."""
    if isinstance(value, list):
        return "\n".join(map(as_text, value))
    if isinstance(value, bool | dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None or value != value else str(value)


def pairs_of_lines(raw: bytes) -> Triples:
    """What JSON lines of pairs say by the standard library."""
    rows = [json.loads(line) for line in raw.decode("utf-8-sig").split("\n") if line.strip()]
    return sorted((as_text(row["resume_text"]), as_text(row["job_text"]), number(row["label"])) for row in rows)


def changed_pairs() -> Iterator[Case]:
    """Tables of pairs with a few bytes changed: read as an independent parser reads them, or refused with the file."""
    for name, content, meaning in (("pairs.csv", PAIRS, pairs_of_csv), ("pairs.jsonl", LINES, pairs_of_lines)):
        for seed in range(70):
            raw = changed(content.encode(), seed)

            def call(folder: Path, name: str = name, raw: bytes = raw) -> Corpus:
                return load_pairs(write(folder / name, raw), split="train")

            def right(corpus: Corpus, raw: bytes = raw, meaning: Any = meaning) -> bool:
                return triples(corpus) == meaning(raw)

            yield Case(f"{name} changed by seed {seed}", call, right, (name,))


def meaning_of_release(folder: Path) -> tuple[Any, ...]:
    """What a release folder says by pandas and the standard library."""
    documents = [table((folder / name).read_bytes()) for name in ("all_resume.csv", "all_jd.csv")]
    texts = [sorted(tuple(row.values()) for row in rows if any(row.values())) for rows in documents]
    labels = []
    for name in ("train_labeled_data", "valid_classification_data", "test_classification_data"):
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8-sig").split("\n"):
            row = json.loads(line) if line.strip() else None
            labels += [(as_text(row["user_id"]), as_text(row["jd_no"]), number(row["satisfied"]))] if row else []
    lists = []
    for target, key in (("resume", "user_ids"), ("job", "jd_nos")):
        content = json.loads((folder / f"rank_{target}.json").read_text(encoding="utf-8-sig"))
        for query, entry in content.items():
            pairs = zip(entry[key], entry["satisfied"], strict=True)
            lists += [(target, query, as_text(name), number(label)) for name, label in pairs]
    return *texts, sorted(labels), sorted(lists)


def said_by(corpus: Corpus) -> tuple[Any, ...]:
    """The same of a corpus."""
    frames = [
        frame.drop(columns=["split", "copy_of"], errors="ignore").reset_index()
        for frame in (corpus.resumes, corpus.jobs)
    ]
    texts = [sorted(map(tuple, frame.to_numpy().tolist())) for frame in frames]
    labels = corpus.labels[["resume_id", "job_id", "label"]]
    lists = corpus.rankings[["target", "query_id", "candidate_id", "label"]]
    return *texts, *(sorted(map(tuple, frame.to_numpy().tolist())) for frame in (labels, lists))


def changed_releases() -> Iterator[Case]:
    """Release folders with a few bytes of one file changed."""
    names = ["all_resume.csv", "all_jd.csv", "train_labeled_data.jsonl", "rank_resume.json", "rank_job.json"]
    for name in names:
        for seed in range(36):

            def call(folder: Path, name: str = name, seed: int = seed) -> tuple[Corpus, tuple[Any, ...]]:
                path = release(folder) / name
                path.write_bytes(changed(path.read_bytes(), seed))
                corpus = load(folder)
                return corpus, meaning_of_release(folder)

            yield Case(
                f"{name} changed by seed {seed}",
                call,
                lambda both: said_by(both[0]) == both[1],
                ((name, "all_", "data.jsonl", "rank_"),),
            )


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1", "gb18030", "shift_jis", "big5", "cp1251"]
SAMPLES = {
    "café au lait – crème brûlée": ["cp1252"],
    "护士在北京工作": ["gb18030"],
    "Медсестра": ["cp1251"],
    "naïve £ 5": ["latin-1"],
}


def encodings() -> Iterator[Case]:
    """Text written in one encoding and read in another: the same text, or an error that says so.

    Bytes of one eight-bit code are valid in another, so of such pairs only those are asked that can be told: text in
    UTF-8 never passes as another code, and another code never as UTF-8.
    """
    for sample, others in SAMPLES.items():
        for written in ["utf-8", "utf-8-sig", *others]:
            for read in ENCODINGS:
                if written.startswith("utf-8") or read.startswith("utf-8") or written == read:

                    def call(folder: Path, sample: str = sample, written: str = written, read: str = read) -> Corpus:
                        path = folder / "pairs.csv"
                        path.write_text(f"resume_text,job_text,label\n{sample},Job,1\n", encoding=written)
                        return load_pairs(path, split="train", encoding=read)

                    def right(corpus: Corpus, sample: str = sample) -> bool:
                        return triples(corpus) == [(sample, "Job", 1)]

                    yield Case(f"{sample} in {written} read as {read}", call, right, ("pairs.csv", "encoding"))
    for table_name in ("pairs", "resumes", "jobs"):

        def one_each(folder: Path, table_name: str = table_name) -> Corpus:
            files = {
                "pairs": "resume_id,job_id,label\n1é,1é,1\n",
                "resumes": "id,text\n1é,Krankenschwester\n",
                "jobs": "id,text\n1é,Köchin\n",
            }
            for name, content in files.items():
                (folder / f"{name}.csv").write_text(content, encoding="cp1252" if name == table_name else "utf-8")
            paths = {name: folder / f"{name}.csv" for name in files}
            return load_pairs(**paths, split="train", encoding={table_name: "cp1252"})

        yield Case(
            f"{table_name} in an encoding of its own",
            one_each,
            lambda corpus: triples(corpus) == [("Krankenschwester", "Köchin", 1)],
        )
    for odd in ("utf8mb4", "", "latin1,utf-8", "base64", "rot13"):
        yield Case(
            f"encoding {odd!r}",
            lambda folder, odd=odd: load_pairs(write(folder / "pairs.csv", PAIRS), encoding=odd),
            None,
            ("encoding",),
        )


def headers() -> Iterator[Case]:
    """Columns that are missing, misspelt, repeated or mapped to what is not there."""
    columns = ["resume_id", "job_id", "label", "resume_text", "job_text"]
    row = ["1", "2", "1", "Nurse", "Ward nurse"]
    for name in columns:
        for odd in (name + "x", name.replace("_", ""), name + "s", " " + name, name.replace("e", "3"), ""):
            if odd == name or (odd == "" and name.endswith("_id")):  # without ids, they are made from the texts
                continue
            header = ",".join(odd if one == name else one for one in columns)

            def call(folder: Path, header: str = header) -> Corpus:
                return load_pairs(write(folder / "pairs.csv", f"{header}\n{','.join(row)}\n"), split="train")

            yield Case(f"{name} misspelt as {odd!r}", call, None, ("pairs.csv", name))
        unknown = {"pairs": {name: "nowhere"}}
        yield Case(
            f"{name} mapped to nothing",
            lambda folder, unknown=unknown: load_pairs(write(folder / "pairs.csv", PAIRS), columns=unknown),
            None,
            ("nowhere", "pairs.csv"),
        )
    for odd in (
        {"pairs": {"lable": "label"}},
        {"pair": {"label": "x"}},
        {"resumes": {"cv": "text"}},
        {"jobs": {"job_text": "x"}},
        {"pairs": "label"},
        {"pairs": {"label": 3}},
        {"resumes": {"text": "body"}},
    ):
        yield Case(
            f"columns={odd}",
            lambda folder, odd=odd: load_pairs(write(folder / "pairs.csv", PAIRS), columns=odd, split="train"),
            None,
            ("columns",),
        )
    for first in ("1,2,1,Nurse,Ward nurse", "a,b,1,Nurse,Cook"):
        yield Case(
            f"no header: {first}",
            lambda folder, first=first: load_pairs(
                write(folder / "pairs.csv", f"{first}\n3,4,0,Cook,Chef\n"), split="train"
            ),
            None,
            ("pairs.csv", "header"),
        )
    for name, content in (("all_resume.csv", RESUMES), ("all_jd.csv", JOBS)):

        def headless(folder: Path, name: str = name, content: str = content) -> Corpus:
            write(release(folder) / name, content.split("\n", 1)[1])
            return load(folder)

        yield Case(f"{name} without a header", headless, None, (name, "no column"))


def cells() -> Iterator[Case]:
    """Cells of other types than text, in each role."""
    values: list[Any] = [
        True,
        False,
        {"a": 1},
        {"a": {"b": [1]}},
        [],
        ["x", "y"],
        [["x"], [1]],
        0,
        1,
        -1,
        2,
        1.0,
        0.5,
        1e400,
        None,
        "",
        " ",
        "\u200b\ufeff",
        "\u2060",
        "[[dummy_text]]",
        "1",
        "1.0",
        "yes",
        "[" * 50_000,
        10**30,
    ]
    for value in values:
        for role in ("resume_text", "job_text", "label", "resume_id", "job_id"):
            record = {
                "resume_id": "r",
                "job_id": "j",
                "resume_text": "Nurse",
                "job_text": "Cook",
                "label": 1,
                role: value,
            }

            def call(folder: Path, record: dict[str, Any] = record) -> Corpus:
                return load_pairs(write(folder / "pairs.jsonl", jsonl(record)), split="train")

            def right(corpus: Corpus, record: dict[str, Any] = record, role: str = role, value: Any = value) -> bool:
                texts = as_text(record["resume_text"]), as_text(record["job_text"])
                ids = [list(frame.index) for frame in (corpus.resumes, corpus.jobs)]
                want = [
                    ["1" if isinstance(one, float) and one == 1 else as_text(one)]
                    for one in (record["resume_id"], record["job_id"])
                ]
                if role.endswith("_id") and isinstance(value, list):  # each item is an id, and makes a pair
                    found = ids[role == "job_id"]
                    return found == list(map(as_text, value)) and len(corpus.labels) == len(value) > 0
                blank = any(not one.strip(" \u200b\ufeff\u2060") for one in (*texts, *want[0], *want[1]))
                label = record["label"] in (0, 1, "1", "1.0") and not isinstance(record["label"], list | dict)
                return label and not blank and triples(corpus) == [(*texts, number(record["label"]))] and ids == want

            yield Case(f"{role} {value!r:.30}", call, right, ("pairs.jsonl",))


def odd_paths() -> Iterator[Case]:
    """Pipes, folders, devices, links to nothing and absent files, given to everything that reads a file."""
    valid = functools.partial(write, content=PAIRS)
    ids = functools.partial(write, content="resume_id,job_id,label\n1,1,1\n")

    def of_release(path: Path) -> Any:
        for file in release(path.parent.parent / "good").iterdir():
            if file.name != path.name:
                file.rename(path.parent / file.name)
        return load(path.parent)

    def of_search(path: Path) -> Any:
        from confitlib.scale import read_document

        return read_document(path, "resume")

    readers: dict[str, tuple[str, Any]] = {
        "pairs": ("p.csv", lambda path: load_pairs(path)),
        "pairs of parquet": ("p.parquet", lambda path: load_pairs(path)),
        "gz": ("p.csv.gz", lambda path: load_pairs(path)),
        "resumes": ("r.jsonl", lambda path: load_pairs(valid(path.parent / "p.csv"), resumes=path)),
        "jobs": ("j.tsv", lambda path: load_pairs(ids(path.parent / "p.csv"), jobs=path)),
        "release": ("all_jd.csv", of_release),
        "release labels": ("train_labeled_data.jsonl", of_release),
        "release lists": ("rank_job.json", of_release),
        "recbole": ("x.inter", lambda path: load_recbole(path.parent, "x")),
        "tianchi": ("table3_action", lambda path: load_tianchi(path.parent)),
        "yaml": ("s.yaml", lambda path: util.read_yaml(path, dict)),
        "sweep": ("s.yaml", notebooks.plan_sweep),
        "claims": ("c.yaml", records.load_claims),
        "records": ("r.jsonl", records.load_records),
        "requests": ("q.jsonl", read_requests),
        "official negatives": ("n.json", lambda path: read_official(path, None)),  # type: ignore[arg-type]
        "negatives": ("about.json", lambda path: Negatives.load(path.parent)),
        "search": ("cv.txt", of_search),
        "store": ("a.jsonl", Store),
    }
    for reader, (name, call) in readers.items():
        for kind in ("a pipe", "a folder", "a link to nothing", "a device without end", "absent"):

            def read(folder: Path, kind: str = kind, name: str = name, call: Any = call) -> Any:
                path = dict(odd_files(folder, name))[kind]
                return call(path)

            # A store appears with its first reply, and a release may lack labels or lists.
            absent, right = kind in ("absent", "a link to nothing"), None
            if absent and reader == "store":
                right = lambda result: len(result) == 0  # noqa: E731
            if absent and reader.startswith("release l"):
                right = lambda result: bool(result.notes)  # noqa: E731
            yield Case(f"{reader}: {kind}", read, right, ((name, name.split(".")[0]),))


def packed() -> Iterator[Case]:
    """Compressed and Parquet files with bytes changed or cut off: what is left is what was written, or refused."""
    buffer = io.BytesIO()
    frame = pd.DataFrame([(a, b, c) for a, b, c in TRIPLES], columns=["resume_text", "job_text", "label"])
    frame.to_parquet(buffer)
    for name, raw in (("pairs.csv.gz", gzip.compress(PAIRS.encode(), mtime=0)), ("pairs.parquet", buffer.getvalue())):
        for seed in range(40):
            damaged = changed(raw, seed) if seed < 30 else raw[: len(raw) * (seed - 30) // 10]

            def call(folder: Path, name: str = name, damaged: bytes = damaged) -> Corpus:
                return load_pairs(write(folder / name, damaged), split="train")

            def right(corpus: Corpus, name: str = name, damaged: bytes = damaged) -> bool:
                if name.endswith(".gz"):
                    return triples(corpus) == pairs_of_csv(gzip.decompress(damaged))
                rows = pd.read_parquet(io.BytesIO(damaged)).to_dict("records")
                return triples(corpus) == sorted(
                    (as_text(r["resume_text"]), as_text(r["job_text"]), number(r["label"])) for r in rows
                )

            yield Case(f"{name} damaged by seed {seed}", call, right, (name,))


INTER, USER, ITEM = (
    "user_id:token\tjob_id:token\tlabel:float\n",
    "user_id:token\ttext:token_seq\n",
    "job_id:token\ttext:token_seq\n",
)


def formats_of_others() -> Iterator[Case]:
    """RecBole and Tianchi: ratings that are no labels, headers without types, files that are missing."""
    for label in ("0", "1", "0.0", "1.0", "0.5", "2", "3", "4", "5", "-1", "nan", "inf", "", "yes", "1,0", "0x1"):

        def recbole(folder: Path, label: str = label) -> Corpus:
            write(folder / "x.inter", f"{INTER}u1\tj1\t{label}\nu2\tj1\t0\n")
            write(folder / "x.user", f"{USER}u1\tNurse\nu2\tBaker\n")
            write(folder / "x.item", f"{ITEM}j1\tWard nurse\n")
            return load_recbole(folder, "x", fractions=(1, 0, 0))

        def right(corpus: Corpus, label: str = label) -> bool:
            return label in ("0", "1", "0.0", "1.0", "0.5") and sorted(corpus.labels["label"]) == sorted(
                [int(float(label) >= 0.5), 0]
            )

        yield Case(f"RecBole label {label!r}", recbole, right, ("x.inter",))
    for file, raw in (
        ("x.inter", f"{INTER}u1\tj1\t1\nu2\tj1\t0\n"),
        ("x.user", f"{USER}u1\tNurse\nu2\tBaker\n"),
        ("x.item", f"{ITEM}j1\tWard\n"),
    ):
        for odd in (
            raw.replace(":token", "", 1),
            raw.replace("token", "tokens", 1),
            raw.replace("\t", ",", 1),
            raw[1:],
            "",
            "\n",
            raw.replace("_id", "", 1),
            raw + "u9\n",
        ):

            def header(folder: Path, file: str = file, odd: str = odd) -> Corpus:
                write(folder / "x.inter", f"{INTER}u1\tj1\t1\nu2\tj1\t0\n")
                write(folder / "x.user", f"{USER}u1\tNurse\nu2\tBaker\n")
                write(folder / "x.item", f"{ITEM}j1\tWard\n")
                write(folder / file, odd)
                return load_recbole(folder, "x")

            yield Case(f"RecBole {file}: {odd[:40]!r}", header, None, (("x.inter", "x.user", "x.item"),))
    action = "user_id\tjd_no\tbrowsed\tdelivered\tsatisfied\n"
    for flags in (
        "1\t1\t1",
        "0\t1\t0",
        "1\t0\t0",
        "2\t0\t1",
        "\t1\t",
        "yes\tno\tno",
        "1\t1",
        "1\t1\t1\t1",
        "nan\tnan\tnan",
        "1\t1\t2",
    ):

        def tianchi(folder: Path, flags: str = flags) -> Corpus:
            from confitlib.readers.release import LAYOUT

            names = {
                "resume": list(LAYOUT["aliyun"]["resume"]),
                "job": [n for n in LAYOUT["aliyun"]["job"] if n != "salary"] + ["min_salary", "max_salary"],
            }
            write(
                folder / "table1_user",
                "\t".join(["user_id", *names["resume"]]) + "\n" + "u1" + "\tNurse" * len(names["resume"]) + "\n",
            )
            write(
                folder / "table2_jd",
                "\t".join(["jd_no", *names["job"]]) + "\n" + "j1" + "\tWard" * len(names["job"]) + "\n",
            )
            write(folder / "table3_action", f"{action}u1\tj1\t{flags}\n")
            return load_tianchi(folder, fractions=(1, 0, 0))

        def judged(corpus: Corpus, flags: str = flags) -> bool:
            wanted = {"1\t1\t1": [1], "0\t1\t0": [0], "1\t0\t0": [], "2\t0\t1": [1]}.get(flags)
            return wanted == corpus.labels["label"].tolist()

        yield Case(f"Tianchi flags {flags!r}", tianchi, judged, ("table3_action",))


def many_defects() -> Iterator[Case]:
    """Several kinds of defect at once: the message shows each kind."""
    kinds = {
        "empty_text": ("{n},2,1, ,Ward", "no text"),
        "unknown_label": ("{n},2,7,Nurse,Ward", "label 7"),
        "missing_id": (",2,1,Nurse,Ward", "without an id"),
        "ragged_row": ("{n},2,1", "cells"),
    }
    for first in kinds:
        for second in kinds:
            if first != second:
                rows = [kinds[first][0].format(n=f"a{n}") for n in range(60)] + [kinds[second][0].format(n="b1")]

                def call(folder: Path, rows: list[str] = rows) -> Corpus:
                    header = "resume_id,job_id,label,resume_text,job_text\n"
                    return load_pairs(write(folder / "pairs.csv", header + "\n".join(rows) + "\n"), split="train")

                # a row with a wrong number of cells ends the reading, so both stand in one error only for other kinds
                names = (first, second) if "ragged_row" not in (first, second) else ("ragged_row",)
                yield Case(f"60 x {first}, 1 x {second}", call, None, ("pairs.csv", *names))


GROUPS = {
    "files: bytes of pairs": changed_pairs,
    "files: bytes of releases": changed_releases,
    "files: encodings": encodings,
    "files: headers": headers,
    "files: cells": cells,
    "files: paths": odd_paths,
    "files: packed": packed,
    "files: formats of others": formats_of_others,
    "files: many defects": many_defects,
}
ISOLATED = {"files: paths", "files: packed"}
