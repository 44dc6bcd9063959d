"""What calls cost: the price table, an estimate of tokens before a call, and the dry run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confitlib.llm.requests import EmbeddingRequest, Request, Usage
from confitlib.util import read_yaml

TABLE = Path(__file__).with_name("prices.yaml")
PRICES_VARIABLE = "CONFIT_PRICES"
MILLION = 1_000_000
BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 8
ASSUMED_OUTPUT = 1024


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens; a call in a batch costs the share `batch` of that."""

    input: float
    output: float
    batch: float = 1.0
    source: str = ""

    def cost(self, usage: Usage, batch: bool = False) -> float:
        """US dollars for the tokens of calls."""
        full = (usage.input * self.input + usage.output * self.output) / MILLION
        return full * (self.batch if batch else 1.0)


Prices = Mapping[str, Price]


def load_prices(path: str | Path | None = None) -> dict[str, Price]:
    """The shipped price table, with the entries of `path` (or of the file in CONFIT_PRICES) on top.

    Raises ValueError naming file and model for an entry that is no price.
    """
    own = path or os.environ.get(PRICES_VARIABLE)
    files = [TABLE, *([Path(own)] if own else [])]
    return {model: price for file in files for model, price in _read(file).items()}


def _read(file: Path) -> dict[str, Price]:
    return {str(model): _price(f"{file}, {model}", entry) for model, entry in read_yaml(file, dict).items()}


def _price(where: str, entry: Any) -> Price:
    try:
        price = Price(**entry)
        good = min(float(price.input), float(price.output), float(price.batch)) >= 0
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}. Give input and output in dollars per million tokens.") from error
    if not good:
        raise ValueError(f"{where}: a price is not negative")
    return price


def estimate_tokens(text: str) -> int:
    """Tokens of a text, estimated high: one per three UTF-8 bytes, so one a Chinese character (our choice).

    English runs at about four characters a token in the usual vocabularies, so this is a third too many.
    """
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def estimate_usage(request: Request | EmbeddingRequest) -> Usage:
    """The tokens a call may use: the estimated prompt, and `max_tokens` (1,024 where none is set) of reply."""
    if isinstance(request, EmbeddingRequest):
        return Usage(estimate_tokens(request.text))
    prompt = sum(estimate_tokens(message["content"]) + TOKENS_PER_MESSAGE for message in request.messages)
    return Usage(prompt, ASSUMED_OUTPUT if request.max_tokens is None else request.max_tokens)


@dataclass(frozen=True)
class Estimate:
    """A dry run: the calls that are still to make, their tokens at most, their cost (None: no known price)."""

    calls: int
    recorded: int
    usage: Usage
    cost: float | None
    unpriced: tuple[str, ...] = ()

    def __str__(self) -> str:
        money = f"at most about ${self.cost:.4f}" if self.cost is not None else ""
        unknown = f"cost unknown: no price for {', '.join(self.unpriced)} (see confitlib/llm/prices.yaml)"
        tokens = f"about {self.usage.input:,} tokens to send and {self.usage.output:,} to receive"
        return f"{self.calls} calls to make, {self.recorded} recorded; {tokens}; {money or unknown}"


def estimate(missing: Iterable[Request | EmbeddingRequest], recorded: int, prices: Prices, batch: bool) -> Estimate:
    """The dry run of missing calls; repairs, which nobody can foresee, are not in it."""
    calls = [(request, estimate_usage(request)) for request in missing]
    unpriced = tuple(sorted({request.model for request, _ in calls} - set(prices)))
    total = sum((usage for _, usage in calls), Usage())
    cost = None if unpriced else sum(prices[request.model].cost(usage, batch) for request, usage in calls)
    return Estimate(len(calls), recorded, total, cost, unpriced)
