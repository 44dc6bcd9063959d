"""A repository in miniature, for tests of what runs notebooks."""

from pathlib import Path

import nbformat

PARAMETERS_CELL = """\
profile: str = "laptop"  # which profile this is
seed: int = 0  # of every random draw
rate: float = 0.5  # learning rate
bands: list = [[0.0, 0.01]]  # percentile bands
output: str = "."  # receives records/ and figures/
"""
RECORD_CELL = """\
from confitlib.notebooks import current_parameters
from confitlib.records import record
run = record("05", current_parameters("05", globals()), output)
run.log(value=seed * rate)
run.save()
"""


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS_CELL) -> None:
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[tagged, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


def make_project(root: Path, *cells: str) -> None:
    """A repository in miniature with one notebook, 05, of the given cells, and one profile."""
    for folder in ("notebooks", "profiles", "sweeps"):
        (root / folder).mkdir()
    write_notebook(root / "notebooks/05_percentile.ipynb", *(cells or [RECORD_CELL]))
    (root / "profiles/tiny.yaml").write_text("common: {seed: 7, output: build/tiny}\n'05': {rate: 0.25}\n")
    (root / "requirements.lock").write_text("numpy==1.0\n")
