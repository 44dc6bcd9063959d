"""Sweeps: what they plan, record and repeat, and what survives when one is killed."""

import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from miniature import PARAMETERS_CELL, RECORD_CELL, write_notebook

from confitlib import notebooks
from confitlib.notebooks import NotebookError
from confitlib.util import RESULTS_VERSION, read_entries

SWEEP = {"notebook": "05", "profile": "tiny", "grid": {"rate": [0.1, 0.2]}, "seeds": [0, 1]}


def plan(project: Path, **changes: object) -> list[notebooks.SweepRun]:
    path = project / "sweeps/rates.yaml"
    path.write_text(json.dumps({**SWEEP, **changes}))
    return notebooks.plan_sweep(path)


def test_a_sweep_crosses_its_grid_with_its_seeds(project):
    runs = plan(project)
    assert [(run.parameters["rate"], run.parameters["seed"]) for run in runs] == [
        (0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1),
    ]  # fmt: skip
    assert len({run.key for run in runs}) == 4
    with pytest.raises(NotebookError, match="unknown workers"):
        plan(project, workers=3)
    with pytest.raises(NotebookError, match="unknown size"):
        plan(project, grid={"size": [1]})
    with pytest.raises(ValueError, match="1,000,000 runs, at most 10,000"):
        plan(project, grid={"rate": [0.1] * 1000, "bands": [[]] * 1000}, seeds=[0])


def test_seeds_may_stand_in_the_grid_or_beside_it_but_not_in_both(project):
    (project / "sweeps/rates.yaml").write_text('{notebook: "05", profile: tiny, grid: {seed: [3, 4]}}')
    assert [run.parameters["seed"] for run in notebooks.plan_sweep("sweeps/rates.yaml")] == [3, 4]
    with pytest.raises(ValueError, match="leave one of them out"):
        plan(project, grid={"seed": [3, 4]}, seeds=[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [("notebook: [\nprofile: }", "rates.yaml, line 2: not YAML"), ("[1, 2]", "expected a mapping"),
     ("", "notebook is None: name it"),
     ("{notebook: '05', grid: [1]}", "grid is"), ("{notebook: '05', grid: {rate: 0.1}}", "rate is 0.1, expected"),
     ("{notebook: '05', seeds: 3}", "seed is 3, expected a list"), ("notebook: 05", "name it in quotes"),
     ("notebook: &a ['05']\nprofile: *a", "line 2: not YAML .an alias"),
     ("{notebook: '05', seeds: [0], seeds: [1]}", "'seeds' is there twice"),
     ("[" * 5000, "not YAML .maximum recursion")],
)  # fmt: skip
def test_a_sweep_file_of_another_shape_is_refused_by_name(text, message, project):
    (project / "sweeps/rates.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        notebooks.plan_sweep("sweeps/rates.yaml")


def test_a_sweep_is_not_mixed_up_with_single_runs(project):
    (project / "sweeps/runs.yaml").write_text(json.dumps(SWEEP))
    with pytest.raises(ValueError, match="another name"):
        notebooks.run_sweep("sweeps/runs.yaml")


def test_a_run_is_finished_only_for_the_code_and_data_it_ran_on(project, monkeypatch):
    keys = [plan(project)[0].key]
    (project / "profiles/tiny.yaml").write_text("common: {seed: 7, output: elsewhere}\n'05': {rate: 0.25}\n")
    assert plan(project)[0].key == keys[0]  # where the output goes decides nothing
    monkeypatch.setitem(RESULTS_VERSION, "mining", 10_000)
    keys.append(plan(project)[0].key)
    path = project / "notebooks/05_percentile.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("prose"))
    nbformat.write(notebook, path)
    assert plan(project)[0].key == keys[-1]  # nor does prose
    write_notebook(path, RECORD_CELL, "changed = True")
    keys.append(plan(project)[0].key)
    extended = PARAMETERS_CELL + 'data: str = "mine.csv"  # your file'
    write_notebook(project / "notebooks/05_percentile.ipynb", RECORD_CELL, parameters=extended)
    for text in ("a", "b"):
        (project / "mine.csv").write_text(text)
        keys.append(plan(project, grid={"data": ["mine.csv"]})[0].key)
    assert len(set(keys)) == len(keys)


STAND_IN = """
import json, pathlib, sys, time
folder, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
while seed == 1 and not pathlib.Path("go").exists():
    time.sleep(0.05)
if seed == 2 and not pathlib.Path("fixed").exists():
    sys.exit("noise\\n[FAIL] 05_percentile.ipynb, cell 2: not yet")
if seed != 3:
    (folder / "records").mkdir()
    (folder / "records/runs.jsonl").write_text(json.dumps({"seed": seed}) + "\\n")
"""


@pytest.fixture
def stand_in(project, monkeypatch):
    """Sweeps run a script in place of `confit run`: 1 waits for `go`, 2 fails until `fixed`, 3 records nothing."""

    def command(run: notebooks.SweepRun, folder: Path) -> list[str]:
        return [sys.executable, "-c", STAND_IN, str(folder), str(run.parameters["seed"])]

    monkeypatch.setattr(notebooks, "run_command", command)
    return project


@pytest.mark.slow
def test_a_sweep_records_what_worked_names_what_failed_and_repeats_only_that(stand_in):
    (stand_in / "go").touch()
    plan(stand_in, grid={}, seeds=[0, 1, 2, 3])
    first = notebooks.run_sweep("sweeps/rates.yaml", workers=2)
    assert [run.state for run in first] == ["done", "done", "failed", "failed"]
    assert "cell 2: not yet" in first[2].reason and "log.txt" in first[2].reason
    assert "no record" in first[3].reason
    (stand_in / "fixed").touch()
    second = notebooks.run_sweep("sweeps/rates.yaml")
    assert [run.state for run in second] == ["done", "done", "done", "failed"] and second[0].seconds == 0
    entries = read_entries(stand_in / "records/rates.jsonl")
    assert sorted(entry["seed"] for entry in entries) == [0, 1, 2]
    assert {entry["key"] for entry in entries} == {run.key for run in first[:3]}


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_stopped(stand_in):
    plan(stand_in, grid={})
    recorded = stand_in / "records/rates.jsonl"
    sweep = multiprocessing.get_context("fork").Process(target=notebooks.run_sweep, args=["sweeps/rates.yaml"])
    sweep.start()
    while not recorded.is_file() or not recorded.read_bytes():
        assert sweep.is_alive(), "the sweep ended before its first record"
        time.sleep(0.05)
    with pytest.raises(NotebookError, match="another process"):
        notebooks.run_sweep("sweeps/rates.yaml")
    sweep.kill()
    sweep.join()
    (stand_in / "go").touch()
    assert [run.state for run in notebooks.run_sweep("sweeps/rates.yaml")] == ["done", "done"]
    assert [entry["seed"] for entry in read_entries(recorded)] == [0, 1]


def test_a_finished_sweep_starts_nothing_and_loads_nothing_heavy(project):
    (project / "records").mkdir()
    lines = [json.dumps({"key": run.key}) for run in plan(project)]
    (project / "records/rates.jsonl").write_text("\n".join(lines) + "\n")
    code = """if True:
        import sys
        from confitlib.notebooks import run_sweep
        print(*(run.state for run in run_sweep("sweeps/rates.yaml")))
        print({"torch", "papermill", "pandas"} & {*sys.modules})
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["done done done done", "set()"]
