"""Hostile input of every kind: right or refused in clear words, nothing executed, no dead process (see verdicts.py)."""

from collections.abc import Callable
from importlib import import_module

import pytest
from verdicts import Outcome, isolated, run

MODULES = [
    "case_files", "case_corpora", "case_text", "case_encoders", "case_mining", "case_training", "case_evaluation",
    "case_llm", "case_settings", "case_records", "case_calls",
]  # fmt: skip
GROUPS = {group: import_module(name) for name in MODULES for group in import_module(name).GROUPS}


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_hostile_input(group: str, refuse_harm: Callable[[str, list[Outcome]], None]) -> None:
    module = GROUPS[group]
    alone = group in getattr(module, "ISOLATED", ())
    refuse_harm(group, isolated(module.__name__, group) if alone else run(module.GROUPS[group]()))


def test_there_are_so_many_cases() -> None:
    """At least 1,500 of different names, and every group has some."""
    names = {group: {case.name for case in module.GROUPS[group]()} for group, module in GROUPS.items()}
    assert all(names.values()) and sum(map(len, names.values())) >= 1500
