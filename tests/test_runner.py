"""The notebook runner: strict about parameters, honest about failures."""

import json
import os
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from jupyter_client.manager import KernelManager
from miniature import RECORD_CELL, write_notebook

from confitlib import notebooks
from confitlib.notebooks import NotebookError
from confitlib.records import load_records
from confitlib.util import RESULTS_VERSION


def test_unknown_notebooks_and_profiles_name_the_known_ones(project):
    with pytest.raises(NotebookError, match="05_percentile"):
        notebooks.find_notebook("06")
    with pytest.raises(NotebookError, match="known: tiny"):
        notebooks.profile_parameters("laptop", "05")


def test_declared_parameters_agree_with_papermill_where_papermill_can_read_them(project):
    path = notebooks.find_notebook("05")
    seen = papermill.inspect_notebook(path)
    declared = notebooks.declared_parameters(path)
    assert {name: entry["inferred_type_name"] for name, entry in seen.items()} == {
        name: kind for name, (kind, _) in declared.items()
    }
    assert declared["bands"][1] == [[0.0, 0.01]]


def test_a_comment_with_an_equals_sign_hides_no_parameter(project):
    path = project / "notebooks/06_other.ipynb"
    write_notebook(path, parameters="seed: int = 0  # 0 == the reference\nn = 3")
    assert notebooks.declared_parameters(path) == {"seed": ("int", 0), "n": ("int", 3)}


@pytest.mark.parametrize("cell", ["seed: int = 1 + 1", "import os", "seed: int = range(3)"])
def test_a_parameters_cell_holds_literals_only(cell, project):
    path = project / "notebooks/06_other.ipynb"
    write_notebook(path, parameters=cell)
    with pytest.raises(NotebookError, match="06_other"):
        notebooks.declared_parameters(path)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [({"ratee": 1.0}, NotebookError, "unknown ratee; known: .*rate, seed"),
     ({"seed": "1"}, NotebookError, "seed='1' must be int"), ({"seed": True}, NotebookError, "seed=True must be int"),
     ({"bands": 0.1}, NotebookError, "bands=0.1 must be list"), ({"rate": {"a": 1}}, TypeError, "rate"),
     ({"output": Path("x")}, TypeError, "output")],
)  # fmt: skip
def test_wrong_parameters_stop_before_anything_runs(parameters, error, message, project):
    with pytest.raises(error, match=message):
        notebooks.run_notebook("05", parameters, profile="tiny")
    assert not (project / "build").exists()


def test_numpy_and_tuples_become_what_papermill_can_inject(project):
    import numpy as np

    values = notebooks.check_parameters("05", {"seed": np.int64(3), "bands": ((0.0, np.float64(0.5)),), "rate": 1})
    assert values == {"seed": 3, "bands": [[0.0, 0.5]], "rate": 1} and type(values["seed"]) is int


def test_command_line_values_follow_the_declared_type(project):
    values = {name: notebooks.parse_value("05", name, text) for name, text in
              {"rate": "1e-5", "seed": "4", "bands": "[[0, 1]]", "output": "05"}.items()}  # fmt: skip
    assert values == {"rate": 1e-5, "seed": 4, "bands": [[0, 1]], "output": "05"}


def test_a_profile_sets_common_parameters_only_where_a_notebook_has_them(project):
    write_notebook(project / "notebooks/06_other.ipynb", parameters="seed: int = 0  # draws")
    assert notebooks.profile_parameters("tiny", "06") == {"seed": 7}
    expected = {"profile": "tiny", "seed": 7, "output": "build/tiny", "rate": 0.25}
    assert notebooks.profile_parameters("tiny", "05") == expected


@pytest.mark.parametrize(
    ("profile", "message"),
    [("common: {sed: 1}", "'common'.*unknown sed"), ("'05': {preset: tiny}", "'05'.*unknown preset"),
     ("5: {seed: 1}", "names: unknown 5; known: 05, common")],
)  # fmt: skip
def test_a_profile_that_sets_what_nobody_has_is_refused(profile, message, project):
    (project / "profiles/odd.yaml").write_text(profile)
    with pytest.raises(NotebookError, match=message):
        notebooks.profile_parameters("odd", "05")


@pytest.mark.parametrize(("cell", "message"), [("<<<<<<< ours", "is no notebook"), ("seed: int = (", "not Python")])
def test_a_broken_notebook_is_named_by_whoever_meets_it(cell, message, project):
    path = project / "notebooks/07_broken.ipynb"
    write_notebook(path, parameters=cell)
    if message == "is no notebook":
        path.write_text(f"{cell}\n{path.read_text()}")
    with pytest.raises(NotebookError, match=f"07_broken.ipynb.*{message}"):
        notebooks.profile_parameters("tiny", "05")


@pytest.mark.parametrize(
    ("text", "message"),
    [("common: [", "odd.yaml, line 1: not YAML"), ("- 1", "a mapping"), ("'05': [1]", "section '05'")],
)
def test_a_profile_of_another_shape_is_refused_by_name(text, message, project):
    (project / "profiles/odd.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        notebooks.profile_parameters("odd", "05")


def test_this_environments_kernel_wins_over_one_registered_by_the_user(project, monkeypatch):
    spec = project / "user/kernels/python3"
    spec.mkdir(parents=True)
    kernel = {"argv": ["/elsewhere/python"], "display_name": "x", "language": "python"}
    spec.joinpath("kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(project / "user"))
    with notebooks.own_kernel():
        assert KernelManager(kernel_name=notebooks.KERNEL).format_kernel_cmd()[0] == sys.executable
    assert os.environ["JUPYTER_PATH"] == str(project / "user")


@pytest.mark.slow
def test_a_run_uses_profile_and_overrides_and_leaves_notebook_page_and_record(project, monkeypatch):
    where = "import os, sys\nprint(sys.executable, os.getcwd(), output)"
    write_notebook(project / "notebooks/05_percentile.ipynb", where, RECORD_CELL)
    monkeypatch.chdir(project / "notebooks")
    executed = notebooks.run_notebook("05", {"seed": 4}, profile="tiny")
    assert executed.parent == project / "build/notebooks/tiny"
    printed = nbformat.read(executed, as_version=4).cells[2].outputs[0].text
    assert printed.split() == [sys.executable, str(project), "build/tiny"]
    row = load_records(project / "build/tiny/records/runs.jsonl").iloc[0]
    assert row["parameters"] == {
        "profile": "tiny", "seed": 4, "rate": 0.25, "bands": [[0.0, 0.01]], "output": "build/tiny",
    }  # fmt: skip
    assert row["metrics"] == {"value": 1.0} and row["results_version"] == RESULTS_VERSION
    assert len(notebooks.standard_records(load_records(executed.parents[2] / "tiny/records"), "tiny")) == 1


def test_one_line_switches_the_profile_of_a_notebook(project):
    values = {
        name: default for name, (_, default) in notebooks.declared_parameters(notebooks.find_notebook("05")).items()
    }
    with pytest.raises(NotebookError, match=r"output, profile, rate.*run the parameters cell first"):
        notebooks.use("tiny", "05", {"bands": [], "seed": 3})
    space = values | {"seed": 3, "output": "build/mine", "rate": 0.9, "kept": 1}
    notebooks.use("tiny", "05", space)
    assert space == values | {"profile": "tiny", "rate": 0.25, "seed": 3, "output": "build/mine", "kept": 1}
    assert notebooks.current_parameters("05", space)["profile"] == "tiny"
    with pytest.raises(NotebookError, match="no profile 'tinny'; known: tiny"):
        notebooks.use("tinny", "05", space)


def test_records_of_other_parameters_do_not_speak_for_the_profile(project):
    import pandas as pd

    own = notebooks.standard_settings("tiny", notebooks.find_notebook("05"))
    rows = [json.loads(own) | {"seed": 9, "output": "."}, json.loads(own) | {"rate": 0.1}]
    records = pd.DataFrame({"notebook": "05", "profile": "tiny", "parameters": rows})
    assert list(notebooks.standard_records(records, "tiny").index) == [0]


def test_a_record_names_the_profile_only_while_its_parameters_are_the_profiles(project):
    values = {"profile": "tiny", "seed": 9, "rate": 0.25, "bands": [[0.0, 0.01]], "output": "elsewhere"}
    assert notebooks.current_parameters("05", values) == values
    assert notebooks.current_parameters("05", {**values, "rate": 0.5})["profile"] == "custom"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "error"), [("1\nint('many')", "ValueError: invalid literal"), ("import os\nos._exit(1)", "died")]
)
def test_a_failing_cell_is_named_and_its_notebook_stays(cell, error, project):
    write_notebook(project / "notebooks/05_percentile.ipynb", "1 + 1", cell, "'never reached'")
    with pytest.raises(NotebookError, match=error) as caught:
        notebooks.run_notebook("05", profile="tiny")
    assert "05_percentile.ipynb, cell 3" in str(caught.value)
    (executed,) = (project / "build/notebooks/tiny").glob("*.ipynb")
    assert str(executed.relative_to(project)) in str(caught.value)
