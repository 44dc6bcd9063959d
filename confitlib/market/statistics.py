"""The figures of the data card, counted from composed markets."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from confitlib.corpus import SIDES, Side, Split, other
from confitlib.market.market import Market


def statistics(market: Market) -> pd.Series:
    """Counts and means that describe a market, by readable name."""
    corpus = market.corpus
    figures: dict[str, float] = {f"{side}s": len(corpus.documents(side)) for side in SIDES}
    figures |= _of_train(market) | _of_held_out(market, "valid") | _of_held_out(market, "test")
    assert corpus.truth is not None
    figures["suitable pairs, %"] = 100 * corpus.truth.nnz / (len(corpus.resumes) * len(corpus.jobs))
    return pd.Series(figures, name=market.preset.name)


def _of_train(market: Market) -> dict[str, float]:
    labels = market.corpus.labelled("train")
    accepted = labels[labels["label"] == 1]
    figures: dict[str, float] = {
        "train accepted": len(accepted),
        "train rejected": len(labels) - len(accepted),
    }
    for side in SIDES:
        documents = labels[f"{side}_id"].nunique()
        figures[f"{side}s in train labels"] = documents
        figures[f"mean accepted per {side}"] = len(accepted) / documents
        figures[f"most accepted per {side}"] = accepted[f"{side}_id"].value_counts().max()
    return figures


def _of_held_out(market: Market, split: Split) -> dict[str, float]:
    corpus = market.corpus
    figures: dict[str, float] = {
        f"{split} accepted": len(corpus.labelled(split, 1)),
        f"{split} rejected": len(corpus.labelled(split, 0)),
    }
    for target in SIDES:
        figures |= _of_lists(market, split, target)
    return figures


def _of_lists(market: Market, split: Split, target: Side) -> dict[str, float]:
    rankings = market.corpus.rankings
    rows = rankings[(rankings["split"] == split) & (rankings["target"] == target)]
    queries = rows["query_id"].nunique()
    name = f"{split} lists of {target}s"
    return {
        f"{name}, one a {other(target)}": queries,
        f"{name}: mean accepted": (rows["label"] == 1).sum() / queries,
        f"{name}: mean rejected": (rows["label"] == 0).sum() / queries,
        f"{name}: mean unjudged": (rows["label"] == -1).sum() / queries,
    }


def card_table(markets: Iterable[Market]) -> str:
    """The statistics as a Markdown table, one column a market."""
    frame = pd.DataFrame([statistics(market) for market in markets]).T
    header = "| | " + " | ".join(frame.columns) + " |"
    rows = [f"| {row.name} | " + " | ".join(map(_number, row)) + " |" for _, row in frame.iterrows()]
    return "\n".join([header, "|" + "---|" * (len(frame.columns) + 1), *rows])


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.2f}"
