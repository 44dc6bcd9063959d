"""Records, claims and the command line."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from case_settings import CELL, PROFILE, SWEEP, inside, project
from inputs import changed, jsonl, write
from verdicts import Case

from confitlib.records import Claim, Run, load_claims, load_records, plain

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    "text",
    "",
    [],
    [1, [2]],
    (1, "a"),
    np.float32(0.5),
    np.int64(3),
    np.arange(3),
    float("nan"),
    np.nan,
    np.bool_(True),
]
REFUSED: list[Any] = [
    float("inf"),
    -float("inf"),
    np.inf,
    [1, float("inf")],
    {1},
    {"a": 1},
    object(),
    b"x",
    1j,
    [b"x"],
    pd.NaT,
    lambda: 1,
    np.array([1j]),
    Path("x"),
]
CLAIM = {
    "id": "a",
    "statement": "s",
    "notebook": "05",
    "profile": "tiny",
    "metric": "m",
    "expected": 0.5,
    "tolerance": 0.1,
    "reason": "r",
    "source": "kit",
}
RECORD = {
    "id": "x",
    "time": "2026-01-01T00:00:00+00:00",
    "notebook": "05",
    "profile": "tiny",
    "seed": 0,
    "parameters": {"seed": 0},
    "metrics": {"m": 0.5},
    "tables": {},
    "dirty": False,
    "versions": {},
}


def values() -> Iterator[Case]:
    """Values of parameters, metrics and tables: kept as JSON or refused by name."""

    def kept(found: Any, value: Any) -> bool:
        expected = np.asarray(value).tolist() if isinstance(value, np.ndarray | np.generic) else value
        expected = None if isinstance(expected, float) and expected != expected else expected
        return json.dumps(found) == json.dumps(expected)

    for value in VALUES:
        yield Case(
            f"plain {value!r}",
            lambda folder, value=value: plain(value, "it"),
            lambda found, value=value: kept(found, value),
            None,
        )
    for value in REFUSED:
        yield Case(f"plain {value!r:.40}", lambda folder, value=value: plain(value, "it"), None, ("it",))
        yield Case(
            f"parameter {value!r:.40}", lambda folder, value=value: Run("05", {"rate": value}, folder), None, ("rate",)
        )
        yield Case(
            f"metric {value!r:.40}",
            lambda folder, value=value: Run("05", {}, folder).log(score=value),
            None,
            ("score",),
        )
        yield Case(
            f"table {value!r:.40}",
            lambda folder, value=value: Run("05", {}, folder).log_table(
                "t", pd.DataFrame({"x": [value]}, dtype=object)
            ),
            None,
            ("x",),
        )
    for value in ("text", [1], [], np.arange(2)):
        yield Case(
            f"metric {value!r}", lambda folder, value=value: Run("05", {}, folder).log(score=value), None, ("score",)
        )
    secrets = ["api_key", "token", "OPENAI_API_KEY", "hf_token", "password", "secret", "credentials"]
    for name in secrets:
        yield Case(f"secret {name}", lambda folder, name=name: Run("05", {name: "x"}, folder), None, (name,))
    for value in ("sk-" + "a" * 30, "hf_" + "b" * 30, "https://me:pass@host/", "ghp_" + "c" * 30, ["sk-" + "a" * 30]):
        yield Case(
            f"secret value {value!r:.12}",
            lambda folder, value=value: Run("05", {"address": value}, folder),
            None,
            ("address",),
        )


def files() -> Iterator[Case]:
    """Record files with changed bytes, or of another kind."""
    raw = jsonl(*(RECORD | {"id": f"x{n}", "seed": n} for n in range(4))).encode()
    variants = {f"seed {seed}": changed(raw, seed) for seed in range(60)}
    variants |= {
        "a list": b"[1]\n",
        "foreign": jsonl({"a": 1}, {"b": 2}).encode(),
        "empty": b"",
        "blank": b"\n\n",
        "deep": b"[" * 100_000 + b"\n",
        "text": b"hello\n",
        "binary": bytes(range(256)) * 4,
        "csv": b"a,b\n1,2\n",
    }
    for name, content in variants.items():

        def right(frame: pd.DataFrame, content: bytes = content) -> bool:
            lines = content.split(b"\n")
            wanted = []
            for number, line in enumerate(lines, 1):
                try:
                    wanted += [json.loads(line)] if line.strip() else []
                except ValueError:
                    if number < len(lines):
                        return False
            same = all(set(RECORD) - set(entry) == set() or len(entry) == len(RECORD) for entry in wanted)
            return (
                same
                and sorted(str(entry.get("id")) for entry in wanted) == sorted(map(str, frame["id"]))
                and len(wanted) > 0
            )

        yield Case(
            f"records: {name}",
            lambda folder, content=content: load_records(write(folder / "runs.jsonl", content)),
            right,
            ("runs.jsonl",),
        )


def claims() -> Iterator[Case]:
    """Claims with anything in any field."""
    odd: list[Any] = [None, "", "x", [], {}, [1], True, float("nan"), float("inf"), -1, 0]
    for field, value in itertools.product([*CLAIM, "minus", "better"], odd):
        number = field in ("expected", "tolerance")
        good = (
            isinstance(value, str) and bool(value)
            if not number
            else isinstance(value, int) and not isinstance(value, bool) and value == 0
        )
        good |= field == "expected" and value == -1 and value is not True
        good |= field in ("minus", "better") and value is None
        good &= field != "better" or value is None

        def call(folder: Path, field: str = field, value: Any = value) -> list[Claim]:
            return load_claims(write(folder / "claims.yaml", yaml.safe_dump([CLAIM | {field: value}])))

        def right(found: list[Claim], field: str = field, value: Any = value) -> bool:
            return getattr(found[0], field) == value

        yield Case(f"claim {field} = {value!r}", call, right if good else None, ("claims.yaml", "entry 1"))
    for field in CLAIM:
        rest = {name: value for name, value in CLAIM.items() if name != field}
        yield Case(
            f"claim without {field}",
            lambda folder, rest=rest: load_claims(write(folder / "claims.yaml", yaml.safe_dump([rest]))),
            None,
            ("claims.yaml", field),
        )
    for content in (
        "- 1\n",
        "- [a]\n",
        "- a\n",
        "a: 1\n",
        "5",
        "- id: a\n  id: b\n",
        f"- {CLAIM}\n- {CLAIM}\n",
        "- {unknown: 1}\n",
        "- null\n",
    ):
        yield Case(
            f"claims file {content[:20]!r}",
            lambda folder, content=content: load_claims(write(folder / "claims.yaml", content)),
            None,
            ("claims.yaml",),
        )


def command(*words: str) -> Any:
    """A command of `confit` in this process: exit status and what it printed; a traceback is raised."""
    from typer.testing import CliRunner

    from confitlib.cli import app

    done = CliRunner().invoke(
        app, [str(word) for word in words], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def command_line() -> Iterator[Case]:
    """Commands with wrong words, foreign files and files that are not there: one line that says what is wrong."""
    foreign = {
        "empty": b"",
        "csv": b"a,b\n1,2\n",
        "list": b"[1, 2]\n",
        "binary": bytes(range(256)) * 9,
        "object": b'{"a": 1}\n',
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "text": b"hello\n",
        "null": b"null\n",
        "two": b'{"a": 1}\n{"a": 1}\n',
    }
    commands: dict[str, tuple[str, ...]] = {
        "claims records": ("claims", "--records", "FILE", "--profile", "tiny", "--file", "CLAIMS"),
        "claims measure": ("claims", "--records", "FILE", "--profile", "tiny", "--file", "CLAIMS", "--measure"),
        "claims file": ("claims", "--file", "FILE", "--profile", "tiny"),
        "llm stats": ("llm", "stats", "FILE"),
        "llm import": ("llm", "import", "FILE", "--requests", "FILE", "--store", "STORE"),
        "sweep": ("sweep", "FILE"),
        "run": ("run", "FILE"),
        "search": ("search", "--resume", "FILE", "--jobs", "INDEX"),
        "search index": ("search", "--resume", "TEXT", "--jobs", "FILE"),
        "figures": ("figures", "--records", "FILE", "--output", "OUT", "--readme", "README"),
        "doctor records": ("doctor",),
    }
    for (name, words), (kind, content) in itertools.product(commands.items(), foreign.items()):
        if name == "doctor records":
            continue

        def call(folder: Path, words: tuple[str, ...] = words, content: bytes = content) -> Any:
            project(folder)
            paths = {
                "FILE": write(folder / "given.jsonl", content),
                "CLAIMS": write(folder / "claims.yaml", yaml.safe_dump([CLAIM])),
                "STORE": folder / "store.jsonl",
                "INDEX": folder / "index",
                "TEXT": write(folder / "cv.txt", "Nurse"),
                "OUT": folder / "out",
                "README": write(folder / "README.md", "text"),
            }
            return inside(folder, lambda: command(*(str(paths.get(word, word)) for word in words)))

        place = (
            ("given.jsonl", "index", "notebook", "given")
            if name in ("search", "run", "search index")
            else ("given.jsonl", "README.md")
        )

        def right(done: Any, place: tuple[str, ...] = place) -> bool:
            status, output = done
            lines = [line for line in output.splitlines() if line.strip()]
            return (
                status in (1, 2)
                and any(one in output for one in place)
                and "Traceback" not in output
                and len(lines) <= 12
            )

        yield Case(f"{name}: {kind}", call, right, None)
    odd: list[tuple[str, ...]] = [
        ("run",),
        ("run", "99"),
        ("run", "05", "-p", "rate", "x"),
        ("run", "05", "-p", "nothing", "1"),
        ("run", "05", "-p"),
        ("run", "05", "-p", "rate"),
        ("run", "05", "--profile", "huge"),
        ("run", "05", "-p", "ks", '["a"]'),
        ("run", "05", "-p", "bands", '[[1, "x"]]'),
        ("run", "05", "-p", "seed", "1.5"),
        ("run", "05", "-p", "seed", "NaN"),
        ("run", "05", "-p", "limit", "x"),
        ("run", "05", "-p", "flag", "yes"),
        ("sweep",),
        ("sweep", "nowhere.yaml"),
        ("sweep", "s.yaml", "--workers", "0"),
        ("sweep", "s.yaml", "--workers", "x"),
        ("sweep", "s.yaml", "--engine", "dask"),
        ("sweep", "s.yaml", "--gpus", "-1"),
        ("index",),
        ("index", "huge", "out"),
        ("index", "tiny", "out", "--kind", "tree"),
        ("index", "tiny", "out", "--side", "both"),
        ("index", "tiny", "out", "--seed", "x"),
        ("index", "tiny", "out", "--model", "nowhere/x/y"),
        ("search",),
        ("search", "--resume", "cv.pdf", "--jobs", "x"),
        ("search", "--resume", "cv.txt", "--jobs", "x", "--top", "0"),
        ("claims", "--profile", "huge"),
        ("claims", "--records", "nowhere"),
        ("figures", "--records", "nowhere"),
        ("llm",),
        ("llm", "stats", "nowhere"),
        ("llm", "requests"),
        ("llm", "requests", "--task", "nothing"),
        ("llm", "requests", "--task", "hyre", "--preset", "huge"),
        ("llm", "import", "nowhere", "--requests", "nowhere"),
        ("nothing",),
        ("--nothing",),
        ("run", "all", "--folder", "05_x.ipynb"),
        ("doctor", "x"),
    ]
    for words in odd:

        def wrong(folder: Path, words: tuple[str, ...] = words) -> Any:
            write(project(folder, CELL, PROFILE) / "s.yaml", SWEEP)
            write(folder / "cv.pdf", b"%PDF-1.7\n")
            write(folder / "cv.txt", b"Nurse")
            return inside(folder, lambda: command(*words))

        def told(done: Any) -> bool:
            status, output = done
            return status in (1, 2) and bool(output.strip()) and "Traceback" not in output

        yield Case(f"confit {' '.join(words)}", wrong, told, None)
    yield Case(
        "a PDF names the formats that are read",
        lambda folder: inside(
            folder,
            lambda: command("search", "--resume", write(folder / "cv.pdf", b"%PDF-1.7\n1 0 obj\n"), "--jobs", "x"),
        ),
        lambda done: done[0] == 1 and ".txt" in done[1] and ".json" in done[1],
        None,
    )


def unwritable() -> Iterator[Case]:
    """Folders that cannot be written to, because a file stands in their place."""
    from case_llm import REPLY, request
    from inputs import small_corpus

    from confitlib.llm import Client, Store
    from confitlib.llm.requests import read_chat, write_requests
    from confitlib.readers import save

    calls: dict[str, Any] = {
        "save a corpus": lambda path: save(small_corpus(), path / "x"),
        "save a record": lambda path: Run("05", {}, path / "x").save(),
        "store": lambda path: Store(path / "x" / "a.jsonl").add(request(), **read_chat(REPLY)),
        "requests": lambda path: write_requests(path / "x" / "q.jsonl", "t", [request()]),
        "client": lambda path: Client(path / "a.jsonl", offline=True).store.add(request(), **read_chat(REPLY)),
    }
    for name, call in calls.items():
        for kind in ("a file", "a pipe"):

            def blocked(folder: Path, call: Any = call, kind: str = kind) -> Any:
                path = folder / "taken"
                with contextlib.suppress(OSError):
                    write(path, b"x") if kind == "a file" else os.mkfifo(path)
                return call(path)

            yield Case(f"{name} below {kind}", blocked, None, ("taken",))


GROUPS = {
    "records: values": values,
    "records: files": files,
    "records: claims": claims,
    "command line": command_line,
    "folders that cannot be written": unwritable,
}
