"""Records of runs, one JSON line each, and claims, which are checked against them."""

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
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from confitlib.util import RESULTS_VERSION, append_line, checked, made_of, project_root, read_entries, read_yaml

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    import pandas as pd

    from confitlib.corpus import Corpus

Scalar = str | int | float | bool | None
Verdict = Literal["OK", "OKish", "FAIL", "MISSING"]

RUNS = "runs.jsonl"
CUSTOM = "custom"  # the profile of a run whose parameters are no profile's
FIXED = read_yaml(Path(__file__).with_name("records.yaml"), dict)  # columns, packages, sources
SECRET_NAME = re.compile(r"(^|_)(api)?(key|token|secret|password|passwd|credentials?)($|_)", re.IGNORECASE)
SECRET_VALUE = re.compile(r"\b(sk-|hf_|ghp_|github_pat_)[A-Za-z0-9_-]{16,}|://[^/\s:@]+:[^/\s@]+@")


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


class Run:
    """One run being recorded: `run = record("05", parameters, output)`, `run.log(map=0.4)`, `run.save()`.

    `folder` receives `records/runs.jsonl`; a relative one starts at the repository root. `entry` is what `save`
    appends, without time and memory, which are taken then. Raises ValueError on parameters that look like secrets.
    """

    def __init__(self, notebook: str, parameters: Mapping[str, Any], folder: str | Path = ".") -> None:
        values = {name: plain(value, f"parameter {name!r}") for name, value in parameters.items()}
        if secret := [name for name in values if SECRET_NAME.search(name) or SECRET_VALUE.search(str(values[name]))]:
            raise ValueError(f"parameters {secret} look like secrets: keep them in environment variables")
        self.path = project_root() / folder / "records" / RUNS
        self.entry: dict[str, Any] = {
            "notebook": notebook, "profile": values.get("profile"), "seed": values.get("seed"), "parameters": values,
            "metrics": {}, "tables": {}, "data_hash": None, "weight_hash": None,
        }  # fmt: skip
        self._started = time.perf_counter()

    def log(self, metrics: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Add metrics, name to number; a name logged again takes the new value. NaN is kept as "undefined"."""
        for name, value in {**(metrics or {}), **more}.items():
            number = plain(value, f"metric {name!r}")
            if isinstance(number, str | list):
                raise TypeError(f"metric {name!r} is {number!r}: a metric is one number; use log_table for more")
            self.entry["metrics"][name] = None if number is None else float(number)

    def log_table(self, name: str, table: pd.DataFrame) -> None:
        """Add a table, so that its figure can be drawn from the record alone; the index is not kept."""
        rows, where = table.rename(columns=str).to_dict("records"), f"table {name!r}, column"
        entries = [{key: plain(value, f"{where} {key!r}") for key, value in row.items()} for row in rows]
        self.entry["tables"][name] = entries

    def describe(self, corpus: Corpus, encoder: Any = None) -> None:
        """Note the content of the data and of the weights that the run used, by their hashes."""
        self.entry["data_hash"] = corpus.fingerprint()
        if encoder is not None:
            self.entry["weight_hash"] = encoder.weight_hash()

    def save(self) -> None:
        """Append the record as one line to `<folder>/records/runs.jsonl`."""
        stamp = {"id": uuid.uuid4().hex[:12], "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        used = {"seconds": round(time.perf_counter() - self._started, 3), **peak_memory()}
        append_line(self.path, {**stamp, **self.entry, **provenance(), **used})


record = Run


def provenance() -> dict[str, Any]:
    """What a run ran on: git commit (None outside git), whether sources differ from it, versions, device."""

    command = ["git", "-C", str(project_root()), "status", "--porcelain=v2", "--branch", "--", *FIXED["sources"]]
    state: dict[str, Any] = {"commit": None, "dirty": None}
    with suppress(OSError, subprocess.CalledProcessError):
        head, *lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        if head != "# branch.oid (initial)":  # there is a commit
            state = {"commit": head.split()[-1], "dirty": any(not line.startswith("#") for line in lines)}
    versions = {"python": platform.python_version()}
    for package in FIXED["packages"]:
        with suppress(metadata.PackageNotFoundError):  # optional in a slim installation; doctor names what is missing
            versions[package] = metadata.version(package)
    return state | {"results_version": dict(RESULTS_VERSION), "versions": versions, "device": device_name()}


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

    `parameters`, `metrics`, `tables` and `versions` are dictionaries, as is `results_version`, NaN in records from
    before results had versions. Raises FileNotFoundError if there is nothing to read.
    """
    import pandas as pd

    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f"no records at {path}: run a notebook first, e.g. `confit run all`")
    entries = [{**entry, "source": file.name} for file in files for entry in read_entries(file)]
    foreign = [entry["source"] for entry in entries if not {"id", "time"} <= {*entry}]
    if foreign or not entries:
        where = path if path.is_file() else foreign or path
        raise ValueError(f"{where} holds no records: name a file that a run wrote")
    frame = pd.DataFrame(entries, columns=FIXED["columns"], dtype=object)
    return frame.sort_values("time", kind="stable", ignore_index=True)


def settings(parameters: Mapping[str, Any], *ignored: str) -> str:
    """The parameters that decide a result, as one comparable text: all but where the output goes and `ignored`."""
    decisive = {name: value for name, value in parameters.items() if name not in ("output", *ignored)}
    return json.dumps(decisive, sort_keys=True)


def metrics_by_setting(records: pd.DataFrame, notebook: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """The metrics of a notebook's runs that are named `quantity.setting`, one row a metric, oldest run first.

    Columns: `setting, quantity, value, run, seed` (the run's own) and the parameters named in `by`, None where a run
    has no such parameter. Of several runs with equal parameters the newest counts. Raises LookupError without a run.
    """
    import pandas as pd

    runs = records[records["notebook"] == notebook]
    rows = []
    for _, run in runs[~runs["parameters"].map(settings).duplicated(keep="last")].iterrows():
        shared = {"run": run["id"], "seed": run["seed"], **{name: run["parameters"].get(name) for name in by}}
        named = [(*name.split(".", 1), value) for name, value in run["metrics"].items() if "." in name]
        rows += [{"setting": setting, "quantity": name, "value": value, **shared} for name, setting, value in named]
    if not rows:
        raise LookupError(f"no run of notebook {notebook} recorded metrics by setting")
    return pd.DataFrame(rows)


@checked
@dataclass(frozen=True)
class Claim:
    """A number that the kit asserts, and how far a new run may be from it.

    A "regression" repeats one number of equal code and seed; a "finding" was measured on other markets (`confit
    claims --measure`) than the one it is checked on. The value is `metric` of the newest record of `notebook` under
    `profile`, less the metric `minus` if given. `reason` says where the tolerance comes from, `source` where the
    statement does: a place in the paper, or "kit". `better` ("higher" or "lower") excuses being beyond the
    tolerance on the good side.
    """

    id: str
    statement: str
    notebook: str
    profile: str
    metric: str
    expected: float
    tolerance: float
    reason: str
    source: str
    minus: str | None = None
    better: Literal["higher", "lower"] | None = None
    kind: Literal["finding", "regression"] = "finding"

    def __post_init__(self) -> None:
        empty = [name for name, value in vars(self).items() if value == ""]
        checks = {
            "expected and tolerance must be finite, tolerance not negative": math.isfinite(self.expected)
            and 0 <= self.tolerance < math.inf,
            "the tolerance reaches from the expected value to zero, so it hardly fails: average over more seeds, or "
            "drop the claim": not self.expected or self.tolerance < abs(self.expected),
            f"{' and '.join(empty)} must be given": not empty,
        }
        if problems := [problem for problem, good in checks.items() if not good]:
            raise ValueError(f"claim {self.id!r}: {'; '.join(problems)}")

    def value(self, metrics: Mapping[str, float | None]) -> float | None:
        """The claimed quantity in a record's metrics, or None if it is absent or undefined there."""
        left, right = metrics.get(self.metric), metrics.get(self.minus) if self.minus else 0.0
        return None if left is None or right is None else left - right


def load_claims(path: str | Path) -> list[Claim]:
    """The claims of a YAML list; raises ValueError naming the entry and what is missing, unknown or wrong in it."""
    claims: list[Claim] = []
    for number, entry in enumerate(read_yaml(path, list), 1):
        claims.append(made_of(Claim, entry, f"{path}, entry {number}", "Correct the entry."))
        if claims[-1].id in [claim.id for claim in claims[:-1]]:
            raise ValueError(f"{path}, entry {number}: claim {claims[-1].id!r} appears more than once: rename it")
    return claims


def judge(claim: Claim, value: float | None) -> tuple[Verdict, str]:
    """Verdict on a value and the reason for it.

    OK: within the tolerance. OKish: within twice the tolerance, or beyond it on the declared good
    side, which deserves a look because leakage shows like that. FAIL: everything else, and always
    when a claimed difference has lost its sign. MISSING: no value.
    """
    if value is None:
        return "MISSING", f"no {claim.profile} record of notebook {claim.notebook} holds the metric"
    away = value - claim.expected
    if claim.minus and claim.expected and value * claim.expected <= 0:
        return "FAIL", "the order is reversed"
    if abs(away) <= claim.tolerance + 1e-9:  # room for the rounding of the subtraction
        return "OK", ""
    if claim.better and (away > 0) == (claim.better == "higher"):
        return "OKish", f"better than expected by {abs(away):.4g}: look for leakage"
    if abs(away) <= 2 * claim.tolerance + 1e-9:
        return "OKish", f"off by {away:+.4g}, within twice the tolerance"
    return "FAIL", f"off by {away:+.4g}"


def check_claims(records: pd.DataFrame, claims: Sequence[Claim]) -> pd.DataFrame:
    """Every claim against the newest record of its notebook and profile.

    Returns one row a claim: its fields, value, verdict and note.
    """
    import pandas as pd

    rows = []
    for claim in claims:
        runs = records[(records["notebook"] == claim.notebook) & (records["profile"] == claim.profile)]
        value = claim.value(runs["metrics"].iloc[-1]) if len(runs) else None
        verdict, note = judge(claim, value)
        rows.append({**asdict(claim), "value": value, "verdict": verdict, "note": note})
    return pd.DataFrame(rows)


def measure_claim(values: Sequence[float]) -> tuple[float, float, float]:
    """Expected value, standard deviation and tolerance of a claim from one measured value per seed.

    The expectation is the mean. The tolerance is the half-width of Student's 95 % prediction interval for one new
    seed: t(n-1) · s · sqrt(1 + 1/n), with s the sample standard deviation. A new run of unchanged code therefore
    falls outside in one case of twenty. Fewer than three values, which `measure_claims` refuses, say nothing.
    """
    import numpy as np
    from scipy import stats

    n, sd = len(values), float(np.std(values, ddof=1))
    return float(np.mean(values)), sd, float(stats.t.ppf(0.975, n - 1)) * sd * math.sqrt(1 + 1 / n)


def measure_claims(records: pd.DataFrame, claims: Sequence[Claim]) -> pd.DataFrame:
    """Expectation, standard deviation and tolerance of every finding from the newest record of each seed.

    Returns one row a finding whose notebook has records: id, seeds (how many), expected, sd, tolerance. Raises
    ValueError naming a claim with fewer than three seeds, and one whose records are dirty or differ in more than
    the seed.
    """
    import pandas as pd

    rows = []
    for claim in claims:
        runs = records[(records["notebook"] == claim.notebook) & records["profile"].isin([claim.profile, CUSTOM])]
        if claim.kind == "regression" or runs.empty:
            continue
        runs = runs.drop_duplicates("seed", keep="last")
        values = [value for metrics in runs["metrics"] if (value := claim.value(metrics)) is not None]
        dirty = sum(flag is True for flag in runs["dirty"])
        versions = runs["results_version"].map(repr).nunique()
        others = runs["parameters"].map(lambda given: settings(given, "seed")).nunique()
        checks = {
            f"{dirty} of its records are dirty. Commit, then run the seeds again.": dirty == 0,
            "its records have different versions of results. Run all seeds again.": versions <= 1,
            "its records differ in more than the seed. Name the file of a sweep.": others <= 1,
            f"{len(values)} values cannot measure a spread: run at least three seeds, better five": len(values) > 2,
        }
        for problem in [problem for problem, good in checks.items() if not good]:
            raise ValueError(f"claim {claim.id!r}: {problem}")
        expected, sd, tolerance = measure_claim(values)
        rows.append({"id": claim.id, "seeds": len(values), "expected": expected, "sd": sd, "tolerance": tolerance})
    return pd.DataFrame(rows)
