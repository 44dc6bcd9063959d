"""The tasks that `confit llm requests` and `import` know by name; the augmentation room fills them in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from confitlib.corpus import Corpus
from confitlib.llm.checks import common
from confitlib.llm.requests import Check, Request


@dataclass(frozen=True)
class Task:
    """A use of the language model: `build(corpus, model, seed)` makes its requests, `check` judges a reply."""

    name: str
    build: Callable[[Corpus, str, int], Sequence[Request]]
    check: Check = common


TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Make a task known by its name; a name registered again takes the new task."""
    TASKS[task.name] = task
    return task


def find_task(name: str) -> Task:
    """A task by name; raises LookupError naming those there are."""
    if name not in TASKS:
        raise LookupError(f"no task {name!r}; known: {', '.join(sorted(TASKS)) or 'none'}")
    return TASKS[name]
