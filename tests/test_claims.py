"""Claims: verdicts, files that cannot be used, and tolerances that mean what they say."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from confitlib.records import (
    Claim,
    check_claims,
    judge,
    load_claims,
    load_records,
    measure_claim,
    measure_claims,
    record,
)

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


def run_of(folder: Path, seed: int = 3, **metrics: float) -> None:
    run = record("07", {"profile": "laptop", "seed": seed, "output": "."}, folder)
    run.log(metrics)
    run.save()


def clean_records(folder: Path) -> pd.DataFrame:
    return load_records(folder / "records").assign(dirty=False)


def checked(folder: Path, dense: float, bm25: float) -> pd.Series:
    run_of(folder, **{"dense recall@100": dense, "bm25 recall@100": bm25})
    table = check_claims(load_records(folder / "records"), [Claim(**CLAIM)])
    return table.iloc[0]


def test_a_claim_holds_for_the_model_it_was_measured_on_and_fails_for_a_degraded_one(tmp_path):
    good = checked(tmp_path, dense=0.82, bm25=0.50)
    assert good["verdict"] == "OK" and good["value"] == pytest.approx(0.32)
    degraded = checked(tmp_path, dense=0.60, bm25=0.50)
    assert degraded["verdict"] == "FAIL" and "off by -0.2" in degraded["note"]


def test_a_claim_without_a_record_or_metric_is_missing(tmp_path):
    run_of(tmp_path, **{"dense recall@100": 0.8})
    known = load_records(tmp_path / "records")
    for claim in (Claim(**CLAIM), Claim(**{**CLAIM, "notebook": "05"}), Claim(**{**CLAIM, "profile": "gpu"})):
        table = check_claims(known, [claim])
        assert list(table["verdict"]) == ["MISSING"]


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
    [({"tolerance": 0.4}, "hardly fails"), ({"tolerance": -1}, "not negative"), ({"better": "up"}, "'higher', 'lower'"),
     ({"tolerence": 1}, "tolerence"), ({"expected": "much"}, "entry 1"), ({"reason": ""}, "reason")],
)  # fmt: skip
def test_claims_that_cannot_be_checked_are_refused(change, message, tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps([{**CLAIM, **change}]))
    with pytest.raises(ValueError, match=message):
        load_claims(path)


@pytest.mark.parametrize(
    ("text", "message"), [("a: 1", "expected a list"), ("- [\n- }", "claims.yaml, line 2: not YAML")]
)
def test_a_claims_file_of_another_shape_is_refused_by_name(text, message, tmp_path):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_claims(tmp_path / "claims.yaml")


def test_claims_need_every_key_and_unique_ids(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps([{key: value for key, value in CLAIM.items() if key != "reason"}]))
    with pytest.raises(ValueError, match="reason"):
        load_claims(path)
    path.write_text(json.dumps([CLAIM, CLAIM]))
    with pytest.raises(ValueError, match="more than once"):
        load_claims(path)


def test_the_measured_tolerance_covers_a_new_seed_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        expected, _, tolerance = measure_claim(rng.normal(0.5, 0.02, 5).tolist())
        inside.append(abs(rng.normal(0.5, 0.02) - expected) <= tolerance)
    assert 0.935 < np.mean(inside) < 0.965


def test_two_seeds_measure_nothing(tmp_path):
    for seed, value in enumerate((0.1, 0.2)):
        run_of(tmp_path, seed, **{"dense recall@100": value, "bm25 recall@100": 0.0})
    with pytest.raises(ValueError, match=r"claim 'dense-beats-bm25': 2 values .* three seeds"):
        measure_claims(clean_records(tmp_path), [Claim(**CLAIM)])


def test_claims_are_measured_over_the_newest_record_of_each_seed(tmp_path):
    for seed, value in ((0, 0.9), (0, 0.1), (1, 0.2), (2, 0.3)):
        run_of(tmp_path, seed, **{"dense recall@100": value})
    claim = Claim(**{**CLAIM, "minus": None})
    row = measure_claims(clean_records(tmp_path), [claim]).iloc[0]
    assert row["seeds"] == 3 and row["expected"] == pytest.approx(0.2) and row["sd"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"dirty": True}, "1 of its records are dirty"), ({"results_version": {"mining": 9}}, "different versions"),
     ({"results_version": float("nan")}, "different versions"), ({"parameters": {"epochs": 9}}, "more than the seed")],
)  # fmt: skip
def test_claims_are_measured_on_clean_records_of_one_version_and_of_equal_parameters(changes, message, tmp_path):
    for seed, value in enumerate((0.1, 0.2, 0.3)):
        run_of(tmp_path, seed, **{"dense recall@100": value, "bm25 recall@100": 0.0})
    known = clean_records(tmp_path)
    assert measure_claims(known, [Claim(**CLAIM)])["seeds"].item() == 3
    for name, value in changes.items():
        known[name] = [value if row == 1 else other for row, other in enumerate(known[name])]
    with pytest.raises(ValueError, match=message):
        measure_claims(known, [Claim(**CLAIM)])


def test_regressions_are_not_measured_over_seeds(tmp_path):
    run_of(tmp_path, **{"dense recall@100": 0.8, "bm25 recall@100": 0.5})
    repeated = Claim(**{**CLAIM, "kind": "regression", "tolerance": 0.002})
    assert measure_claims(clean_records(tmp_path), [repeated]).empty
    assert check_claims(load_records(tmp_path / "records"), [repeated])["verdict"].item() == "OK"
