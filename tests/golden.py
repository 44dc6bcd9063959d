"""Golden values: what every notebook measures with the tiny profile. `python tests/golden.py` writes them anew.

Run it after `confit run all --profile tiny`, once you know why the numbers changed and have raised the version of the
module that changed them (`RESULTS_VERSION` in confitlib/util.py).
"""

import json
import re
from pathlib import Path

from confitlib.util import RESULTS_VERSION, read_entries

FILE = Path(__file__).with_name("golden.json")
TIMED = re.compile(r"second|pairs/s|factor|exponent|floor|speed_up")  # what a clock decides
TOLERANCE = 0.002  # equal seeds give equal numbers on one machine; others round products differently


def measured(entry: dict) -> dict[str, float | None]:
    """The metrics of a record that no clock decides."""
    numbers = {name: value for name, value in entry["metrics"].items() if not TIMED.search(name)}
    return {name: None if value is None else round(value, 6) for name, value in numbers.items()}


def moved(entry: dict) -> dict[str, tuple[float | None, float | None]]:
    """Metrics of a record that are not the golden ones: name to golden and measured value (None: undefined)."""
    old, new = json.loads(FILE.read_text())["metrics"][entry["notebook"]], measured(entry)
    pairs = {name: (old.get(name), new.get(name)) for name in old.keys() | new.keys()}
    return {
        name: (before, after)
        for name, (before, after) in pairs.items()
        if before != after and (before is None or after is None or abs(before - after) > TOLERANCE)
    }


if __name__ == "__main__":
    latest = {entry["notebook"]: measured(entry) for entry in read_entries(Path("build/tiny/records/runs.jsonl"))}
    FILE.write_text(json.dumps({"versions": RESULTS_VERSION, "metrics": latest}, indent=1, sort_keys=True) + "\n")
