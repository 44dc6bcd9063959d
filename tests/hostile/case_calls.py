"""The calls of the front door: every argument of a wrong type, found from the annotations, is refused by its name."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from inputs import WRONG, small_corpus, tiny, write
from verdicts import Case

import confitlib
from confitlib import Embeddings
from confitlib.evaluation import rank_metrics


@cache
def vectors() -> Embeddings:
    """Unit vectors of the tiny market, drawn by seed."""
    rng = np.random.default_rng(0)
    sides = [rng.normal(size=(len(frame), 8)).astype(np.float32) for frame in (tiny().resumes, tiny().jobs)]
    return Embeddings(*(side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides))


@cache
def ranker() -> confitlib.BM25:
    """A fitted ranker."""
    return confitlib.BM25().fit(tiny())


@cache
def valid() -> dict[str, dict[str, Any]]:
    """Arguments with which each call of the front door would go well."""
    corpus, base, embeddings = tiny(), small_corpus(), vectors()
    frames = {name: getattr(base, name) for name in ("resumes", "jobs", "labels")}
    queries = rank_metrics(np.eye(3), np.eye(3))
    negatives = confitlib.mine("random", corpus, target="resume", n=1)
    return {
        "Corpus": frames,
        "compose": {"preset": "tiny"},
        "load": {"path": "nowhere"},
        "load_pairs": {"pairs": "pairs.csv"},
        "texts": {"corpus": corpus, "side": "job"},
        "hyre": {"corpus": base},
        "Embeddings": {"resumes": embeddings.resumes, "jobs": embeddings.jobs},
        "load_encoder": {"name_or_path": "static"},
        "choose_band": {"corpus": corpus, "embeddings": embeddings, "target": "resume"},
        "mine": {"strategy": "band", "corpus": corpus, "target": "resume", "embeddings": embeddings},
        "TrainingConfig": {},
        "contrastive_loss": {"resumes": torch.eye(2), "jobs": torch.eye(2)},
        "train": {"encoder": confitlib.load_encoder("static"), "corpus": corpus},
        "BM25": {},
        "ConFitV2": {},
        "InBatch": {},
        "RawEmbed": {"encoder": "static"},
        "compare": {"a": queries, "b": queries, "metric": "mrr"},
        "evaluate_ranking": {"ranker": ranker(), "corpus": corpus, "target": "resume"},
        "audit_bands": {"corpus": corpus, "embeddings": embeddings, "target": "resume", "edges": [0, 0.5, 1]},
        "false_negatives": {"negatives": negatives, "corpus": corpus},
    }


def kinds_of(hint: Any) -> set[str]:
    """The kinds of value that an annotation allows, in the words of `WRONG`; empty: anything."""
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [kinds_of(part) for part in parts]
        return set() if not all(inner) else set().union(*inner)
    if origin is Literal:
        return {"str"}
    if origin is types.NoneType:
        return {"None"}
    if origin in (int, float, bool, str):
        return {"float", "int"} if origin is float else {origin.__name__}
    if not isinstance(origin, type) or origin is Any:
        return set()
    if issubclass(origin, Path):
        return {"str"}
    if issubclass(origin, Mapping):
        return {"dict"}
    return (
        {"list"}
        if issubclass(origin, Sequence | typing.Iterable) and origin.__module__ != "numpy" and parts
        else {"thing"}
    )


def fits(value: Any, kinds: set[str]) -> bool:
    """Whether a value of `WRONG` is allowed after all, by one of several kinds; NaN is no wrong type."""
    own = "None" if value is None else "list" if isinstance(value, list) else type(value).__name__
    return own in kinds or (isinstance(value, float) and value != value)


def wrong_types() -> Iterator[Case]:
    """Each argument of each call, of each kind that it does not allow."""
    for name, arguments in valid().items():
        call = getattr(confitlib, name)
        hints = get_type_hints(call.__init__ if isinstance(call, type) else call)
        for parameter in inspect.signature(call).parameters.values():
            kinds = kinds_of(hints.get(parameter.name, Any))
            if not kinds or parameter.kind is parameter.VAR_KEYWORD or parameter.name == "_":
                continue
            for value in WRONG[sorted(kinds - {"None"})[0]]:
                if not fits(value, kinds):
                    given = {**arguments, parameter.name: value}
                    yield Case(
                        f"{name}({parameter.name}={value!r:.20})",
                        lambda folder, call=call, given=given: call(**given),
                        None,
                        (f"{parameter.name}=",),
                    )
    corpus, embeddings = tiny(), vectors()
    for name, value in [
        ("lo", "0.03"),
        ("lo", None),
        ("hi", [0.1]),
        ("hi", True),
        ("n", "3"),
        ("n", 1.5),
        ("seed", 1.5),
        ("lo", 1 + 1j),
    ]:
        given = {"target": "resume", "embeddings": embeddings, name: value}
        yield Case(
            f"mine band({name}={value!r})",
            lambda folder, given=given: confitlib.mine("band", corpus, **given),
            None,
            (f"{name}=",),
        )
    for name in ("train_resumes", "families", "queries", "test_jobs"):
        for value in ("20", 1.5, None, [1], True):
            yield Case(
                f"compose({name}={value!r})",
                lambda folder, name=name, value=value: confitlib.compose("tiny", **{name: value}),
                None,
                (f"{name}=",),
            )


CHOICES: dict[str, list[tuple[str, Any]]] = {
    "compose": [
        ("preset", "huge"),
        ("preset", ""),
        ("regime", "hot"),
        ("seed", -1),
        ("redraw", -1),
        ("families", 0),
        ("families", 13),
        ("train_jobs", 0),
        ("nothing", 1),
    ],
    "mine": [
        ("strategy", "best"),
        ("target", "both"),
        ("pool", "all"),
        ("queries", "test"),
        ("seed", -1),
        ("n", 0),
        ("lo", -0.1),
        ("hi", 1.1),
        ("lo", 0.5),
        ("lo", float("nan")),
        ("hi", float("nan")),
        ("hi", float("inf")),
        ("k", 3),
    ],
    "evaluate_ranking": [
        ("target", "both"),
        ("split", "all"),
        ("candidates", "some"),
        ("relevance", "guess"),
        ("ks", [0]),
        ("ks", [-1]),
    ],
    "choose_band": [
        ("target", "x"),
        ("width", 0.0),
        ("width", float("nan")),
        ("bound", 2.0),
        ("top_rate", -1.0),
        ("width", 0.6),
    ],
    "audit_bands": [
        ("target", "x"),
        ("edges", [0.5]),
        ("edges", [1, 0]),
        ("edges", [0, float("nan"), 1]),
        ("edges", [0, 2]),
        ("edges", []),
        ("queries", "all"),
    ],
    "texts": [("side", "both"), ("fields", ["nothing"]), ("fields", [])],
    "load_encoder": [
        ("name_or_path", "statc"),
        ("name_or_path", "nowhere-at-all/x/y"),
        ("pooling", "max"),
        ("pooling", "cls"),
        ("max_length", 0),
        ("max_length", -5),
    ],
    "BM25": [("variant", "plus")],
    "compare": [("metric", "bleu")],
    "load_pairs": [
        ("regime", "hot"),
        ("split", "dev"),
        ("accept", "nothing"),
        ("threshold", float("nan")),
        ("threshold", float("inf")),
        ("seed", -1),
        ("label_values", {"yes": 2}),
    ],
    "load": [("accept", "nothing"), ("regime", "hot")],
}


def wrong_values() -> Iterator[Case]:
    """Values of the right type that mean nothing."""
    for name, values in CHOICES.items():
        for parameter, value in values:

            def call(folder: Path, name: str = name, parameter: str = parameter, value: Any = value) -> Any:
                given = {**valid()[name], parameter: value}
                if name == "load_pairs":
                    given["pairs"] = write(folder / "pairs.csv", "resume_text,job_text,label\nA,B,1\nC,D,0\n")
                return getattr(confitlib, name)(**given)

            yield Case(
                f"{name}({parameter}={value!r})",
                call,
                None,
                ((parameter, "lo", "fractions") if parameter in ("lo", "hi") else (parameter, str(value)),),
            )


GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "calls: wrong types": wrong_types,
    "calls: wrong values": wrong_values,
}
