"""How long a market takes to compose, beside the floor of joining its sentences."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.common import arguments, environment, interleaved, report
from confitlib.corpus import SIDES
from confitlib.market import Market, compose
from confitlib.text import texts

LARGE: dict[str, Any] = {"train_resumes": 20_000, "train_jobs": 5_000}


def main() -> None:
    """Measure, print and, with `--json`, write."""
    options = arguments(__doc__)
    calls = {name: partial(compose, name) for name in ("tiny", "laptop")}
    if not options.quick:
        calls |= {name: partial(compose, name) for name in ("intellipro", "aliyun")}
    calls["20,000 x 5,000"] = partial(compose, "laptop", **LARGE)
    seconds = interleaved(calls, repeats=3)
    rows = [row(name, call(), seconds[name]) for name, call in calls.items()]
    summary = {f"{name.replace(' ', '').replace(',', '')}_s": value for name, value in seconds.items()}
    report("market", rows, summary, environment("pandas", "scipy"), options.json)


def row(name: str, market: Market, seconds: float) -> dict[str, Any]:
    """Size, time, and how much longer it took than joining the finished sentences once more."""
    corpus = market.corpus
    join = interleaved({"join": lambda: [texts(corpus, side) for side in SIDES]})["join"]
    size = f"{len(corpus.resumes)} x {len(corpus.jobs)}"
    return {"market": name, "resumes x jobs": size, "seconds": seconds, "x joining": seconds / join}


if __name__ == "__main__":
    main()
