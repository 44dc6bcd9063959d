"""The notebook runner: strict about parameters, honest about failures, resumable in sweeps."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import pytest

from confitlib import lab, sweeps
from confitlib.lab import NotebookError
from confitlib.records import load_records, read_entries

PARAMETERS_CELL = """\
profile: str = "laptop"  # which profile this is
seed: int = 0  # of every random draw
rate: float = 0.5  # learning rate
bands: list = [[0.0, 0.01]]  # percentile bands
output: str = "."  # receives records/ and figures/
"""
RECORD_CELL = """\
from confitlib.lab import current_parameters
from confitlib.records import record
with record("05", current_parameters("05", globals()), output) as run:
    run.log(value=seed * rate)
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


@pytest.fixture
def project(tmp_path, monkeypatch):
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_unknown_notebooks_and_profiles_name_the_known_ones(project):
    with pytest.raises(NotebookError, match="05_percentile"):
        lab.find_notebook("06")
    with pytest.raises(NotebookError, match="known: tiny"):
        lab.profile_parameters("laptop", "05")


def test_declared_parameters_agree_with_papermill_where_papermill_can_read_them(project):
    path = lab.find_notebook("05")
    seen = papermill.inspect_notebook(path)
    declared = lab.declared_parameters(path)
    assert {name: entry["inferred_type_name"] for name, entry in seen.items()} == {
        name: parameter.type for name, parameter in declared.items()
    }
    assert declared["bands"].default == [[0.0, 0.01]]


def test_a_comment_with_an_equals_sign_hides_no_parameter(project):
    path = project / "notebooks/06_other.ipynb"
    write_notebook(path, parameters="seed: int = 0  # 0 == the reference\nn = 3")
    assert lab.declared_parameters(path) == {"seed": ("int", 0), "n": ("int", 3)}


@pytest.mark.parametrize("cell", ["seed: int = 1 + 1", "import os", "seed: int = range(3)"])
def test_a_parameters_cell_holds_literals_only(cell, project):
    path = project / "notebooks/06_other.ipynb"
    write_notebook(path, parameters=cell)
    with pytest.raises(NotebookError, match="06_other"):
        lab.declared_parameters(path)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [({"ratee": 1.0}, NotebookError, "unknown ratee; known: .*rate, seed"),
     ({"seed": "1"}, NotebookError, "seed is int, got '1'"), ({"seed": True}, NotebookError, "seed is int"),
     ({"bands": 0.1}, NotebookError, "bands is list"), ({"rate": {"a": 1}}, TypeError, "rate"),
     ({"output": Path("x")}, TypeError, "output")],
)  # fmt: skip
def test_wrong_parameters_stop_before_anything_runs(parameters, error, message, project):
    with pytest.raises(error, match=message):
        lab.run_notebook("05", parameters, profile="tiny")
    assert not (project / "build").exists()


def test_numpy_and_tuples_become_what_papermill_can_inject(project):
    import numpy as np

    values = lab.check_parameters("05", {"seed": np.int64(3), "bands": ((0.0, np.float64(0.5)),), "rate": 1})
    assert values == {"seed": 3, "bands": [[0.0, 0.5]], "rate": 1} and type(values["seed"]) is int


def test_command_line_values_follow_the_declared_type(project):
    values = {name: lab.parse_value("05", name, text) for name, text in
              {"rate": "1e-5", "seed": "4", "bands": "[[0, 1]]", "output": "05"}.items()}  # fmt: skip
    assert values == {"rate": 1e-5, "seed": 4, "bands": [[0, 1]], "output": "05"}


def test_a_profile_sets_common_parameters_only_where_a_notebook_has_them(project):
    write_notebook(project / "notebooks/06_other.ipynb", parameters="seed: int = 0  # draws")
    assert lab.profile_parameters("tiny", "06") == {"seed": 7}
    expected = {"profile": "tiny", "seed": 7, "output": "build/tiny", "rate": 0.25}
    assert lab.profile_parameters("tiny", "05") == expected


@pytest.mark.parametrize(
    ("profile", "message"),
    [("common: {sed: 1}", "'common'.*unknown sed"), ("'05': {preset: tiny}", "'05'.*unknown preset"),
     ("5: {seed: 1}", "names: unknown 5; known: 05, common")],
)  # fmt: skip
def test_a_profile_that_sets_what_nobody_has_is_refused(profile, message, project):
    (project / "profiles/odd.yaml").write_text(profile)
    with pytest.raises(NotebookError, match=message):
        lab.profile_parameters("odd", "05")


def test_this_environments_kernel_wins_over_one_registered_by_the_user(project, monkeypatch):
    spec = project / "user/kernels/python3"
    spec.mkdir(parents=True)
    kernel = {"argv": ["/elsewhere/python"], "display_name": "x", "language": "python"}
    spec.joinpath("kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(project / "user"))
    assert lab.kernel_command()[0] == sys.executable
    assert os.environ["JUPYTER_PATH"] == str(project / "user")


def test_a_run_uses_profile_and_overrides_and_leaves_notebook_page_and_record(project, monkeypatch):
    where = "import os, sys\nprint(sys.executable, os.getcwd(), output)"
    write_notebook(project / "notebooks/05_percentile.ipynb", where, RECORD_CELL)
    monkeypatch.chdir(project / "notebooks")
    executed = lab.run_notebook("05", {"seed": 4}, profile="tiny")
    assert executed.parent == project / "build/notebooks/tiny" and executed.with_suffix(".html").is_file()
    printed = nbformat.read(executed, as_version=4).cells[2].outputs[0].text
    assert printed.split() == [sys.executable, str(project), "build/tiny"]
    row = load_records(project / "build/tiny/records/runs.jsonl").iloc[0]
    assert row["parameters"] == {
        "profile": "tiny", "seed": 4, "rate": 0.25, "bands": [[0.0, 0.01]], "output": "build/tiny",
    }  # fmt: skip
    assert row["metrics"] == {"value": 1.0}
    assert len(lab.standard_records(load_records(executed.parents[2] / "tiny/records"), "tiny")) == 1


def test_records_of_other_parameters_do_not_speak_for_the_profile(project):
    import pandas as pd

    own = lab._settled(lab.find_notebook("05"), "tiny")
    rows = [json.loads(own) | {"seed": 9, "output": "."}, json.loads(own) | {"rate": 0.1}]
    records = pd.DataFrame({"notebook": "05", "profile": "tiny", "parameters": rows})
    assert list(lab.standard_records(records, "tiny").index) == [0]


@pytest.mark.parametrize(
    ("cell", "error"), [("1\nint('many')", "ValueError: invalid literal"), ("import os\nos._exit(1)", "died")]
)
def test_a_failing_cell_is_named_and_its_notebook_stays(cell, error, project):
    write_notebook(project / "notebooks/05_percentile.ipynb", "1 + 1", cell, "'never reached'")
    with pytest.raises(NotebookError, match=error) as caught:
        lab.run_notebook("05", profile="tiny")
    assert "05_percentile.ipynb, cell 3" in str(caught.value)
    (executed,) = (project / "build/notebooks/tiny").glob("*.ipynb")
    assert str(executed.relative_to(project)) in str(caught.value)


SWEEP = {"notebook": "05", "profile": "tiny", "grid": {"rate": [0.1, 0.2]}, "seeds": [0, 1]}


def plan(project: Path, **changes: object) -> list[sweeps.SweepRun]:
    path = project / "sweeps/rates.yaml"
    path.write_text(json.dumps({**SWEEP, **changes}))
    return sweeps.plan_sweep(path)


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


def test_a_run_is_finished_only_for_the_code_and_data_it_ran_on(project):
    keys = [plan(project)[0].key]
    (project / "profiles/tiny.yaml").write_text("common: {seed: 7, output: elsewhere}\n'05': {rate: 0.25}\n")
    assert plan(project)[0].key == keys[0]  # where the output goes decides nothing
    (project / "requirements.lock").write_text("numpy==2.0\n")
    keys.append(plan(project)[0].key)
    write_notebook(project / "notebooks/05_percentile.ipynb", RECORD_CELL, "changed = True")
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

    def command(run: sweeps.SweepRun, folder: Path) -> list[str]:
        return [sys.executable, "-c", STAND_IN, str(folder), str(run.parameters["seed"])]

    monkeypatch.setattr(sweeps, "_command", command)
    return project


def test_a_sweep_records_what_worked_names_what_failed_and_repeats_only_that(stand_in):
    (stand_in / "go").touch()
    plan(stand_in, grid={}, seeds=[0, 1, 2, 3])
    first = sweeps.run_sweep("sweeps/rates.yaml", workers=2)
    assert [run.state for run in first] == ["done", "done", "failed", "failed"]
    assert "cell 2: not yet" in first[2].reason and "log.txt" in first[2].reason
    assert "no record" in first[3].reason
    (stand_in / "fixed").touch()
    second = sweeps.run_sweep("sweeps/rates.yaml")
    assert [run.state for run in second] == ["done", "done", "done", "failed"] and second[0].seconds == 0
    entries = read_entries(stand_in / "records/rates.jsonl")
    assert sorted(entry["seed"] for entry in entries) == [0, 1, 2]
    assert {entry["key"] for entry in entries} == {run.key for run in first[:3]}


def test_a_killed_sweep_goes_on_where_it_stopped(stand_in):
    plan(stand_in, grid={})
    recorded = stand_in / "records/rates.jsonl"
    sweep = multiprocessing.get_context("fork").Process(target=sweeps.run_sweep, args=["sweeps/rates.yaml"])
    sweep.start()
    while not recorded.is_file() or not recorded.read_bytes():
        assert sweep.is_alive(), "the sweep ended before its first record"
        time.sleep(0.05)
    with pytest.raises(NotebookError, match="another process"):
        sweeps.run_sweep("sweeps/rates.yaml")
    sweep.kill()
    sweep.join()
    (stand_in / "go").touch()
    assert [run.state for run in sweeps.run_sweep("sweeps/rates.yaml")] == ["done", "done"]
    assert [entry["seed"] for entry in read_entries(recorded)] == [0, 1]


def test_a_finished_sweep_starts_nothing_and_loads_nothing_heavy(project):
    (project / "records").mkdir()
    lines = [json.dumps({"key": run.key}) for run in plan(project)]
    (project / "records/rates.jsonl").write_text("\n".join(lines) + "\n")
    code = """if True:
        import sys
        from confitlib.sweeps import run_sweep
        print(*(run.state for run in run_sweep("sweeps/rates.yaml")))
        print({"torch", "papermill", "pandas"} & {*sys.modules})
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["done done done done", "set()"]
