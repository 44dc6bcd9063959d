"""Fixtures shared by the tests: the tiny market, composed once a session, and a repository in miniature."""

import pytest
from miniature import make_project

from confitlib.corpus import Corpus
from confitlib.market import Market, compose

SLOW_FIXTURES = {"fitted", "measured", "ray_engine"}  # they train systems or start a cluster


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use what takes long to make are slow too."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def market() -> Market:
    return compose("tiny", seed=0)


@pytest.fixture(scope="session")
def tiny(market: Market) -> Corpus:
    return market.corpus


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository in miniature as the working directory."""
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
