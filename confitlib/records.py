"""Records of runs, one JSON line each."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from confitlib.util import append_line, project_root, read_entries

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    import pandas as pd

Scalar = str | int | float | bool | None

RUNS = "runs.jsonl"
COLUMNS = [
    "id", "time", "notebook", "profile", "seed", "parameters", "metrics", "tables", "commit", "dirty", "versions",
    "device", "seconds", "peak_memory_mb", "peak_gpu_memory_mb", "data_hash", "weight_hash", "sweep", "key", "source",
]  # fmt: skip
PACKAGES = ("confitlib", "torch", "transformers", "numpy", "scipy", "pandas", "scikit-learn", "faiss-cpu", "bm25s")
SECRET_NAME = re.compile(r"(^|_)(api)?(key|token|secret|password|passwd|credentials?)($|_)", re.IGNORECASE)
SECRET_VALUE = re.compile(r"\b(sk-|hf_|ghp_|github_pat_)[A-Za-z0-9_-]{16,}|://[^/\s:@]+:[^/\s@]+@")
RESULT_SOURCES = ("confitlib", "notebooks", "profiles", "pyproject.toml", "requirements.lock")


class HasFingerprint(Protocol):
    """Data that can name its content, such as `Corpus`."""

    def fingerprint(self) -> str: ...


class HasWeights(Protocol):
    """A model that can name its weights, such as `TextEncoder`."""

    def weight_hash(self) -> str: ...


def plain(value: Any, name: str) -> Any:
    """A value as JSON knows it: scalars and lists of them, numpy converted, NaN as None.

    Raises TypeError naming the value for anything else, ValueError for infinities.
    """
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item, name) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"{name} is infinite: a record holds finite numbers")
    if not isinstance(value, Scalar):
        raise TypeError(f"{name} is a {type(value).__name__}: a record holds text, numbers, booleans, None and lists")
    return value


def looks_secret(name: str, value: object) -> bool:
    """Whether a parameter's name or value looks like a key, token or password."""
    return bool(SECRET_NAME.search(name) or SECRET_VALUE.search(str(value)))


class Run:
    """One run being recorded; `record` makes it, leaving the `with` block or `save` writes it.

    `entry` is what `save` will append, without time and memory, which are taken then.
    """

    def __init__(self, notebook: str, parameters: Mapping[str, Any], folder: str | Path) -> None:
        secret = [name for name, value in parameters.items() if looks_secret(name, value)]
        if secret:
            raise ValueError(f"parameters {secret} look like secrets: keep them in environment variables")
        values = {name: plain(value, f"parameter {name!r}") for name, value in parameters.items()}
        self.path = project_root() / folder / "records" / RUNS
        self.entry: dict[str, Any] = {
            "notebook": notebook,
            "profile": values.get("profile"),
            "seed": values.get("seed"),
            "parameters": values,
            "metrics": {},
            "tables": {},
            "data_hash": None,
            "weight_hash": None,
        }
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.save()

    def log(self, metrics: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Add metrics, name to number; a name logged again takes the new value. NaN is kept as "undefined"."""
        for name, value in {**(metrics or {}), **more}.items():
            number = plain(value, f"metric {name!r}")
            if isinstance(number, str | list):
                raise TypeError(f"metric {name!r} is {number!r}: a metric is one number; use log_table for more")
            self.entry["metrics"][name] = None if number is None else float(number)

    def log_table(self, name: str, table: pd.DataFrame) -> None:
        """Add a table, so that its figure can be drawn from the record alone; the index is not kept."""
        rows = [
            {str(column): plain(value, f"table {name!r}, column {column!r}") for column, value in row.items()}
            for row in table.to_dict("records")
        ]
        self.entry["tables"][name] = rows

    def describe(self, corpus: HasFingerprint | None = None, encoder: HasWeights | None = None) -> None:
        """Note the content of the data and of the weights that the run used."""
        if corpus is not None:
            self.entry["data_hash"] = corpus.fingerprint()
        if encoder is not None:
            self.entry["weight_hash"] = encoder.weight_hash()

    def save(self) -> None:
        """Append the record as one line to `<folder>/records/runs.jsonl`."""
        stamp = {"id": uuid.uuid4().hex[:12], "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        used = {"seconds": round(time.perf_counter() - self._started, 3), **peak_memory()}
        append_line(self.path, {**stamp, **self.entry, **provenance(), **used})


def record(notebook: str, parameters: Mapping[str, Any], folder: str | Path = ".") -> Run:
    """Start recording a run of a notebook, e.g. `with record("05", parameters, output) as run: run.log(map=0.4)`.

    `folder` receives `records/runs.jsonl`; a relative one starts at the repository root. A run that
    raises inside the block is not recorded. In a notebook, call `save()` in the record cell instead.
    Raises ValueError on parameters that look like secrets.
    """
    return Run(notebook, parameters, folder)


def provenance() -> dict[str, Any]:
    """What a run ran on: git commit (None outside git), whether sources differ from it, versions, device."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", *RESULT_SOURCES) if commit else None
    return {
        "commit": commit,
        "dirty": None if changed is None else bool(changed),
        "versions": {"python": platform.python_version(), **_versions()},
        "device": device_name(),
    }


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(project_root()), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _versions() -> dict[str, str]:
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # optional in a slim installation; doctor names what is missing
    return installed


def device_name() -> str:
    """The accelerator's name if this process uses torch and has one, else the processor with its cores."""
    torch = sys.modules.get("torch")  # a run that never imported torch used no accelerator
    if torch is not None and torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({os.cpu_count()} cores, {platform.machine()})"


def peak_memory() -> dict[str, float | None]:
    """Largest memory this process has held so far, in MB: main memory, and GPU memory where there is one."""
    torch = sys.modules.get("torch")
    used: dict[str, float | None] = {"peak_memory_mb": None, "peak_gpu_memory_mb": None}
    if sys.platform != "win32":
        unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss counts bytes on macOS, kilobytes on Linux
        used["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if torch is not None and torch.cuda.is_available():
        used["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return used


def load_records(path: str | Path) -> pd.DataFrame:
    """The records of a `.jsonl` file, or of every such file in a folder, oldest first: one row a run.

    `parameters`, `metrics`, `tables` and `versions` are dictionaries. Raises FileNotFoundError if there
    is nothing to read.
    """
    import pandas as pd

    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f"no records at {path}: run a notebook first, e.g. `confit run all`")
    entries = [{**entry, "source": file.name} for file in files for entry in read_entries(file)]
    frame = pd.DataFrame(entries, columns=COLUMNS, dtype=object)
    return frame.sort_values("time", kind="stable", ignore_index=True)


def settings(parameters: Mapping[str, Any]) -> str:
    """The parameters that decide a result, as one comparable text: all but where the output goes."""
    return json.dumps({name: value for name, value in parameters.items() if name != "output"}, sort_keys=True)


def metrics_by_setting(records: pd.DataFrame, notebook: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """The metrics of a notebook's runs that are named `quantity.setting`, one row a metric, oldest run first.

    Columns: `setting, quantity, value, run, seed` (the run's own) and the parameters named in `by`, None where a run
    has no such parameter. Of several runs with equal parameters the newest counts. Raises LookupError without a run.
    """
    import pandas as pd

    mine = records[records["notebook"] == notebook]
    mine = mine[~mine["parameters"].map(settings).duplicated(keep="last")]
    rows = []
    for _, run in mine.iterrows():
        shared = {"run": run["id"], "seed": run["seed"], **{name: run["parameters"].get(name) for name in by}}
        for name, value in run["metrics"].items():
            quantity, dot, setting = name.partition(".")
            if dot:
                rows.append({"setting": setting, "quantity": quantity, "value": value, **shared})
    if not rows:
        raise LookupError(f"no run of notebook {notebook} recorded metrics by setting")
    return pd.DataFrame(rows)
