"""The shared experiments return complete tables and do not depend on the number of workers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from confitlib import experiments
from confitlib.corpus import SIDES
from confitlib.evaluation import compare, evaluate_ranking
from confitlib.experiments import (
    CUTOFFS,
    ablate,
    band_name,
    gains,
    judge_gains,
    mean_queries,
    measure,
    measure_systems,
    table_of,
    thin_labels,
)
from confitlib.oracles import strata
from confitlib.rankers import BM25, DPGNN, HyDE, InBatch, LLMReranker, RawEmbed, TfIdf, TwoTowers
from confitlib.records import Claim, judge, measure_claim
from confitlib.training import TrainingConfig
from confitlib.util import content_key

QUICK = TrainingConfig(epochs=1, batch_size=16)


@pytest.fixture(scope="module")
def measured(tiny):
    return measure_systems({"BM25": [BM25()], "TF-IDF": [TfIdf()]}, tiny, workers=1)


def test_table_has_every_metric_of_every_run(measured):
    table = table_of(measured)
    assert table["system"].tolist() == ["BM25", "TF-IDF"]
    assert {"resume recall@100", "job ndcg@10", "f1_weighted", "roc_auc", "precision", "recall"} <= set(table.columns)
    assert table.notna().all().all() and (table[["fit seconds", "pairs per second"]] > 0).all().all()


def test_a_split_and_what_is_known_of_the_market_are_measured_apart(market, tmp_path):
    plain, valid, known = (
        measure(BM25(), market.corpus, str(tmp_path), **options)
        for options in ({}, {"split": "valid"}, {"market": market})
    )
    assert valid.rankings["job"].split == "valid" and not valid.classification and plain.classification
    assert known.strata == strata(BM25().fit(market.corpus), market) and not plain.strata
    assert known.means().items() >= known.strata.items()
    assert measure(BM25(), market.corpus, str(tmp_path), market=market).strata == known.strata


@pytest.mark.slow
def test_a_setting_without_a_strategy_changes_the_training(tiny):
    table = ablate(tiny, {"twice the batch": {"batch_size": 32}}, [0], QUICK, workers=1)
    means = table.pivot_table(index="quantity", columns="setting", values="value")
    twice = measure(InBatch(config=replace(QUICK, batch_size=32, seed=0)), tiny).means()
    assert means.loc["job map", "twice the batch"] == pytest.approx(twice["job map"])
    assert means.loc["job map", "in-batch"] != means.loc["job map", "twice the batch"]
    assert (means.loc["fit seconds"] > 0).all()


def test_comparison_is_the_difference_of_the_means(measured):
    test = compare(*(mean_queries(measured[name], "resume") for name in ("BM25", "TF-IDF")), "ndcg@10")
    means = table_of(measured).set_index("system")["resume ndcg@10"]
    assert test.difference == pytest.approx(means["BM25"] - means["TF-IDF"])
    assert test.low < test.difference < test.high and 0 < test.p_value <= 1


def test_a_measurement_says_who_judged_and_is_kept_apart(tiny, tmp_path):
    for relevance in ("labels", None, "labels"):
        measured = measure(BM25(), tiny, str(tmp_path), relevance=relevance)
        expected = evaluate_ranking(BM25().fit(tiny), tiny, "job", relevance=relevance, ks=CUTOFFS)
        pd.testing.assert_frame_equal(measured.rankings["job"].queries, expected.queries)


@pytest.mark.slow
def test_every_system_may_have_a_corpus_and_labels_may_judge(tiny):
    fewer = thin_labels(tiny, 0.5)
    corpora = {"all labels": tiny, "half": fewer}
    runs = measure_systems({name: [DPGNN()] for name in corpora}, corpora, workers=1, relevance="labels")
    for name, corpus in corpora.items():
        expected = measure(DPGNN(), corpus, relevance="labels").rankings["resume"].queries
        pd.testing.assert_frame_equal(runs[name][0].rankings["resume"].queries, expected)
    half, whole = (runs[name][0].means()["resume map"] for name in ("half", "all labels"))
    assert half != whole


@pytest.mark.slow
def test_a_training_from_the_cache_counts_among_the_costs(tiny, tmp_path):
    ranker = InBatch(config=QUICK, cache=str(tmp_path))
    first, again = (measure(ranker, tiny).costs["fit seconds"] for _ in range(2))
    assert ranker.result.reused and again >= ranker.result.seconds > 0
    assert InBatch(config=QUICK).fit(tiny).saved_seconds == 0 and first > 0


def test_mean_over_seeds_keeps_every_query(measured):
    queries = mean_queries([*measured["BM25"], *measured["TF-IDF"]], "job")
    singles = [measured[name][0].rankings["job"].queries["map"] for name in measured]
    pd.testing.assert_series_equal(queries["map"], sum(singles) / 2, check_names=False)


def bands_of(*bounds):
    return {band_name(lo, hi): {"strategy": "band", "lo": lo, "hi": hi} for lo, hi in bounds}


@pytest.mark.slow
def test_ablation_has_one_value_for_each_setting_seed_and_quantity(tiny, tmp_path):
    table = ablate(tiny, bands_of((0.0, 0.02), (0.2, 0.3)), [0, 1], QUICK, cache=str(tmp_path), workers=1)
    rates = table[table["quantity"] == "false negatives"].groupby("setting")["value"]
    assert rates.size().to_dict() == {"0-2%": 2, "20-30%": 2}
    assert rates.min()["0-2%"] > rates.max()["20-30%"]
    quality = table[table["quantity"] == "resume ndcg@100"]
    assert quality["setting"].value_counts().to_dict() == {"in-batch": 2, "0-2%": 2, "20-30%": 2}


@pytest.mark.slow
def test_the_number_of_workers_changes_no_result(tiny):
    tables = [ablate(tiny, bands_of((0.0, 0.02)), [0], QUICK, workers=workers) for workers in (1, 2)]
    pd.testing.assert_frame_equal(*(table[table["quantity"] != "fit seconds"] for table in tables))


def test_what_was_measured_is_kept(tiny, tmp_path, monkeypatch):
    settings = {"far": {"strategy": "band", "lo": 0.2, "hi": 0.3}}
    first = ablate(tiny, settings, [0], QUICK, cache=str(tmp_path), workers=1)
    monkeypatch.setattr(experiments, "evaluate_ranking", None)  # would fail if it were called
    again = ablate(tiny, settings, [0], QUICK, cache=str(tmp_path), workers=1)
    pd.testing.assert_frame_equal(first, again)


def test_a_measurement_survives_its_file_to_the_last_digit(tiny, tmp_path):
    for ranker in (BM25(), InBatch(config=QUICK)):
        fresh, again = (measure(ranker, tiny, str(tmp_path)) for _ in range(2))
        assert (again.means(), again.costs) == (fresh.means(), fresh.costs)
        for target in SIDES:
            pd.testing.assert_frame_equal(again.rankings[target].queries, fresh.rankings[target].queries)
            assert again.rankings[target].summary().equals(fresh.rankings[target].summary())
        if fresh.history is None:
            assert again.history is None
        else:
            pd.testing.assert_frame_equal(again.history, fresh.history)


@pytest.mark.parametrize("content", ["", '{"rankings": {}}', "[1]", "{"])
def test_a_damaged_measurement_is_taken_again(tiny, tmp_path, content):
    before = measure(BM25(), tiny, str(tmp_path))
    [file] = (tmp_path / "measured").iterdir()
    file.write_text(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert measure(BM25(), tiny, str(tmp_path)).means() == before.means()
    assert measure(BM25(), tiny, str(tmp_path)).means() == before.means()


@pytest.mark.parametrize(
    "build",
    [lambda file: RawEmbed(str(file.parent)), lambda file: HyDE("static"), lambda file: LLMReranker(BM25(), str(file))],
)
def test_other_contents_of_a_file_are_another_measurement(tmp_path, monkeypatch, build):
    file = tmp_path / "encoder/answers.jsonl"
    file.parent.mkdir()
    monkeypatch.setattr(experiments, "recorded_answers", lambda: file)
    keys = []
    for content in ("one", "two", "one"):
        file.write_text(content)
        keys.append(content_key(**experiments._subject(build(file))))
    assert keys[0] == keys[2] != keys[1]


def test_whatever_decides_a_ranker_is_in_its_key(tmp_path):
    rankers = [LLMReranker(BM25()), LLMReranker(TfIdf()), InBatch(), InBatch(config=QUICK), RawEmbed(), TwoTowers()]
    keys = [content_key(**experiments._subject(ranker)) for ranker in rankers]
    assert len(set(keys)) == len(keys)
    assert content_key(**experiments._subject(RawEmbed(cache=str(tmp_path)))) == keys[4]  # a cache changes nothing


def planted(gain, seeds=4):
    rows = [("in-batch", seed, "job map", 0.5 + 0.1 * seed) for seed in range(seeds)]
    rows += [("band", seed, "job map", 0.5 + 0.1 * seed + gain(seed)) for seed in range(seeds)]
    return pd.DataFrame([*rows, ("band", 0, "hardness", 0.2)], columns=["setting", "seed", "quantity", "value"])


def test_gains_are_taken_pair_by_pair():
    gained = gains(planted(lambda seed: 0.01 * seed))
    assert gained["setting"].unique().tolist() == ["band"] and gained["quantity"].unique().tolist() == ["job map"]
    np.testing.assert_allclose(gained["gain"], [0, 0.01, 0.02, 0.03])
    with pytest.raises(ValueError, match="no row of 'in-batch' for seed 3, quantity job map"):
        gains(planted(lambda seed: 0.0).query("setting == 'band' or seed < 3"))


def test_gains_are_judged_by_the_paired_t_test():
    gained = gains(planted(lambda seed: 0.02 + 0.01 * (-1) ** seed))
    (row,) = judge_gains(gained).to_dict("records")
    test = stats.ttest_1samp(gained["gain"], 0)
    assert row["p_value"] == pytest.approx(test.pvalue) == row["p_holm"]
    assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval()))


def test_thinning_drops_training_labels_alone(tiny):
    thin = thin_labels(tiny, 0.5, seed=1)
    assert len(thin.labelled("test")) == len(tiny.labelled("test"))
    assert 0.35 < len(thin.labelled("train")) / len(tiny.labelled("train")) < 0.65
    assert thin_labels(tiny, 1.0) == tiny and thin_labels(tiny, 0.5, seed=1) == thin
    with pytest.raises(ValueError, match="share=0"):
        thin_labels(tiny, 0)


def test_a_setting_says_how_to_mine_and_how_often(tiny, monkeypatch):
    fitted = []
    monkeypatch.setattr(experiments, "measure_systems", lambda systems, *_: fitted.append(systems) or {})
    ablate(tiny, {"ance": {"strategy": "ance", "n": 5, "refresh": 2}}, [3], QUICK)
    [unmined, mined] = fitted
    [ranker] = mined["ance"]
    assert (ranker.strategy, ranker.parameters, ranker.refresh, ranker.config.seed) == ("ance", {"n": 5}, 2, 3)
    assert list(unmined) == ["in-batch"]


def test_band_names():
    assert band_name(0.03, 0.04) == "3-4%" and band_name(0.0, 0.005) == "0-0.5%"
    assert band_name(np.nan, np.nan) == "no band"


@pytest.mark.slow
def test_seeds_change_the_trained_system(tiny):
    runs = [InBatch(config=TrainingConfig(epochs=1, batch_size=16, seed=seed)) for seed in (0, 1)]
    table = table_of(measure_systems({"in-batch": runs}, tiny, workers=1))
    assert table["resume map"].nunique() == 2


@pytest.mark.slow
def test_a_degraded_model_fails_the_claim_that_a_healthy_one_meets(tiny):
    def quality(ranker):
        return evaluate_ranking(ranker, tiny, "resume").means()["ndcg@10"]

    rankers = [InBatch(config=TrainingConfig(epochs=2, batch_size=8, seed=seed)).fit(tiny) for seed in range(5)]
    expected, _, tolerance = measure_claim([quality(ranker) for ranker in rankers[:4]])
    known = {"id": "trained", "statement": "it learns", "notebook": "03", "profile": "tiny", "metric": "ndcg@10"}
    claim = Claim(**known, expected=expected, tolerance=tolerance, reason="four seeds", source="kit")
    assert judge(claim, quality(rankers[4]))[0] in ("OK", "OKish")
    weights = rankers[4].result.encoder.backbone.token_vectors
    weights.data = weights.data.roll(1000, dims=0)  # every token gets the vector of another
    assert judge(claim, quality(rankers[4].index(tiny)))[0] == "FAIL"
