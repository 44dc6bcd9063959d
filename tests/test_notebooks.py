"""Every notebook runs alone with the tiny profile, writes its record and figures, and measures the golden values."""

import json
from dataclasses import replace
from pathlib import Path

import golden
import nbformat
import pytest

from confitlib import readers
from confitlib.notebooks import all_notebooks, number_of, run_notebook
from confitlib.util import RESULTS_VERSION, read_entries


def tagged(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def with_checks_last(path: Path, folder: Path) -> Path:
    """A copy of a notebook as students get it, and behind its end every solution with the check of its exercise."""
    content, last, check = nbformat.read(path, as_version=4), [], None
    for cell in content.cells:
        check = cell if tagged(cell, "check") else check
        if tagged(cell, "solution"):
            last += [cell, nbformat.v4.new_code_cell(check.source, metadata={"tags": ["repeated"]})]
    content.cells = [cell for cell in content.cells if not tagged(cell, "solution")] + last
    nbformat.write(content, folder / path.name)
    return folder / path.name


def printed(cell) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.mark.notebook
@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_notebook_and_then_its_solutions_run_with_the_tiny_profile(path, tmp_path):
    executed = run_notebook(with_checks_last(path, tmp_path), {"output": str(tmp_path)}, profile="tiny")
    (entry,) = read_entries(tmp_path / "records/runs.jsonl")
    assert (entry["notebook"], entry["profile"]) == (number_of(path), "tiny")
    assert entry["metrics"], "the record holds no metric"
    assert entry["data_hash"], "the record does not say which data it speaks of"
    figures = sorted((tmp_path / "figures").glob("*.png"))
    assert figures, "no figure was saved"
    assert all(figure.with_suffix(".csv").is_file() for figure in figures)
    assert all(figure.name.startswith(f"{number_of(path)}_") for figure in figures)
    cells = nbformat.read(executed, as_version=4).cells
    warned = [output.text for cell in cells for output in cell.get("outputs", [])
              if output.output_type == "stream" and output.name == "stderr" and "Warning" in output.text]  # fmt: skip
    assert not warned, warned
    for cell in cells:
        assert not tagged(cell, "check") or "No answer yet." in printed(cell), "an empty answer is not a wrong one"
        assert not tagged(cell, "solution") or printed(cell), "the solution does not say its answer in words"
        assert not tagged(cell, "repeated") or "No answer yet." not in printed(cell), "the check found no answer"
    moved = golden.moved(entry)
    assert not moved, f"numbers moved: find the bug, or raise a version and run tests/golden.py: {moved}"


def test_golden_values_are_those_of_the_versions_of_today():
    versions = json.loads(golden.FILE.read_text())["versions"]
    assert versions == RESULTS_VERSION, "versions were raised: run every notebook with tiny, then tests/golden.py"


@pytest.mark.notebook
def test_training_notebook_takes_a_corpus_in_the_released_layout(tiny, tmp_path):
    readers.save(replace(tiny, truth=None), tmp_path / "data")
    given = {"data": str(tmp_path / "data"), "output": str(tmp_path), "epochs": 1, "negatives_per_batch": 2}
    run_notebook("03", given, profile="tiny")
    (entry,) = read_entries(tmp_path / "records/runs.jsonl")
    assert entry["data_hash"] == replace(tiny, truth=None).fingerprint()
    assert entry["metrics"]["in-batch negatives.ndcg@10"] > 0
