"""What several kinds of hostile input share: small valid inputs, seeded changes of bytes, and values of wrong types."""

import io
import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from confitlib.corpus import Corpus
from confitlib.market import compose

SEPARATORS = [
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\t",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"{",
    b"]",
    b":",
    b"\\",
    b"\\ud83d",
]
LETTERS = [b"a", b"7", b"-1", b"1e999", b"NaN", b" ", "é".encode(), "\u200b".encode(), "护".encode()]


def changed(raw: bytes, seed: int) -> bytes:
    """The bytes after one to three seeded changes: something put in, taken out, doubled or cut off."""
    rng = np.random.default_rng(seed)
    for _ in range(rng.integers(1, 4)):
        start, size = int(rng.integers(len(raw) + 1)), int(rng.integers(1, 12))
        piece = [*SEPARATORS, *LETTERS][rng.integers(len(SEPARATORS) + len(LETTERS))]
        kind = rng.integers(5)
        middle = (piece, b"", raw[start : start + size] * 2, piece, b"")[kind]
        stop = (start, start + size, start + size, start + len(piece), len(raw))[kind]
        raw = (
            raw[:start] + middle + raw[min(stop, len(raw)) :]
            if kind < 4 or seed % 7 == 0
            else raw[:start] + raw[start + 1 :]
        )
    return raw


def write(path: Path, content: str | bytes) -> Path:
    """A file of text in UTF-8 or of bytes, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(*records: Any) -> str:
    """JSON lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def table(raw: bytes) -> list[dict[str, str]]:
    """The rows of a CSV file as pandas reads them: the oracle of our own parser."""
    frame = pd.read_csv(io.BytesIO(raw), dtype=str, keep_default_na=False, encoding="utf-8-sig")
    return frame.to_dict("records")


def small_corpus(n: int = 6, known: bool = False, **changes: Any) -> Corpus:
    """n resumes and n jobs; resume i was accepted by job i and rejected by the next; every split has two of each."""
    splits = np.repeat(["train", "valid", "test"], -(-n // 3))[:n]
    parts: dict[str, Any] = {}
    for side in ("resume", "job"):
        ids = pd.Index([f"{side[0]}{i}" for i in range(n)], name=f"{side}_id")
        parts[f"{side}s"] = pd.DataFrame(
            {"text": [f"{side} text number {i}" for i in range(n)], "split": splits}, index=ids
        )
    rows = [(f"r{i}", f"j{i}", 1, splits[i]) for i in range(n)]
    rows += [(f"r{i}", f"j{i + 1}", 0, splits[i]) for i in range(n - 1) if splits[i] == splits[i + 1]]
    parts["labels"] = pd.DataFrame(rows, columns=["resume_id", "job_id", "label", "split"])
    lists = [("resume", "test", f"j{n - 1}", f"r{n - 1}", 1), ("resume", "test", f"j{n - 1}", f"r{n - 2}", -1)]
    parts["rankings"] = pd.DataFrame(lists, columns=["target", "split", "query_id", "candidate_id", "label"])
    if known:
        parts["truth"] = csr_array(np.eye(n, dtype=bool))
    return Corpus(**(parts | changes))


@cache
def tiny() -> Corpus:
    """The tiny market, once."""
    return compose("tiny").corpus


RESUMES = 'user_id,education,skills\n1,BSc,"C, ""C++"""\n02,PhD,SQL\n3,,"line\nbreak"\n4,MA,Pflegekräfte 护士\n'
JOBS = "jd_no,title\n1,Cook\n2,Nurse\n3,Welder\n"


def release(folder: Path) -> Path:
    """A complete folder of the ConFit release."""

    def label(resume: str, job: str, satisfied: int) -> dict[str, Any]:
        return {"user_id": resume, "jd_no": job, "satisfied": satisfied}

    write(folder / "all_resume.csv", RESUMES)
    write(folder / "all_jd.csv", JOBS)
    write(folder / "train_labeled_data.jsonl", jsonl(label("1", "1", 1), label("02", "1", 0)))
    write(folder / "valid_classification_data.jsonl", jsonl(label("3", "2", 1)))
    write(folder / "test_classification_data.jsonl", jsonl(label("4", "3", 0)))
    write(folder / "rank_resume.json", json.dumps({"3": {"user_ids": ["4"], "satisfied": [0]}}))
    write(folder / "rank_job.json", json.dumps({"4": {"jd_nos": ["3"], "satisfied": [0]}}))
    return folder


def odd_files(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Paths that are no plain file of content, by what they are; each is made when it is asked for."""
    makers: dict[str, Callable[[Path], Any]] = {
        "a pipe": os.mkfifo,
        "a folder": Path.mkdir,
        "a link to nothing": lambda path: path.symlink_to(folder / "nowhere"),
        "a device without end": lambda path: path.symlink_to("/dev/zero"),
        "absent": lambda path: None,
    }
    for kind, make in makers.items():
        path = folder / kind.replace(" ", "-") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
        yield kind, path


# Values that are no whole number, number, text, truth value, list or mapping of the kind that is asked for.
WRONG: dict[str, list[Any]] = {
    "int": ["3", 1.5, None, [1], True, float("nan"), b"1", {"a": 1}, 2 + 1j],
    "float": ["0.03", None, [0.1], True, b"1", {"a": 1}, 1 + 1j, float("nan")],
    "bool": ["False", 1, 0.0, None, [True]],
    "str": [1, None, 1.5, ["a"], b"a", {"a": 1}, True],
    "list": ["ab", 10, 1.5, True, object()],
    "dict": ["ab", 10, [1], True],
    "thing": ["ab", 10, 1.5, [1], True, {}],
}
