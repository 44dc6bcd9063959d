"""Language models: replies that are none, stores with changed lines, answers from elsewhere, prices and arguments."""

import copy
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from inputs import WRONG, changed, write
from verdicts import Case

from confitlib.llm import Client, Request, Store, Usage, prompt
from confitlib.llm.client import Price, load_prices
from confitlib.llm.requests import import_answers, read_chat, read_requests, read_vectors, usage_of, write_requests

REPLY: dict[str, Any] = {
    "choices": [{"message": {"role": "assistant", "content": "A text."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7},
    "model": "m",
}
VALUES: list[Any] = [
    None,
    "",
    "text",
    0,
    -1,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    -float("inf"),
    True,
    [],
    [1],
    {},
    {"a": 1},
    "\ud83d",
    "\0",
    "a" * 100_000,
]
PLACES = [
    ("choices",),
    ("choices", 0),
    ("choices", 0, "message"),
    ("choices", 0, "message", "content"),
    ("choices", 0, "message", "refusal"),
    ("choices", 0, "finish_reason"),
    ("usage",),
    ("usage", "prompt_tokens"),
    ("usage", "completion_tokens"),
    ("model",),
]


def put(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested JSON with another value at a place."""
    content = copy.deepcopy(content)
    inner = content
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return content


def request(number: int = 0) -> Request:
    """One of several requests."""
    return Request("m", prompt(f"Question {number}"), about=f"j{number}")


def replies() -> Iterator[Case]:
    """A reply with anything at any place is stored and read again as it was, with token counts from 0 up, or none."""
    for place, value in itertools.product(PLACES, VALUES):

        def call(folder: Path, place: tuple[Any, ...] = place, value: Any = value) -> Any:
            try:
                entry = read_chat(put(REPLY, place, value))
            except ValueError as error:  # the client asks again, and quotes it
                return str(error)
            Store(folder / "answers.jsonl").add(request(), **entry, origin="api")
            kept = Store(folder / "answers.jsonl")[request().fingerprint()]
            return entry, kept, usage_of(kept)

        def right(found: Any, place: tuple[Any, ...] = place, value: Any = value) -> bool:
            if isinstance(found, str):
                return place[0] == "choices" and found == "no choice with a message of text"
            entry, kept, usage = found
            same = all(kept[name] == one for name, one in entry.items())
            text = "A text." if place[-1] != "content" else entry["text"]
            return same and entry["text"] == text and usage.input >= 0 and usage.output >= 0

        yield Case(f"{'.'.join(map(str, place))} = {str(value)[:20]!r}", call, right, ("message",))
    vectors = {
        "data": [{"index": 0, "embedding": [1.0, 0.0]}, {"index": 1, "embedding": [0.0, 1.0]}],
        "usage": {"prompt_tokens": 3},
        "model": "m",
    }
    places = [
        ("data",),
        ("data", 0),
        ("data", 0, "index"),
        ("data", 0, "embedding"),
        ("data", 1, "embedding", 0),
        ("usage",),
        ("model",),
    ]
    for place, value in itertools.product(places, VALUES):

        def embed(folder: Path, place: tuple[Any, ...] = place, value: Any = value) -> Any:
            try:
                return read_vectors(put(vectors, place, value), 2)
            except ValueError as error:
                return str(error)

        def whole(entries: Any, place: tuple[Any, ...] = place, value: Any = value) -> bool:
            import base64

            if isinstance(entries, str):
                return place[0] == "data" and "embeddings" in entries and (place[-1] != "index" or value != 0)
            rows = [np.frombuffer(base64.b64decode(entry["vector"]), "<f4").tolist() for entry in entries]
            wanted = [[1.0, 0.0], [float(value), 1.0] if place[-3:] == (1, "embedding", 0) else [0.0, 1.0]]
            return len(entries) == 2 and rows == wanted

        yield Case(f"vectors {'.'.join(map(str, place))} = {str(value)[:20]!r}", embed, whole, ("embeddings",))


def store_bytes() -> bytes:
    """The file of a store with three replies."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "a.jsonl")
        for number in range(3):
            store.add(request(number), **read_chat(put(REPLY, ("choices", 0, "message", "content"), f"Reply {number}")))
        return store.path.read_bytes()


def stores() -> Iterator[Case]:
    """A store with changed bytes holds replies under their own requests alone, or is refused with its line."""
    raw = store_bytes()
    lines = raw.split(b"\n")
    variants = {f"seed {seed}": changed(raw, seed) for seed in range(60)}
    variants |= {f"cut at {n}": raw[:n] for n in range(0, len(raw), len(raw) // 20)}
    deep, odd = (
        b"[" * 100_000,
        [
            b"[]",
            b"5",
            b"null",
            b"{}",
            b'{"request": 1}',
            b'{"fingerprint": 1, "request": {}}',
            b'{"request": {}, "fingerprint": null}',
            b"\xff\xfe",
            b"NaN",
        ],
    )
    variants |= {f"line {one[:20]!r}": b"\n".join([lines[0], one, *lines[1:]]) for one in [deep, *odd]}
    whole = {json.loads(line)["fingerprint"]: json.loads(line)["request"] for line in lines[:-1]}
    for name, content in variants.items():

        def call(folder: Path, content: bytes = content) -> Store:
            return Store(write(folder / "answers.jsonl", content))

        def right(store: Store) -> bool:
            return all(
                whole.get(name) == entry["request"] and isinstance(entry.get("text"), str)
                for name, entry in store.items()
            )

        yield Case(f"store: {name}", call, right, ("answers.jsonl", "line"))


def answers() -> Iterator[Case]:
    """Files of answers and of requests: taken in, rejected with their line, or refused."""
    name = request().fingerprint()
    lines: list[Any] = [{"fingerprint": name, "text": value} for value in VALUES]
    lines += [
        {"fingerprint": name, "text": "A long enough answer.", key: value}
        for key in ("usage", "model", "finish_reason")
        for value in VALUES
    ]
    lines += [{"fingerprint": value, "text": "A text"} for value in VALUES]
    lines += [{"custom_id": name, "response": value} for value in VALUES]
    lines += [{"custom_id": name, "response": {"body": value}} for value in VALUES] + [
        {"custom_id": name, "error": value} for value in VALUES
    ]
    for line in lines:

        def call(folder: Path, line: Any = line) -> Any:
            store = Store(folder / "answers.jsonl")
            taken, there, rejected = import_answers(
                store,
                {name: ("task", request())},
                write(folder / "in.jsonl", jsonl_any(line)),
                lambda task: lambda *_: None,
            )
            return taken, there, rejected, len(Store(store.path))

        def right(found: Any) -> bool:
            taken, there, rejected, kept = found
            return (
                taken == kept
                and taken + there + len(rejected) == 1
                and all("in.jsonl, line 1" in fault for fault in rejected)
            )

        yield Case(f"answer {str(line)[60:140]}", call, right, ("in.jsonl", "line"))

    def requests_file(folder: Path) -> bytes:
        write_requests(folder / "q.jsonl", "task", [request(n) for n in range(3)])
        return (folder / "q.jsonl").read_bytes()

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        raw = requests_file(Path(folder))
    for seed in range(40):
        content = changed(raw, seed)
        yield Case(
            f"requests changed by seed {seed}",
            lambda folder, content=content: read_requests(write(folder / "q.jsonl", content)),
            lambda found: all(one.fingerprint() == key for key, (_, one) in found.items()),
            ("q.jsonl",),
        )


def jsonl_any(line: Any) -> str:
    """A JSON line, half emojis and numbers that are none included."""
    return json.dumps(line) + "\n"


def prices() -> Iterator[Case]:
    """Price tables and arguments of the client."""
    import os

    for field, value in itertools.product(("input", "output", "batch"), [*VALUES[:15], "1.0"]):
        entry = {"input": 1.0, "output": 2.0, field: value}

        def table(folder: Path, entry: dict[str, Any] = entry) -> Any:
            path = write(folder / "prices.yaml", yaml.safe_dump({"mine": entry}))
            os.environ["CONFIT_PRICES"] = str(path)
            try:
                return load_prices()["mine"]
            finally:
                del os.environ["CONFIT_PRICES"]

        def right(price: Price, entry: dict[str, Any] = entry) -> bool:
            numbers = {
                name: one
                for name, one in entry.items()
                if isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one < 1e12
            }
            return numbers == entry and price.cost(Usage(10**6, 0)) == entry["input"]

        yield Case(f"price {field} = {str(value)[:20]!r}", table, right, ("prices.yaml", "mine", field))
    for name, kind in (("budget", "float"), ("concurrency", "int"), ("model", "str"), ("offline", "bool")):
        for value in WRONG[kind]:
            if value is None and name in ("budget", "model"):
                continue
            yield Case(
                f"Client({name}={value!r})",
                lambda folder, name=name, value=value: Client(folder / "a.jsonl", **{"offline": True, name: value}),
                None,
                (name,),
            )
    for name, value in itertools.product(("budget", "concurrency"), (-1, float("nan"), float("inf"))):
        yield Case(
            f"Client({name}={value})",
            lambda folder, name=name, value=value: Client(folder / "a.jsonl", offline=True, **{name: value}),
            None,
            (name,),
        )


GROUPS = {
    "llm: replies": replies,
    "llm: stores": stores,
    "llm: answers and requests": answers,
    "llm: prices and arguments": prices,
}
