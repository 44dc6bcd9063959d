"""The data card's table, or a market of any size as Parquet files.

python -m confitlib.market [PRESET …]
python -m confitlib.market PRESET --parquet DIR --shards N [--seed SEED]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from confitlib.corpus import SIDES, other
from confitlib.market import PRESETS, Market, compose, compose_to_parquet


def statistics(market: Market) -> pd.Series:
    """Counts and means that describe a market, by readable name."""
    corpus = market.corpus
    labels = corpus.labelled("train")
    accepted = labels[labels["label"] == 1]
    figures: dict[str, float] = {f"{side}s": len(corpus.documents(side)) for side in SIDES}
    figures |= {"train accepted": len(accepted), "train rejected": len(labels) - len(accepted)}
    for side in SIDES:
        documents = labels[f"{side}_id"].nunique()
        figures[f"{side}s in train labels"] = documents
        figures[f"mean accepted per {side}"] = len(accepted) / documents
        figures[f"most accepted per {side}"] = accepted[f"{side}_id"].value_counts().max()
    for split in ("valid", "test"):
        figures[f"{split} accepted"] = len(corpus.labelled(split, 1))
        figures[f"{split} rejected"] = len(corpus.labelled(split, 0))
        for target in SIDES:
            rows = corpus.rankings[(corpus.rankings["split"] == split) & (corpus.rankings["target"] == target)]
            queries = rows["query_id"].nunique()
            figures[f"{split} lists of {target}s, one a {other(target)}"] = queries
            for label, name in ((1, "accepted"), (0, "rejected"), (-1, "unjudged")):
                figures[f"{split} lists of {target}s: mean {name}"] = (rows["label"] == label).sum() / queries
    assert corpus.truth is not None
    figures["suitable pairs, %"] = 100 * corpus.truth.nnz / (len(corpus.resumes) * len(corpus.jobs))
    return pd.Series(figures, name=market.preset.name)


def card_table(markets: Iterable[Market]) -> str:
    """The statistics as a Markdown table, one column a market."""
    frame = pd.DataFrame([statistics(market) for market in markets]).T
    rows = [f"| {name} | " + " | ".join(map(_shown, values)) + " |" for name, values in frame.iterrows()]
    return "\n".join(["| | " + " | ".join(frame.columns) + " |", "|" + "---|" * (len(frame.columns) + 1), *rows])


def _shown(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.2f}"


def main() -> None:
    """Print the table, or write the files."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m confitlib.market", description=__doc__, formatter_class=raw)
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"one of {', '.join(PRESETS)}; all by default")
    parser.add_argument("--parquet", type=Path, metavar="DIR", help="write Parquet shards here instead of a table")
    parser.add_argument("--shards", type=int, default=10, help="train splits of the preset, one a file (10)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.parquet is None:
        print(card_table(compose(name, seed=options.seed) for name in options.presets or PRESETS))
    elif len(options.presets) != 1:
        parser.error("--parquet needs exactly one preset")
    else:
        print(compose_to_parquet(options.presets[0], options.seed, options.parquet, options.shards))


if __name__ == "__main__":
    main()
