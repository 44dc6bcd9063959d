"""Requests that wait for an answer as a file, and answers that come back as one: for whoever has a model elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confitlib.llm.replies import judge, read_usage, storable
from confitlib.llm.requests import Request
from confitlib.llm.safety import mask
from confitlib.llm.store import Store
from confitlib.llm.tasks import find_task
from confitlib.util import atomic, numbered_entries


@dataclass(frozen=True)
class Waiting:
    """A request of a task that has no answer yet."""

    task: str
    request: Request


@dataclass
class Imported:
    """What became of the lines of a file of answers; `rejected` names each line that was not taken, and why."""

    taken: int = 0
    known: int = 0
    rejected: list[str] = field(default_factory=list)


def write_waiting(path: Path, task: str, requests: Iterable[Request]) -> int:
    """Write requests as JSON lines: fingerprint, task, about, source (masked) and the payload; returns how many."""
    lines = [json.dumps(_line(task, request), ensure_ascii=False) + "\n" for request in requests]
    with atomic(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def _line(task: str, request: Request) -> dict[str, Any]:
    local = {"task": task, "about": request.about, "source": mask(request.source)[0]}
    return {"fingerprint": request.fingerprint(), **local, **request.payload()}


def read_waiting(paths: Iterable[Path]) -> dict[str, Waiting]:
    """Waiting requests by fingerprint; raises ValueError naming file and line for one that was altered."""
    waiting = {}
    for path in paths:
        for number, line in numbered_entries(path).items():
            name, task = line.pop("fingerprint", None), str(line.pop("task", ""))
            try:
                request = Request.from_payload(line, str(line.pop("about", "")), str(line.pop("source", "")))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            if request.fingerprint() != name:
                raise ValueError(f"{path}, line {number}: altered, as the fingerprint shows. Write the file anew.")
            waiting[name] = Waiting(task, request)
    return waiting


def import_answers(store: Store, waiting: Mapping[str, Waiting], path: Path) -> Imported:
    """Take JSON lines {fingerprint, text[, model, usage, finish_reason]} into a store, each checked by its task.

    A line that fails is left out and named in the result; one already answered is counted as known.
    """
    done = Imported()
    for number, line in numbered_entries(path).items():
        name = str(line.get("fingerprint"))
        problem = None if name in store else _fault(waiting.get(name), line)
        if problem:
            about = waiting[name].request.about if name in waiting else ""
            done.rejected.append(f"{path}, line {number}{f' ({about})' if about else ''}: {problem}")
        elif name in store:
            done.known += 1
        else:
            store.add(waiting[name].request, **_reply(line))
            done.taken += 1
    return done


def _reply(line: Mapping[str, Any]) -> dict[str, Any]:
    usage = line.get("usage") or {}
    return {
        "text": storable(line["text"]),
        "finish_reason": line.get("finish_reason", "stop"),
        "refusal": None,
        "usage": {name: usage[name] for name in ("input", "output")} if "input" in usage else read_usage(line),
        "served_by": line.get("model"),
        "origin": "import",
    }


def _fault(one: Waiting | None, line: Mapping[str, Any]) -> str | None:
    if one is None:
        return "no request waits for this fingerprint"
    if not isinstance(line.get("text"), str):
        return "no text"
    usage = line.get("usage") or {}
    if not isinstance(usage, dict) or ("input" in usage) != ("output" in usage):
        return "usage is no mapping with the numbers input and output"
    return judge(one.request, _reply(line), find_task(one.task).check)


def requests_of(waiting: Mapping[str, Waiting]) -> Sequence[Request]:
    """The waiting requests themselves."""
    return [one.request for one in waiting.values()]
