"""Notebooks: their parameters, strict runs of one through papermill, and sweeps, which are many runs from one file."""

from __future__ import annotations

import ast
import json
import math
import operator
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest.mock import patch

from confitlib import util
from confitlib.records import CUSTOM, RUNS, device_name, plain, provenance, settings
from confitlib.util import project_root, short_path

if TYPE_CHECKING:
    import pandas as pd
    from traitlets.config import Config

KERNEL = "python3"
TYPES: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "None": type(None)}
PAPERMILL_TAGS = {"injected-parameters", "papermill-error-cell-tag"}
MOST_RUNS = 10_000  # of one sweep


class NotebookError(RuntimeError):
    """A notebook that cannot be run as asked, or failed; the message names notebook, place and remedy."""


def all_notebooks() -> list[Path]:
    """The project's notebooks in reading order."""
    return sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def find_notebook(notebook: str | Path) -> Path:
    """The notebook of a number such as "05", or of a path; raises NotebookError naming those there are."""
    notebook = str(notebook)
    if Path(notebook).suffix == ".ipynb" and Path(notebook).is_file():
        return Path(notebook).resolve()
    matches = [path for path in all_notebooks() if number_of(path) == notebook]
    if len(matches) != 1:
        available = ", ".join(path.stem for path in all_notebooks()) or f"none in {project_root() / 'notebooks'}"
        raise NotebookError(f"no single notebook {notebook!r}; known: {available}. Run inside the repository.")
    return matches[0]


def number_of(path: Path) -> str:
    """The number that a notebook's file name begins with, e.g. "05"."""
    return path.stem.split("_")[0]


def cells_of(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook as its JSON has them."""
    try:
        cells = list(json.loads(util.plain_file(path).read_text(encoding="utf-8"))["cells"])
        [(list(cell["metadata"].get("tags", [])), cell["source"]) for cell in cells]  # what others read
        return cells
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise NotebookError(f"{path} is no notebook ({error}): restore it, or merge it again") from error


def declared_parameters(path: Path) -> dict[str, tuple[str, Any]]:
    """Type (declared, or that of the default) and default of each parameter of a notebook's `parameters` cell, by name.

    Read from the syntax tree: papermill's own inspection goes line by line and loses a parameter
    whose comment holds an equals sign. Raises NotebookError unless there is one such cell of literals.
    """
    cells = [cell for cell in cells_of(path) if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise NotebookError(f"{path}: {len(cells)} cells are tagged `parameters`, expected one")
    parameters, where = {}, f"{path}: the parameters cell"
    try:
        for statement in ast.parse("".join(cells[0]["source"])).body:
            line = ast.unparse(statement)
            if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
                raise NotebookError(f"{where} holds {line!r}, not an assignment")
            target, _, literal = line.partition(" = ")
            name, _, kind = target.partition(": ")
            value = ast.literal_eval(literal)
            if name in parameters or not name.isidentifier():
                raise NotebookError(f"{where} sets {name!r} twice or in no line of its own: correct it")
            parameters[name] = kind or type(value).__name__, value
    except SyntaxError as error:
        raise NotebookError(f"{where} is not Python ({error.msg}, line {error.lineno}): correct it") from error
    except ValueError as error:
        raise NotebookError(f"{path}: the value in {line!r} is not a literal: write it out") from error
    return parameters


def profile_parameters(profile: str, notebook: str | Path) -> dict[str, Any]:
    """What `profiles/<profile>.yaml` sets for a notebook: `common` where it has them, then its own section.

    Raises NotebookError for a section without a notebook, for a common parameter that no notebook has,
    and for a parameter in the section that the notebook does not have; ValueError for a file of another shape.
    """
    path, file = find_notebook(notebook), project_root() / "profiles" / f"{profile}.yaml"
    if not file.is_file():
        available = ", ".join(sorted(other.stem for other in file.parent.glob("*.yaml")))
        raise NotebookError(f"no profile {profile!r}; known: {available or f'none in {file.parent}'}")
    content = util.read_yaml(file, dict)
    for name, section in content.items():
        if not isinstance(section, dict | None):
            raise ValueError(f"{file}, section {name!r}: expected a mapping of parameters, found {section!r:.60}")
    common, section = content.get("common") or {}, content.get(number_of(path)) or {}
    names = {other: set(declared_parameters(other)) for other in {path, *all_notebooks()}}
    refuse_unknown(f"profile {profile!r}, section {number_of(path)!r}", section, names[path])
    refuse_unknown(f"profile {profile!r}, section 'common'", common, set().union(*names.values()))
    refuse_unknown(f"profile {profile!r}, section names", content, {"common", *map(number_of, names)})
    return {name: value for name, value in {"profile": profile, **common}.items() if name in names[path]} | section


def refuse_unknown(where: str, names: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Raise NotebookError, saying where, for names that are not among those allowed."""
    if unknown := sorted(str(name) for name in names if name not in allowed):
        raise NotebookError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(allowed))}")


def standard_settings(profile: str, path: Path) -> str:
    """The parameters of a notebook under a profile as one comparable text, without seed and output."""
    defaults = {name: default for name, (_, default) in declared_parameters(path).items()}
    return settings(defaults | profile_parameters(profile, path), "seed")


def use(profile: str, notebook: str | Path, namespace: dict[str, Any]) -> None:
    """Give a notebook's parameters the values of a profile: `notebooks.use("tiny", "05", globals())`.

    Call it below the parameters cell. The seed and the folder of the output stay as they are. Raises NotebookError for
    an unknown profile, and before the parameters cell has run.
    """
    path = find_notebook(notebook)
    defaults = {name: default for name, (_, default) in declared_parameters(path).items()}
    if missing := sorted(defaults.keys() - namespace.keys()):
        raise NotebookError(f"{path.name}: {', '.join(missing)} not set yet: run the parameters cell first")
    kept = {name: namespace[name] for name in ("seed", "output") if name in defaults}
    namespace.update(check_parameters(path, defaults | profile_parameters(profile, path) | kept))


def current_parameters(notebook: str | Path, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a notebook's parameters have in its namespace: `current_parameters("05", globals())`.

    `profile` is "custom" if they are not the profile's own; seed and output may differ.
    """
    path = find_notebook(notebook)
    values = {name: plain(namespace[name], f"parameter {name!r}") for name in declared_parameters(path)}
    if "profile" in values and settings(values, "seed") != standard_settings(values["profile"], path):
        values["profile"] = CUSTOM
    return values


def standard_records(records: pd.DataFrame, profile: str) -> pd.DataFrame:
    """The records of a profile whose parameters are the profile's own; only seed and output may differ.

    Claims, figures and the README speak of these: a run with other parameters, or from before a default changed,
    says nothing about them.
    """
    expected = {number_of(path): standard_settings(profile, path) for path in all_notebooks()}
    used = records["parameters"].map(lambda given: settings(given, "seed"))
    return records[(records["profile"] == profile) & (used == records["notebook"].map(expected))]


def check_parameters(notebook: str | Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as JSON values, once each is one that the notebook declares and has its type.

    Raises NotebookError for an unknown name or another type, TypeError for what is no JSON scalar or list.
    """
    path = find_notebook(notebook)
    declared = declared_parameters(path)
    refuse_unknown(f"{path.name}, parameters", parameters, declared)
    values = {name: plain(value, f"parameter {name!r}") for name, value in parameters.items()}
    for name, value in values.items():
        kind, default = declared[name]
        kinds = [type_of(default) if one.startswith("list") else TYPES.get(one, str) for one in kind.split(" | ")]
        if not any(util.fits(parameters[name], one) and util.fits(value, one) for one in kinds):  # NaN becomes None
            wanted = " or ".join(map(str, kinds)).replace("<class '", "").replace("'>", "")
            raise NotebookError(f"{path.name}: parameter {name}={parameters[name]!r} must be {wanted}")
    return values


def type_of(value: Any) -> Any:
    """The type of a default value: that of a list names the type of its first element."""
    return list[type_of(value[0])] if isinstance(value, list) and value else type(value)  # type: ignore[misc]


def parse_value(notebook: str | Path, name: str, text: str) -> Any:
    """A parameter value from the command line: as it is for a declared string, else as JSON where it is JSON."""
    kind, _ = declared_parameters(find_notebook(notebook)).get(name, ("", None))
    with suppress(ValueError):
        return text if kind == "str" else json.loads(text)
    return text


def run_notebook(
    notebook: str | Path,
    parameters: Mapping[str, Any] | None = None,
    output_folder: str | Path | None = None,
    profile: str = "laptop",
) -> Path:
    """Execute a notebook with a profile's parameters, overridden by `parameters`; returns the executed copy.

    The copy gets a name of its own in `output_folder` (default `build/notebooks/<profile>`). The kernel is this
    interpreter, its working directory the repository root.
    Raises NotebookError for unknown parameters and for a failing cell, whose executed copy stays.
    """
    import papermill

    path, root = find_notebook(notebook), project_root()
    values = check_parameters(path, {**profile_parameters(profile, path), **(parameters or {})})
    copy = util.make_folder(root / (output_folder or f"build/notebooks/{profile}")) / f"{path.stem}.{run_id()}.ipynb"
    how = {"kernel_name": KERNEL, "language": "python", "cwd": root}
    try:
        with own_kernel() as config:
            papermill.execute_notebook(path, copy, values, **how, config=config)
    except (papermill.PapermillExecutionError, RuntimeError) as error:  # a cell failed; the kernel died or never began
        message = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"
        if not copy.is_file():
            raise NotebookError(f"{path.name}: {message}") from error
        cells = [cell["metadata"] for cell in cells_of(copy)]
        times = [cell["papermill"]["start_time"] for cell in cells if not PAPERMILL_TAGS & set(cell.get("tags", []))]
        reached = max((place for place, begun in enumerate(times, 1) if begun), default=1)
        raise NotebookError(f"{path.name}, cell {reached}: {message}\nexecuted copy: {short_path(copy)}") from error
    return copy


def run_id() -> str:
    """A name no other run has, which sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"


@contextmanager
def own_kernel() -> Iterator[Config]:
    """Let this environment's kernel come ahead of a user's of that name, and talk to it through files of its own.

    Kernels that are started at once can race for one TCP port.
    """
    from traitlets.config import Config

    here = str(Path(sys.prefix) / "share" / "jupyter")
    path = os.pathsep.join(filter(None, [here, os.environ.get("JUPYTER_PATH")]))
    with patch.dict(os.environ, {"JUPYTER_PATH": path}), tempfile.TemporaryDirectory(prefix="confit-") as folder:
        files = {"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}}
        yield Config({} if sys.platform == "win32" else files)


def environment() -> pd.DataFrame:
    """What this notebook runs on: versions, device, and why that device; the setup cell shows it."""
    import pandas as pd
    import torch

    versions = provenance()["versions"]
    rows = {name: versions[name] for name in ("python", "confitlib", "torch", "transformers") if name in versions}
    rows["device"] = f"{device_name()}: torch sees {'a' if torch.cuda.is_available() else 'no'} CUDA card"
    return pd.DataFrame({"value": rows | {"threads": str(torch.get_num_threads())}})


@dataclass
class SweepRun:
    """One run of a sweep: what to run, the key of everything that decides its result, how it went."""

    notebook: Path
    profile: str
    parameters: dict[str, Any]
    label: str
    key: str
    state: Literal["waiting", "done", "failed"] = "waiting"
    seconds: float = 0.0
    reason: str = ""


def plan_sweep(file: str | Path) -> list[SweepRun]:
    """The runs that a sweep file asks for: every combination of its grid, for every seed and notebook.

    The YAML holds `notebook` (a number or a list of them), `profile`, `grid` (parameter to list of
    values) and `seeds` (values of the parameter `seed`; 0 alone by default). Raises NotebookError for
    unknown keys or parameters, ValueError for a file of another shape and for more than 10,000 runs.
    """
    content = util.read_yaml(file, dict)
    refuse_unknown(str(file), content, ["notebook", "profile", "grid", "seeds"])
    named, profile, grid = content.get("notebook"), content.get("profile", "laptop"), content.get("grid")
    numbers = named if isinstance(named, list) else [named]
    if not numbers or not all(isinstance(number, str) for number in numbers):
        raise ValueError(f'{file}: notebook is {named!r}: name it in quotes, e.g. notebook: "05"')
    grid = {} if grid is None else grid
    if not isinstance(grid, dict):
        raise ValueError(f"{file}: grid is {grid!r:.60}, expected a mapping from parameter to list of values")
    if "seed" in grid and "seeds" in content:
        raise ValueError(f"{file}: grid has seed, and there are seeds beside it: leave one of them out")
    grid = {**grid, "seed": grid.get("seed", content.get("seeds", [0]))}
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{file}: {name} is {values!r:.60}, expected a list of values, e.g. [0, 1]")
    count = len(numbers) * math.prod(map(len, grid.values()))
    if count > MOST_RUNS:
        raise ValueError(f"{file}: {count:,} runs, at most {MOST_RUNS:,}: make the grid smaller")
    root, runs = project_root(), []
    for path in map(find_notebook, numbers):
        base = profile_parameters(profile, path)
        code = ["".join(cell["source"]) for cell in cells_of(path) if cell["cell_type"] == "code"]
        for combination in product(*grid.values()):
            point = dict(zip(grid, combination, strict=True))
            parameters = check_parameters(path, {**base, **point})
            label = " ".join([path.stem, *(f"{name}={json.dumps(value)}" for name, value in point.items())])
            # What decides a run: versions of results, code, parameters, and the files that parameters name
            words = {name: value for name, value in parameters.items() if name != "output" and isinstance(value, str)}
            files = [(name, root / word) for name, word in words.items()]
            hashes = {name: util.files_hash(file) for name, file in files if not root.is_relative_to(file.resolve())}
            decisive = {"version": util.RESULTS_VERSION, "code": code, "parameters": settings(parameters)}
            runs.append(SweepRun(path, profile, parameters, label, util.content_key(**decisive, files=hashes)))
    return runs


def run_sweep(file: str | Path, workers: int = 1, call: Callable[..., int] = operator.call) -> list[SweepRun]:
    """Run what a sweep file asks for and is not done yet, `workers` runs at once; prints a line when one has ended.

    A finished run is one whose key stands in `records/<sweep>.jsonl`, so a sweep may be killed at any
    moment and started again. Every run is a process of its own; a failed one leaves its notebook and
    log in `build/sweeps/<sweep>` and the others go on. `call(function, *arguments)` starts these processes elsewhere,
    on machines that see the repository under the same path; default: here. Raises NotebookError if the sweep is running
    already, ValueError for the name `runs`, whose file is that of single runs.
    """
    sweep, runs = Path(file).stem, plan_sweep(file)
    if f"{sweep}.jsonl" == RUNS:
        raise ValueError(f"{file}: records/{RUNS} holds the single runs: give the sweep another name")
    folder = util.make_folder(project_root() / "build" / "sweeps" / sweep)
    with (folder / "lock").open("wb") as mark, ThreadPoolExecutor(workers) as pool:
        try:
            util.lock(mark, wait=False)
        except BlockingIOError as error:
            raise NotebookError(f"sweep {sweep!r} is running in another process") from error
        recorded = project_root() / "records" / f"{sweep}.jsonl"
        keys = {entry.get("key") for entry in (util.read_entries(recorded) if recorded.is_file() else [])}
        for run in runs:
            run.state = "done" if run.key in keys else "waiting"
        waiting = [run for run in runs if run.state == "waiting"]
        print(f"sweep {sweep}: {len(waiting)} of {len(runs)} runs to do", flush=True)
        list(pool.map(lambda run: execute_run(sweep, run, workers, call), waiting))  # an error cancels those that wait
    return runs


def execute_run(sweep: str, run: SweepRun, workers: int, call: Callable[..., int]) -> None:
    """Execute one run in a folder of its own, copy its record to the sweep's records and print how it ended."""
    root = project_root()
    folder = util.make_folder(root / "build" / "sweeps" / sweep / f"{run.key}.{run_id()}")
    started, records, log = time.perf_counter(), folder / "records" / RUNS, folder / "log.txt"
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}  # runs at once share the cores
    run.state = "failed"
    try:
        status = call(execute, run_command(run, folder), root, threads, log)
        if status == 0 and records.is_file():
            entry = util.read_entries(records)[-1] | {"sweep": sweep, "key": run.key}
            util.append_line(root / "records" / f"{sweep}.jsonl", entry)
            run.state = "done"
        else:
            failures = log.read_text(errors="replace").split("\n[FAIL] ")[1:] or [f"exit status {status}"]
            why = failures[-1].splitlines()[0] if status else "the notebook wrote no record"
            run.reason = f"{why}; log: {short_path(log)}"
    except Exception as error:  # an engine that lost the run's machine too often, or cannot reach it
        run.reason = f"{type(error).__name__}: {error}"
    run.seconds = time.perf_counter() - started
    print(f"{run.state}, {run.seconds:.0f} s: {run.label}", flush=True)


def run_command(run: SweepRun, folder: Path) -> list[str]:
    """The `confit run` that executes one run, as a reader could type it."""
    command, output = [sys.executable, "-m", "confitlib.cli", "run", str(run.notebook)], short_path(folder)
    command += ["--profile", run.profile, "--folder", output]
    for name, value in {**run.parameters, "output": output}.items():
        command += ["-p", name, value if isinstance(value, str) else json.dumps(value)]
    return command


def execute(command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> int:
    """Run a command in a folder, its output in a log; returns its exit status.

    `environment`: defaults of variables that the user has not set.
    """
    with log.open("wb") as file:
        env = {**environment, **os.environ}
        return subprocess.call(command, cwd=folder, env=env, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
