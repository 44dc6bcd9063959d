"""Records: what a line holds, that it survives kills and several writers, and that claims can fail."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confitlib import records
from confitlib.files import atomic
from confitlib.records import Claim, ClaimError, judge, load_records, measure_claim, record

PARAMETERS = {"profile": "laptop", "seed": 3, "output": "."}
CLAIM = {
    "id": "dense-beats-bm25",
    "statement": "Dense retrieval beats BM25 on recall@100",
    "notebook": "07",
    "profile": "laptop",
    "metric": "dense recall@100",
    "minus": "bm25 recall@100",
    "expected": 0.30,
    "tolerance": 0.05,
    "reason": "t interval over five seeds",
    "source": "kit",
}


class Data:
    def fingerprint(self) -> str:
        return "data-1"


class Model:
    def weight_hash(self) -> str:
        return "weights-1"


def run_of(folder: Path, notebook: str = "07", parameters: dict | None = None, **metrics: float) -> None:
    with record(notebook, parameters or PARAMETERS, folder) as run:
        run.log(metrics)


def test_record_holds_what_a_reader_needs_to_repeat_the_run(tmp_path):
    with record("05", {**PARAMETERS, "bands": np.array([0.03, 0.04]), "n": np.int64(2)}, tmp_path) as run:
        run.log({"recall@100": np.float32(0.5)}, map=1, undefined=float("nan"))
        run.describe(corpus=Data(), encoder=Model())
    row = load_records(tmp_path / "records/runs.jsonl").iloc[0]
    assert row["metrics"] == {"recall@100": 0.5, "map": 1.0, "undefined": None}
    assert row["parameters"] == {**PARAMETERS, "bands": [0.03, 0.04], "n": 2}
    assert (row["notebook"], row["profile"], row["seed"]) == ("05", "laptop", 3)
    assert (row["data_hash"], row["weight_hash"]) == ("data-1", "weights-1")
    assert row["seconds"] >= 0 and row["peak_memory_mb"] > 1 and row["versions"]["numpy"] == np.__version__


def test_a_run_that_raises_is_not_recorded(tmp_path):
    with pytest.raises(ZeroDivisionError), record("05", PARAMETERS, tmp_path):
        _ = 1 / 0
    assert not (tmp_path / "records").exists()


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
        list(pool.map(lambda number: records.append_line(path, {"n": number, "pad": "x" * 9000}), range(100)))
    assert sorted(entry["n"] for entry in records.read_entries(path)) == list(range(100))


def test_a_torn_last_line_is_reported_and_the_rest_read(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b", "met')
    with pytest.warns(UserWarning, match="line 2 is torn"):
        assert [entry["id"] for entry in records.read_entries(path)] == ["a"]


def test_appending_after_a_kill_cuts_the_torn_line_and_says_so(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b", "met')
    with pytest.warns(UserWarning, match="cut off"):
        records.append_line(path, {"id": "c"})
    assert [entry["id"] for entry in records.read_entries(path)] == ["a", "c"]


def test_appending_keeps_a_complete_line_that_lacks_its_break(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"id": "a"}')
    records.append_line(path, {"id": "b"})
    assert [entry["id"] for entry in records.read_entries(path)] == ["a", "b"]


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
        records.append_line(tmp_path / f"{name}.jsonl", {"id": name, "time": when})
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


def checked(folder: Path, dense: float, bm25: float) -> pd.Series:
    run_of(folder, **{"dense recall@100": dense, "bm25 recall@100": bm25})
    table = records.check_claims(load_records(folder / "records"), [Claim(**CLAIM)])
    return table.iloc[0]


def test_a_claim_holds_for_the_model_it_was_measured_on_and_fails_for_a_degraded_one(tmp_path):
    good = checked(tmp_path, dense=0.82, bm25=0.50)
    assert good["verdict"] == "OK" and good["value"] == pytest.approx(0.32)
    degraded = checked(tmp_path, dense=0.60, bm25=0.50)
    assert degraded["verdict"] == "FAIL" and "off by -0.2" in degraded["note"]


def test_a_claim_without_a_record_or_metric_is_missing_and_does_not_pass(tmp_path):
    run_of(tmp_path, **{"dense recall@100": 0.8})
    known = load_records(tmp_path / "records")
    for claim in (Claim(**CLAIM), Claim(**{**CLAIM, "notebook": "05"}), Claim(**{**CLAIM, "profile": "gpu"})):
        table = records.check_claims(known, [claim])
        assert list(table["verdict"]) == ["MISSING"] and not records.passed(table)


@pytest.mark.parametrize(
    ("value", "better", "verdict"),
    [(0.30, None, "OK"), (0.35, None, "OK"), (0.25, None, "OK"), (0.39, None, "OKish"), (0.21, None, "OKish"),
     (0.41, None, "FAIL"), (0.19, None, "FAIL"), (0.60, "higher", "OKish"), (0.19, "higher", "FAIL"),
     (0.05, "lower", "OKish"), (-0.30, "lower", "FAIL"), (0.0, None, "FAIL"), (None, None, "MISSING")],
)  # fmt: skip
def test_verdicts(value, better, verdict):
    assert judge(Claim(**{**CLAIM, "better": better}), value)[0] == verdict


@pytest.mark.parametrize(
    ("change", "message"),
    [({"tolerance": 0.4}, "hardly fails"), ({"tolerance": -1}, "not negative"), ({"better": "up"}, "higher or lower"),
     ({"tolerence": 1}, "tolerence"), ({"expected": "much"}, "entry 1"), ({"reason": ""}, "reason")],
)  # fmt: skip
def test_claims_that_cannot_be_checked_are_refused(change, message, tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps([{**CLAIM, **change}]))
    with pytest.raises(ClaimError, match=message):
        records.load_claims(path)


@pytest.mark.parametrize(
    ("text", "message"), [("a: 1", "expected a list"), ("- [\n- }", "claims.yaml, line 2: not YAML")]
)
def test_a_claims_file_of_another_shape_is_refused_by_name(text, message, tmp_path):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        records.load_claims(tmp_path / "claims.yaml")


def test_claims_need_every_key_and_unique_ids(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps([{key: value for key, value in CLAIM.items() if key != "reason"}]))
    with pytest.raises(ClaimError, match="reason"):
        records.load_claims(path)
    path.write_text(json.dumps([CLAIM, CLAIM]))
    with pytest.raises(ClaimError, match="more than once"):
        records.load_claims(path)


def test_the_measured_tolerance_covers_a_new_seed_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        expected, tolerance = measure_claim(rng.normal(0.5, 0.02, 5).tolist())
        inside.append(abs(rng.normal(0.5, 0.02) - expected) <= tolerance)
    assert 0.935 < np.mean(inside) < 0.965


def test_two_seeds_measure_nothing():
    with pytest.raises(ValueError, match="three seeds"):
        measure_claim([0.1, 0.2])


def test_claims_are_measured_over_the_newest_record_of_each_seed(tmp_path):
    for seed, value in ((0, 0.9), (0, 0.1), (1, 0.2), (2, 0.3)):
        run_of(tmp_path, parameters={**PARAMETERS, "seed": seed}, **{"dense recall@100": value})
    claim = Claim(**{**CLAIM, "minus": None})
    row = records.measure_claims(load_records(tmp_path / "records"), [claim]).iloc[0]
    assert row["seeds"] == 3 and row["expected"] == pytest.approx(0.2) and row["sd"] == pytest.approx(0.1)
