"""Records: what a line holds, and that it survives kills and several writers."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confitlib import records
from confitlib.records import load_records, record
from confitlib.util import append_line, atomic, read_entries

PARAMETERS = {"profile": "laptop", "seed": 3, "output": "."}


class Data:
    def fingerprint(self) -> str:
        return "data-1"


class Model:
    def weight_hash(self) -> str:
        return "weights-1"


def run_of(folder: Path, notebook: str = "07", parameters: dict | None = None, **metrics: float) -> None:
    run = record(notebook, parameters or PARAMETERS, folder)
    run.log(metrics)
    run.save()


def test_record_holds_what_a_reader_needs_to_repeat_the_run(tmp_path):
    run = record("05", {**PARAMETERS, "bands": np.array([0.03, 0.04]), "n": np.int64(2)}, tmp_path)
    run.log({"recall@100": np.float32(0.5)}, map=1, undefined=float("nan"))
    run.describe(corpus=Data(), encoder=Model())
    run.save()
    row = load_records(tmp_path / "records/runs.jsonl").iloc[0]
    assert row["metrics"] == {"recall@100": 0.5, "map": 1.0, "undefined": None}
    assert row["parameters"] == {**PARAMETERS, "bands": [0.03, 0.04], "n": 2}
    assert (row["notebook"], row["profile"], row["seed"]) == ("05", "laptop", 3)
    assert (row["data_hash"], row["weight_hash"]) == ("data-1", "weights-1")
    assert row["seconds"] >= 0 and row["peak_memory_mb"] > 1 and row["versions"]["numpy"] == np.__version__


@pytest.mark.parametrize("name", ["api_key", "OPENAI_API_KEY", "token", "hf_token", "secret", "db_password"])
def test_parameters_named_like_secrets_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=name):
        record("02", {name: ""}, tmp_path)


@pytest.mark.parametrize("value", ["sk-" + "a1" * 12, "hf_" + "b2" * 12, "https://me:pass@host/v1"])
def test_parameters_that_hold_secrets_are_refused(value, tmp_path):
    with pytest.raises(ValueError, match="endpoint"):
        record("02", {"endpoint": value}, tmp_path)


@pytest.mark.parametrize("name", ["max_tokens", "keywords", "monkey", "tokenizer"])
def test_harmless_names_are_not_taken_for_secrets(name, tmp_path):
    assert record("02", {name: 1}, tmp_path).entry["parameters"] == {name: 1}


@pytest.mark.parametrize("value", [{"a": 1}, Path("x"), object(), [1, {2}]])
def test_values_other_than_json_scalars_and_lists_are_refused(value, tmp_path):
    with pytest.raises(TypeError, match="'odd'"):
        record("05", {"odd": value}, tmp_path)


@pytest.mark.parametrize(("value", "error"), [("high", TypeError), ([1.0], TypeError), (float("inf"), ValueError)])
def test_a_metric_is_one_finite_number(value, error, tmp_path):
    with pytest.raises(error, match="'map'"):
        record("05", PARAMETERS, tmp_path).log(map=value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
                    | st.text(), st.lists, max_leaves=8))  # fmt: skip
def test_plain_values_survive_json(value):
    assert json.loads(json.dumps(records.plain(value, "x"))) == value


def test_many_writers_lose_no_line(tmp_path):
    path = tmp_path / "runs.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: append_line(path, {"n": number, "pad": "x" * 9000}), range(100)))
    assert sorted(entry["n"] for entry in read_entries(path)) == list(range(100))


def test_a_torn_last_line_is_reported_and_the_rest_read(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b", "met')
    with pytest.warns(UserWarning, match="line 2 is torn"):
        assert [entry["id"] for entry in read_entries(path)] == ["a"]


def test_appending_after_a_kill_cuts_the_torn_line_and_says_so(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b", "met')
    with pytest.warns(UserWarning, match="cut off"):
        append_line(path, {"id": "c"})
    assert [entry["id"] for entry in read_entries(path)] == ["a", "c"]


def test_appending_keeps_a_complete_line_that_lacks_its_break(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"id": "a"}')
    append_line(path, {"id": "b"})
    assert [entry["id"] for entry in read_entries(path)] == ["a", "b"]


def test_an_interrupted_file_keeps_what_was_there_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new/a.txt"
    with atomic(path) as partial:
        partial.write_text("old")
    with pytest.raises(OSError), atomic(path) as partial:
        partial.write_text("ne")
        raise OSError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"id": "a"}\n{"id": \n{"id": "c"}\n')
    with pytest.raises(ValueError, match="line 2"):
        load_records(path)


def test_records_of_a_folder_come_oldest_first_and_name_their_file(tmp_path):
    for name, when in (("a", "2026-02"), ("b", "2026-01")):
        append_line(tmp_path / f"{name}.jsonl", {"id": name, "time": when})
    frame = load_records(tmp_path)
    assert list(frame["id"]) == ["b", "a"] and list(frame["source"]) == ["b.jsonl", "a.jsonl"]


def test_no_records_says_how_to_get_some(tmp_path):
    with pytest.raises(FileNotFoundError, match="confit run"):
        load_records(tmp_path)


def test_outputs_land_in_the_repository_wherever_the_notebook_was_opened(tmp_path, monkeypatch):
    for folder in ("notebooks", "profiles"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    run_of(Path(), map=0.5)
    assert (tmp_path / "records/runs.jsonl").is_file()


def test_provenance_notes_commit_and_changed_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert records.provenance()["commit"] is None and records.provenance()["dirty"] is None
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    (tmp_path / "pyproject.toml").write_text("")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)
    (tmp_path / "figure.png").write_text("a product is no change of the sources")
    assert len(records.provenance()["commit"]) == 40 and records.provenance()["dirty"] is False
    (tmp_path / "pyproject.toml").write_text("changed")
    assert records.provenance()["dirty"] is True


def test_metrics_by_setting_come_from_the_newest_run_of_equal_parameters(tmp_path):
    for seed, value in ((0, 1.0), (1, 2.0), (0, 9.0)):
        run = record("05", {**PARAMETERS, "seed": seed, "output": f"somewhere{value}"}, tmp_path)
        run.log({"job map.3-4%": value, "without a setting": 0.0})
        run.save()
    table = records.metrics_by_setting(load_records(tmp_path / "records"), "05", ["batch_size", "profile"])
    assert table["value"].tolist() == [2.0, 9.0] and table["seed"].tolist() == [1, 0]
    assert set(table["setting"]) == {"3-4%"} and set(table["quantity"]) == {"job map"}
    assert table["batch_size"].isna().all() and set(table["profile"]) == {PARAMETERS["profile"]}
    with pytest.raises(LookupError, match="no run of notebook 06"):
        records.metrics_by_setting(load_records(tmp_path / "records"), "06")
