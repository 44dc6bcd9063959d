"""Sweeps: many runs of notebooks from one file, several at once, resumable, safe against being killed."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from confitlib.lab import (
    NotebookError,
    cells_of,
    check_parameters,
    find_notebook,
    profile_parameters,
    refuse_unknown,
    run_id,
    short_path,
)
from confitlib.records import RUNS, project_root, settings
from confitlib.util import append_line, lock, read_entries, read_yaml

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class SweepRun:
    """One run of a sweep: what to run, the key of everything that decides its result, how it went."""

    notebook: Path
    profile: str
    parameters: dict[str, Any]
    label: str
    key: str
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    seconds: float = 0.0
    reason: str = ""
    started: float = field(default=0.0, repr=False)


def plan_sweep(file: str | Path) -> list[SweepRun]:
    """The runs that a sweep file asks for: every combination of its grid, for every seed and notebook.

    The YAML holds `notebook` (a number or a list of them), `profile`, `grid` (parameter to list of
    values) and `seeds` (values of the parameter `seed`; 0 alone by default). Raises NotebookError for
    unknown keys or parameters, ValueError for a file of another shape.
    """
    content = read_yaml(file, dict)
    refuse_unknown(str(file), content, ["notebook", "profile", "grid", "seeds"])
    if "notebook" not in content:
        raise ValueError(f'{file}: no notebook: say which, e.g. notebook: "05"')
    numbers, profile = content["notebook"], content.get("profile", "laptop")
    numbers = numbers if isinstance(numbers, list) else [numbers]
    if not all(isinstance(number, str) for number in numbers):
        raise ValueError(f'{file}: notebook is {content["notebook"]!r}: quote the number, e.g. notebook: "05"')
    grid = _grid(file, content.get("grid") or {}, content.get("seeds", [0]))
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    chosen = [find_notebook(number) for number in numbers]
    return [run for path in chosen for run in _sweep_runs(path, profile, points)]


def _grid(file: str | Path, grid: Any, seeds: Any) -> dict[str, list[Any]]:
    """What is crossed: every parameter of the grid, and the seed."""
    if not isinstance(grid, dict):
        raise ValueError(f"{file}: grid is {grid!r:.60}, expected a mapping from parameter to list of values")
    crossed = {**grid, "seed": seeds}
    for name, values in crossed.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{file}: {name} is {values!r:.60}, expected a list of values, e.g. [0, 1]")
    return crossed


def _sweep_runs(path: Path, profile: str, points: list[dict[str, Any]]) -> Iterator[SweepRun]:
    base, code = profile_parameters(profile, path), notebook_hash(path)
    for point in points:
        values = check_parameters(path, {**base, **point})
        label = " ".join([path.stem, *(f"{name}={json.dumps(value)}" for name, value in point.items())])
        yield SweepRun(path, profile, values, label, run_key(values, code))


def notebook_hash(path: Path) -> str:
    """A hash of the code that a notebook runs: its own cells, the library and the lock."""
    cells = ["".join(cell["source"]) for cell in cells_of(path) if cell["cell_type"] == "code"]
    digest = hashlib.sha256(json.dumps(cells).encode())
    for source in (Path(__file__).parent, project_root() / "requirements.lock"):
        digest.update(_content_hash(source))
    return digest.hexdigest()


def run_key(parameters: Mapping[str, Any], code: str) -> str:
    """A hash of what decides a run: its code, its parameters, and the files that parameters name."""
    root = project_root()
    digest = hashlib.sha256((code + settings(parameters)).encode())
    for name, value in parameters.items():
        if name != "output" and isinstance(value, str) and not root.is_relative_to((root / value).resolve()):
            digest.update(_content_hash(root / value))
    return digest.hexdigest()[:16]


def _content_hash(source: Path) -> bytes:
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.digest()


class Caller(Protocol):
    """What runs one call somewhere and returns its result, as the engines of `confitlib.scale` do."""

    def __call__(self, function: Callable[..., int], *arguments: Any) -> int:
        """The result of `function(*arguments)`."""


def run_sweep(file: str | Path, workers: int = 1, call: Caller | None = None) -> list[SweepRun]:
    """Run what a sweep file asks for and is not done yet, `workers` runs at once, with a live table.

    A finished run is one whose key stands in `records/<sweep>.jsonl`, so a sweep may be killed at any
    moment and started again. Every run is a process of its own; a failed one leaves its notebook and
    log in `build/sweeps/<sweep>` and the others go on. `call` starts these processes elsewhere, on machines that
    see the repository under the same path; default: here. Raises NotebookError if the sweep is running already,
    ValueError for the name `runs`, whose file is that of single runs.
    """
    from rich.live import Live

    sweep, runs = Path(file).stem, plan_sweep(file)
    if f"{sweep}.jsonl" == RUNS:
        raise ValueError(f"{file}: records/{RUNS} holds the single runs: give the sweep another name")
    with _only_one(sweep), ThreadPoolExecutor(workers) as pool:
        finished = finished_keys(sweep)
        for run in runs:
            run.state = "done" if run.key in finished else "waiting"
        jobs = [
            pool.submit(_run_one, sweep, run, workers, call or _call_here) for run in runs if run.state == "waiting"
        ]
        with Live(get_renderable=lambda: sweep_table(sweep, runs), refresh_per_second=1, transient=True) as live:
            try:
                for job in as_completed(jobs):
                    job.result()
            except BaseException:  # an interrupt too must not start what is still waiting
                pool.shutdown(cancel_futures=True)
                raise
        live.console.print(sweep_table(sweep, runs))
    return runs


def finished_keys(sweep: str) -> set[str]:
    """Keys of the runs that `records/<sweep>.jsonl` holds; a record without a key is no sweep's."""
    path = project_root() / "records" / f"{sweep}.jsonl"
    return {entry["key"] for entry in read_entries(path) if "key" in entry} if path.is_file() else set()


@contextmanager
def _only_one(sweep: str) -> Iterator[None]:
    path = project_root() / "build" / "sweeps" / sweep / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        try:
            lock(file, wait=False)
        except BlockingIOError as error:
            raise NotebookError(f"sweep {sweep!r} is running in another process") from error
        yield


def _call_here(function: Callable[..., int], *arguments: Any) -> int:
    return function(*arguments)


def _run_one(sweep: str, run: SweepRun, workers: int, call: Caller) -> None:
    """Execute one run in a folder of its own and copy its record to the sweep's records."""
    root = project_root()
    folder = root / "build" / "sweeps" / sweep / f"{run.key}.{run_id()}"
    folder.mkdir(parents=True)
    run.state, run.started = "running", time.perf_counter()
    try:
        status = call(execute, _command(run, folder), root, _threads(workers), folder / "log.txt")
    except Exception as error:  # an engine that lost the run's machine too often, or cannot reach it
        run.state, run.reason = "failed", f"{type(error).__name__}: {error}"
        return
    finally:
        run.seconds = time.perf_counter() - run.started
    records = folder / "records" / RUNS
    if status != 0 or not records.is_file():
        lines = (folder / "log.txt").read_text(errors="replace").split("\n[FAIL] ")
        why = lines[-1].splitlines()[0] if len(lines) > 1 else f"exit status {status}"
        run.state = "failed"
        run.reason = f"{why if status else 'the notebook wrote no record'}; log: {short_path(folder / 'log.txt')}"
        return
    entry = read_entries(records)[-1] | {"sweep": sweep, "key": run.key}
    append_line(root / "records" / f"{sweep}.jsonl", entry)
    run.state = "done"


def _command(run: SweepRun, folder: Path) -> list[str]:
    """The `confit run` that executes one run, as a reader could type it."""
    values = {**run.parameters, "output": short_path(folder)}
    pairs = [
        ["-p", name, value if isinstance(value, str) else json.dumps(value)]
        for name, value in values.items()
    ]  # fmt: skip
    command = [sys.executable, "-m", "confitlib.cli", "run", str(run.notebook), "--profile", run.profile]
    return [*command, "--folder", short_path(folder), *itertools.chain.from_iterable(pairs)]


def execute(command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> int:
    """Run a command in a folder, its output in a log; returns its exit status.

    `environment`: defaults of variables that the user has not set.
    """
    with log.open("wb") as file:
        return subprocess.call(
            command,
            cwd=folder,
            env={**environment, **os.environ},
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )


def _threads(workers: int) -> dict[str, str]:
    """Runs at once share the cores, unless the user chose otherwise."""
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}


def sweep_table(sweep: str, runs: list[SweepRun], shown: int = 20) -> Table:
    """What a sweep has done: counts, then failed, running and the next waiting runs with times and reasons."""
    from rich.table import Table

    order = ["failed", "running", "waiting", "done"]
    counts = ", ".join(f"{sum(run.state == state for run in runs)} {state}" for state in reversed(order))
    table = Table("run", "state", "seconds", "why", title=f"sweep {sweep}: {counts}")
    listed = sorted(runs, key=lambda run: order.index(run.state))[:shown]
    for run in listed:
        seconds = time.perf_counter() - run.started if run.state == "running" else run.seconds
        table.add_row(run.label, run.state, f"{seconds:.0f}" if seconds else "", run.reason)
    if len(runs) > shown:
        table.caption = f"{len(runs) - shown} more not listed"
    return table
