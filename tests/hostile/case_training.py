"""Training: settings out of their range or of another type, losses that are not finite, negatives under a wrong key."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case_calls import vectors
from inputs import small_corpus, tiny
from verdicts import Case

from confitlib import TrainingConfig, contrastive_loss, load_encoder, mine, train
from confitlib.encoder import TextEncoder
from confitlib.training import Refresh

VALUES: list[Any] = [
    -1,
    0,
    1,
    2,
    0.5,
    -0.5,
    1.5,
    1e30,
    float("nan"),
    float("inf"),
    -float("inf"),
    None,
    "1",
    True,
    [1],
    np.int64(3),
    np.float32(0.25),
]
WHOLE = {"epochs": 1, "batch_size": 1, "gradient_accumulation": 1, "negatives_per_pair": 0, "seed": 0}
OPTIONAL = {"chunk": 1, "negatives_per_batch": 0}
SHARES, POSITIVE, NOT_NEGATIVE = (
    {"warmup", "lambda_"},
    {"learning_rate", "temperature"},
    {"weight_decay", "max_grad_norm"},
)


def allowed(name: str, value: Any) -> bool:
    """Whether a setting may have a value: the ranges, written down once more."""
    number = (
        isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and np.isfinite(value)
    )
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if name in WHOLE | OPTIONAL:
        return (whole and value >= (WHOLE | OPTIONAL)[name]) or (name in OPTIONAL and value is None)
    if name in SHARES | POSITIVE | NOT_NEGATIVE:
        return number and (0 <= value <= 1 if name in SHARES else value > 0 if name in POSITIVE else value >= 0)
    return (whole and value >= 1) if name == "mode" else isinstance(value, bool)  # else official, group_by_length


def settings() -> Iterator[Case]:
    """Every setting with every value: kept if it may be had, else refused by name."""
    for field, value in itertools.product(fields(TrainingConfig), VALUES):
        right = (
            (lambda config, name=field.name, value=value: getattr(config, name) == value)
            if allowed(field.name, value)
            else None
        )
        names = (re.compile("=").sub("", field.name) + "=",)
        yield Case(
            f"{field.name}={value!r}",
            lambda folder, name=field.name, value=value: TrainingConfig(**{name: value}),
            right,
            names,
        )
    for name, value in [
        ("strategy", "best"),
        ("strategy", 1),
        ("every", 0),
        ("every", "1"),
        ("every", 1.5),
        ("every", None),
        ("parameters", {"n": 0}),
        ("parameters", {"m": 1}),
        ("parameters", {"n": "3"}),
        ("parameters", [1]),
        ("parameters", {}),
    ]:
        yield Case(
            f"Refresh({name}={value!r})",
            lambda folder, name=name, value=value: Refresh(**{name: value}),
            None,
            ((name, "n=", "'m'", "needs n"),),
        )


def losses() -> Iterator[Case]:
    """Tensors that do not fit together, and settings of the loss."""
    eye = torch.eye(4)
    shapes = {
        "one row less": eye[:3],
        "other width": torch.ones(4, 3),
        "flat": torch.ones(4),
        "three axes": torch.ones(4, 4, 1),
        "no rows": eye[:0],
        "an array": np.eye(4),
        "whole numbers": torch.eye(4, dtype=torch.int64),
        "complex": torch.eye(4, dtype=torch.complex64),
        "a list": [[1.0]],
    }
    for side, (kind, tensor) in itertools.product(("resumes", "jobs"), shapes.items()):
        yield Case(
            f"{side}: {kind}",
            lambda folder, side=side, tensor=tensor: contrastive_loss(
                **({"resumes": eye, "jobs": eye} | {side: tensor})
            ),
            None,
            (("resumes", "jobs"),),
        )
    for side, (kind, tensor) in itertools.product(("negative_resumes", "negative_jobs"), shapes.items()):
        if kind in ("one row less", "no rows"):
            continue
        yield Case(
            f"{side}: {kind}",
            lambda folder, side=side, tensor=tensor: contrastive_loss(eye, eye, **{side: tensor}),
            None,
            (side,),
        )
    for name, mask in itertools.product(
        ("masked_jobs", "masked_resumes"),
        (
            torch.zeros(4, 5, dtype=torch.bool),
            torch.zeros(3, 4, dtype=torch.bool),
            torch.zeros(4, dtype=torch.bool),
            torch.zeros(4, 4),
            np.zeros((4, 4), bool),
        ),
    ):
        yield Case(
            f"{name} of {tuple(mask.shape)} {mask.dtype}",
            lambda folder, name=name, mask=mask: contrastive_loss(eye, eye, **{name: mask}),
            None,
            (name,),
        )
    for name, value in itertools.product(
        ("temperature", "lambda_"), (0.0, -1.0, float("nan"), float("inf"), 2.0, "1", None)
    ):
        if (name, value) not in (("temperature", 2.0), ("lambda_", 0.0)):
            yield Case(
                f"{name}={value}",
                lambda folder, name=name, value=value: contrastive_loss(eye, eye, **{name: value}),
                None,
                (f"{name}=",),
            )
    rng = np.random.default_rng(0)
    for seed in range(20):
        n, h, d = (int(x) for x in rng.integers(1, 9, 3))
        arrays = [rng.normal(size=(rows, d)) + 0.1 for rows in (n, n, h, h)]

        def value(folder: Path, arrays: list[np.ndarray] = arrays) -> float:
            return float(
                contrastive_loss(
                    *(torch.tensor(one, dtype=torch.float32) for one in arrays), temperature=0.5, lambda_=0.3
                )
            )

        def by_numpy(found: float, arrays: list[np.ndarray] = arrays) -> bool:
            unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in arrays]

            def picks(anchors: np.ndarray, candidates: np.ndarray) -> float:
                scores = anchors @ candidates.T / 0.5
                return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - np.diag(scores)))

            resumes, jobs, more_resumes, more_jobs = unit
            wanted = 0.3 * picks(resumes, np.vstack([jobs, more_jobs])) + 0.7 * picks(
                jobs, np.vstack([resumes, more_resumes])
            )
            return abs(found - wanted) < 1e-5

        yield Case(f"loss of seed {seed}", value, by_numpy, None)


@cache
def weights() -> dict[str, torch.Tensor]:
    """The weights of the static encoder as it comes."""
    return {name: one.clone() for name, one in load_encoder("static").state_dict().items()}


@cache
def shared() -> TextEncoder:
    """One static encoder for all cases."""
    return load_encoder("static")


def fresh() -> TextEncoder:
    """The static encoder, untrained."""
    shared().load_state_dict(weights())
    return shared()


def runs() -> Iterator[Case]:
    """Training that diverges, and negatives that are not what they are said to be."""
    one = {"epochs": 1, "batch_size": 16}
    for name, value in (("learning_rate", 1e30), ("temperature", 1e-30), ("learning_rate", 1e38)):

        def diverge(folder: Path, name: str = name, value: float = value) -> Any:
            return train(fresh(), small_corpus(30), TrainingConfig(**one, **{name: value}), progress=False)

        yield Case(
            f"{name}={value}",
            diverge,
            lambda result: (
                bool(np.isfinite(result.encoder.encode(["nurse"])).all())
                and result.history["loss"].dropna().ge(0).all()
            ),
            ("learning_rate=", "temperature=", "step"),
        )

    def of_nan(folder: Path) -> Any:
        encoder = fresh()
        with torch.no_grad():
            encoder.backbone.token_vectors[:] = float("nan")
        return train(encoder, small_corpus(30), TrainingConfig(**one), progress=False)

    yield Case("weights of NaN", of_nan, None, ("loss", "step"))
    negatives = mine("random", tiny(), target="resume", n=1)
    jobs = mine("random", tiny(), target="job", n=1)
    odd: list[Any] = [
        {"jobs": jobs},
        {"resumes": negatives},
        {"resume": jobs},
        {"job": negatives},
        {"both": negatives},
        {"": negatives},
        negatives,
        [negatives],
        {"resume": negatives.table},
        {"resume": None},
        "resume",
    ]
    for given in odd:
        yield Case(
            f"negatives {given!r:.40}",
            lambda folder, given=given: train(fresh(), tiny(), TrainingConfig(**one), given, progress=False),
            None,
            ("negatives",),
        )

    def fewer(folder: Path) -> Any:
        import warnings

        few = mine("top", tiny(), target="resume", n=1, embeddings=vectors())
        kept = few.table[few.table["query_id"] == few.table["query_id"].iloc[0]]
        from dataclasses import replace

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(
                fresh(),
                tiny(),
                TrainingConfig(**one),
                {"resume": replace(few, table=kept, queries=few.queries.loc[[kept["query_id"].iloc[0]]])},
                progress=False,
            )
        return [str(message.message) for message in caught]

    yield Case(
        "fewer queries mined than trained",
        fewer,
        lambda messages: any("negatives" in message for message in messages),
        None,
    )
    for mode in ("adaptor", 1, 99):
        yield Case(
            f"mode={mode!r} of the static encoder",
            lambda folder, mode=mode: train(fresh(), tiny(), TrainingConfig(mode=mode, **one), progress=False),
            None,
            (("mode", "trainable"),),
        )


GROUPS = {"training: settings": settings, "training: losses": losses, "training: runs": runs}
