"""Fixtures shared by the tests: the tiny market, composed once a session."""

import pytest

from confitlib.corpus import Corpus
from confitlib.market import Market, compose


@pytest.fixture(scope="session")
def market() -> Market:
    return compose("tiny", seed=0)


@pytest.fixture(scope="session")
def tiny(market: Market) -> Corpus:
    return market.corpus
