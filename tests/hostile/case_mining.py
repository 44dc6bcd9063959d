"""Mining and its arrays: vectors that are no vectors, and vectors of every type that must be mined by definition."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from case_calls import vectors
from inputs import changed, small_corpus, tiny, write
from verdicts import Case

from confitlib import Embeddings, audit_bands, choose_band, mine
from confitlib.corpus import other
from confitlib.mining.negatives import read_official, write_official

Change = Callable[[np.ndarray], Any]


def put(array: np.ndarray, value: Any) -> np.ndarray:
    """A copy with one value changed."""
    array = array.copy()
    array[3, 2] = value
    return array


ODD: dict[str, Change] = {
    "NaN": lambda a: put(a, np.nan),
    "inf": lambda a: put(a, np.inf),
    "-inf": lambda a: put(a, -np.inf),
    "overflow": lambda a: put(a, 3e38),
    "complex": lambda a: a.astype(np.complex64),
    "masked": lambda a: np.ma.masked_array(a, np.arange(a.size).reshape(a.shape) % 7 == 0),
    "no width": lambda a: a[:, :0],
    "one row less": lambda a: a[:-1],
    "one row more": lambda a: np.concatenate([a, a[:1]]),
    "no rows": lambda a: a[:0],
    "flat": lambda a: a.ravel(),
    "three axes": lambda a: a[:, :, None],
    "text": lambda a: a.astype(str),
    "objects": lambda a: a.astype(object),
    "truth values": lambda a: a > 0,
    "dates": lambda a: a.astype("int64").astype("datetime64[s]"),
    "a list": lambda a: a.tolist(),
    "a frame": pd.DataFrame,
    "other width": lambda a: a[:, :5],
}


def damaged() -> Iterator[Case]:
    """Vectors that cannot be mined by, on either side and in every call that ranks by them."""
    calls: dict[str, Callable[[Embeddings], Any]] = {
        "mine": lambda e: mine("band", tiny(), target="resume", embeddings=e),
        "mine official": lambda e: mine("band", tiny(), target="job", embeddings=e, official=True),
        "top": lambda e: mine("top", tiny(), target="job", embeddings=e, n=2),
        "random": lambda e: mine("random", tiny(), target="job", embeddings=e, n=2),
        "audit_bands": lambda e: audit_bands(tiny(), e, "resume", [0, 0.1]),
        "choose_band": lambda e: choose_band(tiny(), e, "resume", width=0.05, bound=1.0),
    }
    for (name, call), (kind, change), side in itertools.product(calls.items(), ODD.items(), ("resumes", "jobs")):

        def with_change(folder: Path, call: Any = call, change: Change = change, side: str = side) -> Any:
            arrays = {"resumes": vectors().resumes, "jobs": vectors().jobs}
            return call(Embeddings(**{**arrays, side: change(arrays[side])}))

        words = (("resume", "job"), ("embeddings", "resumes=", "jobs="))
        yield Case(f"{name}: {side} {kind}", with_change, None, words)


def of_every_type() -> Iterator[Case]:
    """Whole numbers, half and double precision, strides and read-only arrays give the band of the same numbers."""
    types: dict[str, Change] = {
        "float16": lambda a: a.astype(np.float16),
        "float64": lambda a: a.astype(np.float64),
        "Fortran order": np.asfortranarray,
        "every second row of twice as many": lambda a: np.repeat(a, 2, axis=0)[::2],
        "read-only": lambda a: read_only(a),
        "big-endian": lambda a: a.astype(">f4"),
        "a memory map's class": lambda a: a.view(np.ndarray),
    }
    for (kind, change), target, (lo, hi) in itertools.product(
        types.items(), ("resume", "job"), [(0.0, 0.02), (0.03, 0.04), (0.9, 1.0)]
    ):

        def call(folder: Path, change: Change = change, target: Any = target, lo: float = lo, hi: float = hi) -> Any:
            given = Embeddings(change(vectors().resumes), change(vectors().jobs))
            return mine("band", tiny(), target=target, embeddings=given, lo=lo, hi=hi), given

        def right(both: Any, target: Any = target) -> bool:
            mined, given = both
            table, corpus = mined.table, tiny()
            ids = {target: table["negative_id"], other(target): table["query_id"]}
            resumes = given.resumes[corpus.positions("resume", ids["resume"])].astype(np.float64)
            jobs = given.jobs[corpus.positions("job", ids["job"])].astype(np.float64)
            scores = np.einsum("nd,nd->n", resumes, jobs)
            # the score of each is that of its vectors, falls along the ranks, and as many score higher as the rank says
            good = np.allclose(scores, table["score"], atol=1e-3)
            for query, part in list(table.groupby("query_id"))[:2]:
                own = given.of(other(target))[corpus.positions(other(target), [str(query)])].astype(np.float64)
                pool = corpus.pool(target, "train")
                known = corpus.known_positives().toarray()
                known = (
                    known[:, corpus.positions("job", [str(query)])[0]]
                    if target == "resume"
                    else known[corpus.positions("resume", [str(query)])[0]]
                )
                places = corpus.positions(target, pool)
                every = (given.of(target)[places].astype(np.float64) @ own[0])[~known[places]]
                for rank, score in zip(part["rank"], part["score"], strict=True):
                    good &= (every > score + 1e-3).sum() <= rank <= (every > score - 1e-3).sum()
            return bool(good)

        yield Case(f"{kind}, {target}s from {lo} to {hi}", call, right, None)


def read_only(array: np.ndarray) -> np.ndarray:
    """A copy that cannot be written to."""
    array = array.copy()
    array.flags.writeable = False
    return array


@cache
def official_file() -> bytes:
    """The official JSON of a few negatives."""
    import tempfile

    mined = [mine("random", tiny(), target=side, n=1, queries="labelled") for side in ("job", "resume")]
    few = [replace(one, table=one.table.head(4), queries=one.queries.head(4)) for one in mined]
    with tempfile.TemporaryDirectory() as folder:
        write_official(Path(folder) / "n.json", *few)
        return (Path(folder) / "n.json").read_bytes()


def official() -> Iterator[Case]:
    """The official file with changed bytes, keys that are there twice, and of another shape."""
    raw = official_file()
    variants = {f"seed {seed}": changed(raw, seed) for seed in range(40)}
    twice = raw.replace(b'"r_to_j": {', b'"r_to_j": {}, "r_to_j": {', 1)
    query = json.loads(raw)["r_to_j"].popitem()[0].encode()
    variants |= {
        "keys twice": twice,
        "query twice": raw.replace(b'"r_to_j": {', b'"r_to_j": {"' + query + b'": [],', 1),
        "deep": b"[" * 100_000,
        "NaN": b"NaN",
        "numbers": b'{"r_to_j": {"1": [2]}, "j_to_r": {}}',
        "lists": b'{"r_to_j": [], "j_to_r": []}',
        "latin-1": raw.replace(b"R", "é".encode("latin-1"), 1),
    }
    for name, content in variants.items():

        def call(folder: Path, content: bytes = content) -> Any:
            return read_official(write(folder / "n.json", content), tiny())

        def right(found: Any, content: bytes = content) -> bool:
            pairs: list[tuple[str, Any]] = json.loads(content, object_pairs_hook=lambda pairs: pairs)
            keys = [key for key, _ in pairs]
            wanted = {key: dict(lists) for key, lists in pairs}
            whole = len(set(keys)) == len(keys) and all(
                len(dict(lists)) == len(lists) for key, lists in pairs if key in ("r_to_j", "j_to_r")
            )
            sides = {"r_to_j": found["job"], "j_to_r": found["resume"]}
            return whole and all({q: one.of(q) for q in one.queries.index} == wanted[key] for key, one in sides.items())

        yield Case(f"official file: {name}", call, right, ("n.json",))


def small_pools() -> Iterator[Case]:
    """In a pool of few documents the runner-up is the top hit: the statistics say so, and a warning does."""
    import warnings

    for n in (6, 12, 30, 60, 90, 240):

        def call(folder: Path, n: int = n) -> Any:
            rng = np.random.default_rng(n)
            sides = [rng.normal(size=(n, 4)).astype(np.float32) for _ in range(2)]
            given = Embeddings(*(side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                mined = mine("band", small_corpus(n), target="resume", embeddings=given)
            return mined, [str(one.message) for one in caught]

        def right(both: Any) -> bool:
            mined, messages = both
            top = bool((mined.table["rank"] == 0).any())
            return top == any("top" in message for message in messages)

        yield Case(f"pool of {n // 3}", call, right, None)


def lengths() -> Iterator[Case]:
    """Rows that are not of length one are ranked by inner product, and a warning says so; the cosine needs none."""
    import warnings

    for strategy, target, stretched in itertools.product(("band", "top", "ance"), ("resume", "job"), (True, False)):

        def call(
            folder: Path, strategy: str = strategy, target: Any = target, stretched: bool = stretched
        ) -> list[str]:
            longer = np.linspace(1, 5, len(tiny().jobs), dtype=np.float32)[:, None]
            given = Embeddings(vectors().resumes, vectors().jobs * longer if stretched else vectors().jobs)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                mine(strategy, tiny(), target=target, embeddings=given, n=2)
            return [str(one.message) for one in caught]

        def right(messages: list[str], stretched: bool = stretched) -> bool:
            return stretched == any("length one" in message for message in messages)

        yield Case(f"{strategy} of {target}s, stretched: {stretched}", call, right, None)


GROUPS = {
    "mining: lengths": lengths,
    "mining: vectors": damaged,
    "mining: types of numbers": of_every_type,
    "mining: official files": official,
    "mining: small pools": small_pools,
}
