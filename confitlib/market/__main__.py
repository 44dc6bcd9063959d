"""The data card's tables, or a market of any size as Parquet files.

python -m confitlib.market [PRESET …]
python -m confitlib.market PRESET --parquet DIR --shards N [--seed SEED]
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from confitlib.corpus import SIDES, other
from confitlib.market import PRESETS, Market, compose, compose_to_parquet
from confitlib.oracles import oracle_table


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
    # what is held out: labels, and candidate lists with the judgements in them
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
    return markdown(frame.map(lambda value: f"{value:,.0f}" if float(value).is_integer() else f"{value:.2f}"))


def markdown(frame: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table, with its index as the first column."""
    lines = ["| | " + " | ".join(frame.columns) + " |", "|" + "---|" * (len(frame.columns) + 1)]
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(row) + " |" for name, row in frame.iterrows())])


def main(
    presets: Annotated[list[str] | None, typer.Argument(help=f"Any of {', '.join(PRESETS)}; all by default.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write Parquet shards here instead of a table.")] = None,
    shards: Annotated[int, typer.Option(help="Train splits of the preset, one a file.")] = 10,
    seed: int = 0,
) -> None:
    """Print the data card's tables, or write a market of any size as Parquet files."""
    if parquet is None:
        markets = [compose(name, seed=seed) for name in presets or PRESETS]
        print(card_table(markets))
        for market in markets:
            reached = oracle_table(market).map("{:.3f}".format, na_action="ignore").fillna("")
            print(f"\nOracles and ceilings of {market.preset.name}:\n\n{markdown(reached)}")
    elif presets is None or len(presets) != 1:
        raise typer.BadParameter("--parquet needs exactly one preset")
    else:
        print(compose_to_parquet(presets[0], seed, parquet, shards))


if __name__ == "__main__":
    typer.run(main)
