"""Counts the verdicts on hostile cases, from every worker, and prints them as one table (see verdicts.py)."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import verdicts
from verdicts import Outcome

NAME = "hostile"


@pytest.fixture
def refuse_harm(record_property: Callable[[str, Any], None]) -> Callable[[str, list[Outcome]], None]:
    """Count the verdicts on a kind of input, and fail with every case that is neither right nor clear."""

    def count(kind: str, outcomes: list[Outcome]) -> None:
        record_property(NAME, [kind, dict(verdicts.count(outcomes))])
        faults = [one for one in outcomes if one.verdict not in ("right", "clear")]
        assert not faults, "\n".join(f"[{one.verdict}] {one.case}: {one.seen}" for one in faults)

    return count


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of the cases that ran."""
    counts: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == NAME:
                    counts[value[0]] = Counter(value[1])
    if counts:
        terminalreporter.section("hostile input")
        for line in verdicts.table(dict(sorted(counts.items()))):
            terminalreporter.write_line(line)
