"""Fixtures shared by the tests: the tiny market, composed once a session, and a repository in miniature."""

import os
import shutil
from collections import Counter
from typing import Any

import pytest
import verdicts
from miniature import make_project
from playwright.sync_api import sync_playwright

from confitlib.corpus import Corpus
from confitlib.market import Market, compose

SLOW_FIXTURES = {"browser", "fitted", "measured", "ray_engine"}  # they start a browser or a cluster, or train systems


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use what takes long to make are slow too."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of the hostile cases that ran, on whichever worker."""
    counts: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == verdicts.PROPERTY:
                    counts[value[0]] = Counter(value[1])
    if counts:
        terminalreporter.section("hostile input")
        for line in verdicts.table(dict(sorted(counts.items()))):
            terminalreporter.write_line(line)


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


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, which `make test` installs where it may; left out without one, but never where CI is set."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"none of {', '.join(names)} is on the PATH")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()
