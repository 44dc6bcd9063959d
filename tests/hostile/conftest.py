"""Counts the verdicts on hostile cases (see verdicts.py); tests/conftest.py prints them."""

from collections.abc import Callable
from typing import Any

import pytest
import verdicts
from verdicts import Outcome


@pytest.fixture
def refuse_harm(record_property: Callable[[str, Any], None]) -> Callable[[str, list[Outcome]], None]:
    """Count the verdicts on a kind of input, and fail with every case that is neither right nor clear."""

    def count(kind: str, outcomes: list[Outcome]) -> None:
        record_property(verdicts.PROPERTY, [kind, dict(verdicts.count(outcomes))])
        faults = [one for one in outcomes if one.verdict not in ("right", "clear")]
        assert not faults, "\n".join(f"[{one.verdict}] {one.case}: {one.seen}" for one in faults)

    return count
