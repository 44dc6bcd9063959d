"""Everything that wants a CUDA card, one step after the other, each in a process of its own.

A step whose result lies in the folder is not run again, so a run that was cut short goes on. The notebooks' code runs
as plain Python, for machines without Jupyter. `--quick` tries the steps with small inputs, also without a card.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from confitlib import notebooks
from confitlib.records import RUNS
from confitlib.util import short_path

TRAINING = "-m benchmarks.training --device {device} --max-length 512 --json {result}.json"
STEPS = {  # the arguments of Python
    "mining": "-m benchmarks.mining --device {device} --json {result}.json",
    "e5_base": TRAINING + " --encoder random:e5-base --batch 64 --pairs 2048",
    "minilm": TRAINING + " --batch 64 --pairs 2048",
    "03": "-m benchmarks.card --notebook 03 {result}",
    "05": "-m benchmarks.card --notebook 05 {result}",
}
QUICK = {name: f"{STEPS[name]} --quick" for name in ("mining", "minilm", "03", "05")}
QUICK["minilm"] = TRAINING + " --quick"
CHANGES: dict[str, dict[str, Any]] = {"05": {"strategies": [], "workers": 4}}  # bands alone; trainings share the card
QUIET = {"MPLBACKEND": "agg", "TQDM_DISABLE": "1"}


def main() -> None:
    """Run the steps that are missing, and say how each ended."""
    options = parse()
    if options.notebook:
        run_notebook(options.notebook, "tiny" if options.quick else "gpu", options.folder)
        return
    if not (options.quick or torch.cuda.is_available()):
        raise SystemExit("torch sees no CUDA card here; --quick tries the steps on the CPU")
    end = time.monotonic() + 60 * options.minutes
    options.folder.mkdir(parents=True, exist_ok=True)
    steps = QUICK if options.quick else STEPS
    for name, arguments in steps.items():
        started = time.monotonic()
        state = "done before" if finished(options.folder / name) else step(options.folder / name, arguments, end)
        print(f"{name}: {state}, {time.monotonic() - started:.0f} s", flush=True)
    if not all(finished(options.folder / name) for name in steps):
        raise SystemExit("not all is done: read the logs, then run this again")


def parse() -> argparse.Namespace:
    """Where results go, and how long the whole may take."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="receives a JSON file or a folder for each step, and its log")
    parser.add_argument("--minutes", type=float, default=600, help="what is not done by then is stopped")
    parser.add_argument("--quick", action="store_true", help="small inputs, on the CPU if there is no card")
    parser.add_argument("--notebook", help=argparse.SUPPRESS)
    return parser.parse_args()


def finished(result: Path) -> bool:
    """Whether a step has left its figures, or its notebook a record: what both write last."""
    return result.with_suffix(".json").exists() or (result / "records" / RUNS).exists()


def step(result: Path, arguments: str, end: float) -> str:
    """Run one step, to its end or the time's; how it ended."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    command = [sys.executable, *(word.format(device=device, result=result) for word in arguments.split())]
    with result.with_suffix(".log").open("wb") as log:
        try:
            left = max(0.0, end - time.monotonic())
            subprocess.run(command, check=True, stdout=log, stderr=log, timeout=left, env=os.environ | QUIET)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            return f"failed ({type(error).__name__}, see {log.name})"
    return "done"


def run_notebook(number: str, profile: str, output: Path) -> None:
    """Run the code cells of a notebook in this process, with the parameters of a profile and `CHANGES`."""
    path = notebooks.find_notebook(number)
    values = notebooks.profile_parameters(profile, path) | CHANGES.get(number, {})
    values = notebooks.check_parameters(path, values | {"output": short_path(output.resolve())})
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebooks.cells_of(path):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), namespace)
            if "parameters" in cell["metadata"].get("tags", []):
                namespace |= values


if __name__ == "__main__":
    main()
