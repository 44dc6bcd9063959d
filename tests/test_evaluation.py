"""Evaluation: closed forms against enumeration and independent libraries, results, intervals, tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import ir_measures
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.metrics import f1_score, ndcg_score, precision_score, recall_score, roc_auc_score

from confitlib.corpus import RANKING_COLUMNS, Corpus
from confitlib.evaluation import (
    compare,
    evaluate_classification,
    evaluate_graded,
    evaluate_ranking,
    graded_baseline,
    holm,
    random_baseline,
    rank_metrics,
    ranking,
    summarise,
)
from confitlib.evaluation.ranking import tune_threshold
from confitlib.evaluation.statistics import bootstrap_interval

KS = (1, 3, 5)
METRICS = [f"{metric}@{k}" for k in KS for metric in ("recall", "ndcg")] + ["map", "mrr"]


def naive_metrics(order: list[float]) -> dict[str, float]:
    """The metrics of gains listed in rank order, by their definitions."""
    gains = np.array(order, dtype=float)
    hits, ranks = gains > 0, np.arange(1, len(gains) + 1)
    metrics = {}
    for k in KS:
        discount = np.where(ranks <= k, 1 / np.log2(1 + ranks), 0)
        metrics[f"recall@{k}"] = hits[:k].sum() / hits.sum()
        metrics[f"ndcg@{k}"] = gains @ discount / (np.sort(gains)[::-1] @ discount)
    metrics["map"] = np.mean(np.cumsum(hits)[hits] / ranks[hits])
    metrics["mrr"] = 1 / ranks[hits].min()
    return metrics


def enumerated(scores: list[int], gains: list[int]) -> pd.Series:
    """The mean of the naive metrics over every order that respects the scores."""
    orders = itertools.permutations(range(len(scores)))
    valid = [o for o in orders if all(scores[i] >= scores[j] for i, j in itertools.pairwise(o))]
    return pd.DataFrame([naive_metrics([gains[i] for i in order]) for order in valid]).mean()


candidate_lists = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=6).filter(
    lambda entries: any(gain for _, gain in entries)
)


@given(candidate_lists)
@settings(max_examples=60, deadline=None)
def test_closed_forms_equal_enumeration_of_all_tie_breaks(entries: list[tuple[int, int]]) -> None:
    scores, gains = map(list, zip(*entries, strict=True))
    ours = rank_metrics(np.array([scores], np.float32), np.array([gains]), KS).iloc[0]
    expected = enumerated(scores, gains)
    np.testing.assert_allclose(ours[METRICS].to_numpy(float), expected[METRICS].to_numpy(), rtol=1e-10)


@given(candidate_lists, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_file_order_and_monotone_rescaling_change_nothing(entries: list[tuple[int, int]], random: object) -> None:
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    a, b = np.array(entries), np.array(shuffled)
    as_given = rank_metrics(a[:, 0][None], a[:, 1][None], KS)
    pd.testing.assert_frame_equal(as_given, rank_metrics(b[:, 0][None], b[:, 1][None], KS), rtol=1e-12)
    pd.testing.assert_frame_equal(as_given, rank_metrics(np.exp(a[:, 0][None]) - 7, a[:, 1][None], KS), rtol=1e-12)


def test_agreement_with_trec_eval_without_ties() -> None:
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(200), (40, 1)), axis=1)
    relevant = rng.random(scores.shape) < 0.05
    relevant[:, 0] = True
    ours = rank_metrics(scores.astype(np.float32), relevant, (10, 100))
    names = {"recall@10": "R@10", "recall@100": "R@100", "ndcg@10": "nDCG@10", "ndcg@100": "nDCG@100"}
    names |= {"map": "AP", "mrr": "RR"}
    measures = {name: ir_measures.parse_measure(measure) for name, measure in names.items()}
    cells = [(str(q), f"d{c}") for q, c in np.ndindex(scores.shape)]
    qrels = [ir_measures.Qrel(q, d, int(r)) for (q, d), r in zip(cells, relevant.ravel(), strict=True)]
    run = [ir_measures.ScoredDoc(q, d, float(s)) for (q, d), s in zip(cells, scores.ravel(), strict=True)]
    for value in ir_measures.pytrec_eval.iter_calc(list(measures.values()), qrels, run):
        name = next(name for name, measure in measures.items() if measure == value.measure)
        assert ours.loc[int(value.query_id), name] == pytest.approx(value.value, abs=1e-9)


def test_agreement_with_sklearn_ndcg_on_ties_and_graded_gains() -> None:
    rng = np.random.default_rng(1)
    scores, gains = rng.integers(0, 6, (30, 50)), rng.integers(0, 8, (30, 50))
    for relevant in (gains, gains > 5):
        ours = rank_metrics(scores, relevant, (10, 50))
        for k in (10, 50):
            sklearn = [ndcg_score([r], [s], k=k) for r, s in zip(relevant, scores, strict=True)]
            np.testing.assert_allclose(ours[f"ndcg@{k}"], sklearn, rtol=1e-12)


@pytest.mark.parametrize("places", [[0, 1], [98, 99], [3, 60]])
def test_a_constant_scorer_scores_like_random_wherever_the_positives_stand(places: list[int]) -> None:
    relevant = np.zeros((1, 100), bool)
    relevant[0, places] = True
    constant = rank_metrics(np.full((1, 100), 0.7, np.float32), relevant, (10,))
    pd.testing.assert_frame_equal(constant, random_baseline(relevant, (10,)))
    assert constant.loc[0, "recall@10"] == pytest.approx(0.1)
    assert constant.loc[0, "ndcg@10"] == pytest.approx(0.0557, abs=1e-4)
    rng = np.random.default_rng(0)
    drawn = rank_metrics(rng.random((5_000, 100)), np.repeat(relevant, 5_000, axis=0), (10,)).mean()
    np.testing.assert_allclose(constant.iloc[0], drawn, rtol=0.1)


def test_lists_of_different_lengths_equal_one_query_at_a_time() -> None:
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 40, 300)  # more queries than one block holds
    scores = [rng.integers(0, 5, n).astype(np.float32) for n in lengths]
    relevant = [rng.random(n) < 0.3 for n in lengths]
    together = rank_metrics(scores, relevant, (3, 50))
    alone = [rank_metrics(s[None], r[None], (3, 50)) for s, r in zip(scores, relevant, strict=True)]
    pd.testing.assert_frame_equal(together, pd.concat(alone).set_index(together.index))
    assert together["candidates"].tolist() == lengths.tolist()


def test_queries_without_positives_are_reported_and_not_averaged_in() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    frame = rank_metrics(scores, np.array([[True, False, False], [False, False, False]]), (1,), ["a", "b"])
    assert frame["positives"].tolist() == [1, 0]
    assert frame.loc["b", ["recall@1", "ndcg@1", "map", "mrr"]].isna().all()
    assert summarise(frame).loc["map", "mean"] == 1.0


@pytest.mark.parametrize(
    ("scores", "relevant", "message"),
    [
        ([[1.0, np.nan]], [[1, 0]], "query 'q7' hold 1 NaN"),
        ([[1.0, 2.0]], [[1, -1]], "query 'q7' is negative"),
        ([[1.0, 2.0]], [[1, 0, 0]], "query 'q7': scores have shape"),
        ([[1.0, 2.0]], [[1, 0], [0, 1]], "scores hold 1 queries, relevant 2"),
    ],
)
def test_unusable_input_is_refused_by_name(scores: list, relevant: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_metrics(np.array(scores), np.array(relevant), (1,), ["q7"])


def test_wrong_ks_and_query_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="every k must be at least 1"):
        rank_metrics(np.ones((1, 2)), np.ones((1, 2)), (0,))
    with pytest.raises(ValueError, match="names 2 queries"):
        rank_metrics(np.ones((1, 2)), np.ones((1, 2)), (1,), ["a", "b"])


# --- rankers on a corpus -----------------------------------------------------------------------------

RESUMES, JOBS = [f"r{i}" for i in range(6)], [f"j{i}" for i in range(4)]
SUITABLE = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0]], bool)


class Table:
    """A ranker that reads its scores from a table `[resumes, jobs]`."""

    name = "table"

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = pd.DataFrame(scores, RESUMES, JOBS)
        self.targets: set[str] = set()

    def score(self, resume_ids: list[str], job_ids: list[str], target: str = "resume") -> np.ndarray:
        self.targets.add(target)
        return self.scores.loc[list(resume_ids), list(job_ids)].to_numpy()

    def score_pairs(self, resume_ids: list[str], job_ids: list[str]) -> np.ndarray:
        return np.array([self.scores.loc[pair] for pair in zip(resume_ids, job_ids, strict=True)])


def labels(pairs: str, split: str = "test") -> pd.DataFrame:
    """Labels written as "r0 j0 1, r1 j2 0"."""
    rows = [pair.split() for pair in pairs.split(",")]
    frame = pd.DataFrame(rows, columns=["resume_id", "job_id", "label"])
    return frame.assign(label=frame["label"].astype(int), split=split)


@pytest.fixture
def corpus() -> Corpus:
    def documents(ids: list[str]) -> pd.DataFrame:
        return pd.DataFrame({"text": "words", "split": "test"}, index=ids)

    lists = [("resume", "test", "j1", r, label) for r, label in (("r0", -1), ("r2", 1), ("r5", 0))]
    lists += [("resume", "test", "j0", "r0", 1), ("resume", "test", "j0", "r4", -1)]
    return Corpus(
        documents(RESUMES),
        documents(JOBS),
        labels("r0 j0 1, r2 j1 1, r1 j1 0, r3 j2 1"),
        pd.DataFrame(lists, columns=RANKING_COLUMNS),
        truth=csr_array(SUITABLE),
    )


def test_a_perfect_ranker_is_perfect_in_both_directions(corpus: Corpus) -> None:
    ranker = Table(SUITABLE + 0.0)
    for target, queries, skipped in (("resume", JOBS, 1), ("job", RESUMES, 0)):
        result = evaluate_ranking(ranker, corpus, target, ks=(3, 4))
        assert list(result.queries.index) == queries
        assert (result.relevance, result.used) == ("truth", len(queries) - skipped)
        assert set(result.means().values()) == {1.0}
    assert ranker.targets == {"resume", "job"}
    assert "1 of 4 queries have no positive" in evaluate_ranking(ranker, corpus, "resume").notes[-1]


def test_pool_scores_keep_their_orientation_and_blocks_change_nothing(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = np.random.default_rng(0).random((6, 4)).astype(np.float32)
    ranker = Table(scores)
    whole = {target: evaluate_ranking(ranker, corpus, target, ks=(2,)).queries for target in ("resume", "job")}
    expected = rank_metrics(scores.T, SUITABLE.T, (2,), JOBS)
    pd.testing.assert_frame_equal(whole["resume"], expected)
    pd.testing.assert_frame_equal(whole["job"], rank_metrics(scores, SUITABLE, (2,), RESUMES))
    monkeypatch.setattr(ranking, "BLOCK_CELLS", 7)  # one query a block
    pd.testing.assert_frame_equal(evaluate_ranking(ranker, corpus, "resume", ks=(2,)).queries, expected)


def test_pools_without_truth_are_judged_by_the_labels_of_the_split(corpus: Corpus) -> None:
    result = evaluate_ranking(Table(SUITABLE + 0.0), replace(corpus, truth=None), "resume", ks=(1,))
    assert result.relevance == "labels"
    assert result.queries["positives"].to_dict() == {"j0": 1, "j1": 1, "j2": 1, "j3": 0}
    assert result.queries.loc["j0", "recall@1"] == pytest.approx(1 / 3)  # r0, r1 and r5 are tied


def test_pairs_accepted_in_another_split_are_no_candidates_in_the_warm_regime(corpus: Corpus) -> None:
    def anywhere(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(split="any")

    warm = replace(
        corpus,
        resumes=anywhere(corpus.resumes),
        jobs=anywhere(corpus.jobs),
        labels=pd.concat([labels("r1 j0 1, r5 j0 1", "train"), corpus.labels], ignore_index=True),
        truth=None,
        regime="warm",
    )
    result = evaluate_ranking(Table(SUITABLE + 0.0), warm, "resume", ks=(1,))
    assert result.queries["candidates"].to_dict() == {"j0": 4, "j1": 6, "j2": 6, "j3": 6}
    assert result.queries.loc["j0", "recall@1"] == 1.0


def test_candidate_lists_use_their_own_labels_or_the_truth(corpus: Corpus) -> None:
    ranker = Table(SUITABLE + 0.0)
    result = evaluate_ranking(ranker, corpus, "resume", candidates="lists", ks=(1, 3))
    assert result.relevance == "labels"
    assert result.queries["candidates"].to_dict() == {"j1": 3, "j0": 2}
    assert result.means()["map"] == 1.0
    flipped = Table(1.0 - SUITABLE)
    judged = evaluate_ranking(flipped, corpus, "resume", candidates="lists", relevance="truth", ks=(1,))
    assert judged.queries["mrr"].to_dict() == {"j1": 1 / 3, "j0": 1 / 2}


def test_a_k_beyond_every_list_is_left_out_and_named(corpus: Corpus) -> None:
    result = evaluate_ranking(Table(SUITABLE + 0.0), corpus, "job")
    assert list(result.means()) == ["map", "mrr"]
    assert result.notes == tuple(f"k = {k} left out: no query has more than 4 candidates" for k in (10, 100))


def test_a_k_that_takes_every_candidate_is_named(corpus: Corpus) -> None:
    result = evaluate_ranking(Table(1.0 - SUITABLE), corpus, "job", ks=(1, 4))
    assert result.means()["recall@4"] == 1.0
    assert result.notes == ("recall@4 is 1 for any order: no query has more candidates",)


def test_the_random_line_of_a_result_is_what_a_constant_ranker_reaches(corpus: Corpus) -> None:
    constant = evaluate_ranking(Table(np.zeros((6, 4))), corpus, "resume", ks=(2,))
    assert constant.random() == pytest.approx(constant.means())
    assert evaluate_ranking(Table(SUITABLE + 0.0), corpus, "resume", ks=(2,)).random() == constant.random()


def test_rankings_that_cannot_be_evaluated_are_refused(corpus: Corpus) -> None:
    ranker = Table(SUITABLE + 0.0)
    with pytest.raises(ValueError, match="no test lists that rank jobs"):
        evaluate_ranking(ranker, corpus, "job", candidates="lists")
    with pytest.raises(ValueError, match="no resumes in split 'valid'"):
        evaluate_ranking(ranker, corpus, "job", split="valid")
    with pytest.raises(ValueError, match="has no truth"):
        evaluate_ranking(ranker, replace(corpus, truth=None), "job", relevance="truth")
    with pytest.raises(ValueError, match="'pools' is unknown"):
        evaluate_ranking(ranker, corpus, "job", candidates="pools")  # type: ignore[arg-type]
    broken = SUITABLE + 0.0
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="query 'j1' hold 1 NaN"):
        evaluate_ranking(Table(broken), corpus, "resume")
    ranker.score = lambda *_, **__: np.zeros((2, 2))  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"'table' gave scores of shape \(2, 2\), asked for \(6, 4\)"):
        evaluate_ranking(ranker, corpus, "resume")


# --- intervals and tests -----------------------------------------------------------------------------


def frame_of(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"candidates": 10, "positives": 1, "map": values})


def test_intervals_are_seeded_hold_the_mean_and_shrink_with_the_queries() -> None:
    values = np.random.default_rng(0).random(400)
    few, many = summarise(frame_of(values[:25])).loc["map"], summarise(frame_of(values)).loc["map"]
    assert few["low"] < few["mean"] < few["high"]
    assert (many["high"] - many["low"]) < 0.5 * (few["high"] - few["low"])
    normal = 1.96 * values.std() / np.sqrt(len(values))
    assert many["high"] - many["mean"] == pytest.approx(normal, rel=0.1)
    pd.testing.assert_series_equal(many, summarise(frame_of(values), seed=0).loc["map"])
    assert not many.equals(summarise(frame_of(values), seed=1).loc["map"])


def test_one_query_has_no_interval() -> None:
    row = summarise(frame_of(np.array([0.5]))).loc["map"]
    assert row["mean"] == 0.5
    assert np.isnan(row["low"])
    assert np.isnan(row["high"])


def test_resamples_with_an_undefined_statistic_are_left_out_of_the_interval() -> None:
    def ratio(part: np.ndarray, whole: np.ndarray, axis: int) -> np.ndarray:
        total = whole.sum(axis=axis)
        return np.where(total > 0, part.sum(axis=axis) / np.maximum(total, 1), np.nan)

    low, high = bootstrap_interval([np.array([1, 0, 0]), np.array([1, 0, 0])], ratio, seed=0)
    assert (low, high) == (1.0, 1.0)


def test_the_paired_test_has_its_size_under_the_null_and_finds_a_real_difference() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.5, 0.1, (200, 2, 10))
    p_values = np.array([compare(frame_of(a), frame_of(b), "map").p_value for a, b in draws])
    assert 0.01 <= (p_values <= 0.05).mean() <= 0.09
    assert 0.4 <= (p_values <= 0.5).mean() <= 0.6
    hard = rng.random(200)  # queries differ far more than the rankers: only a paired test can tell
    better = compare(frame_of(hard + rng.normal(0.02, 0.05, 200)), frame_of(hard), "map")
    assert better.p_value < 0.001
    assert 0 < better.low < better.difference < better.high


def test_equal_rankers_are_not_different() -> None:
    frame = frame_of(np.random.default_rng(0).random(50))
    same = compare(frame, frame, "map")
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_comparisons_pair_queries_by_id_and_refuse_others() -> None:
    frame = frame_of(np.random.default_rng(0).random(8)).set_index(pd.Index(list("abcdefgh")))
    assert compare(frame, frame.iloc[::-1], "map").difference == 0.0
    with pytest.raises(ValueError, match="different queries"):
        compare(frame, frame.iloc[1:], "map")
    with pytest.raises(ValueError, match=r"do not both hold 'recall@7': there are .*map"):
        compare(frame, frame, "recall@7")
    with pytest.raises(ValueError, match="differ in candidates or positives"):
        compare(frame, frame.assign(positives=2), "map")
    with pytest.raises(ValueError, match="needs two queries"):
        compare(frame.assign(positives=0), frame.assign(positives=0), "map")


def test_holm_on_a_worked_example() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.01, np.nan, 0.5]), [0.02, np.nan, 0.5])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_only_raises_p_values_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted, raw = holm(p_values), np.array(p_values)
    assert ((adjusted >= raw) & (adjusted <= np.minimum(1, raw * len(raw)))).all()
    assert (np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0).all()


# --- classification ----------------------------------------------------------------------------------


def weighted_f1(label: np.ndarray, predicted: np.ndarray) -> float:
    return float(f1_score(label, predicted, average="weighted", zero_division=0))


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.1, 0.3, 0.30000000000000004, 5.0, -2.0])), min_size=1))
@settings(deadline=None, max_examples=50)
def test_no_threshold_beats_the_tuned_one(pairs: list[tuple[int, float]]) -> None:
    label, score = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    reached = weighted_f1(label, score > tune_threshold(label, score))
    others = [weighted_f1(label, score > threshold) for threshold in [-np.inf, *score]]
    assert reached == pytest.approx(max(others))
    official = weighted_f1(label, score > tune_threshold(label, score, official=True))
    assert official == pytest.approx(max(others[1:]))


def test_thresholds_lie_midway_unless_official() -> None:
    label, score = [0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]
    assert tune_threshold(label, score) == pytest.approx(0.4)
    assert tune_threshold(label, score, official=True) == 0.2
    assert tune_threshold([1, 1], [0.2, 0.3]) < 0.2
    assert tune_threshold([1, 1], [0.2, 0.3], official=True) == 0.2  # the lowest pair cannot be accepted


@pytest.fixture
def labelled() -> Callable[..., Corpus]:
    def build(valid: str, test: str) -> Corpus:
        frames = {
            side: pd.DataFrame({"text": "words", "split": "any"}, index=ids)
            for side, ids in (("resumes", RESUMES), ("jobs", JOBS))
        }
        table = pd.concat([labels(valid, "valid"), labels(test, "test")], ignore_index=True)
        return Corpus(frames["resumes"], frames["jobs"], table, regime="warm")

    return build


def test_classification_by_hand(labelled: Callable[..., Corpus]) -> None:
    scores = np.zeros((6, 4))
    scores[0], scores[1] = [0.9, 0.8, 0.3, 0.2], [0.7, 0.5, 0.6, 0.1]
    corpus = labelled("r0 j0 1, r0 j1 1, r0 j2 0, r0 j3 0", "r1 j0 1, r1 j1 1, r1 j2 0, r1 j3 0")
    result = evaluate_classification(Table(scores), corpus)
    assert result.threshold == pytest.approx(0.55)
    assert result.pairs["predicted"].tolist() == [1, 0, 1, 0]
    assert result.means() == {"f1_weighted": 0.5, "roc_auc": 0.75, "precision": 0.5, "recall": 0.5}
    assert result.notes == ()


def test_a_pair_at_the_threshold_is_not_accepted(labelled: Callable[..., Corpus]) -> None:
    scores = np.zeros((6, 4))
    scores[0], scores[1] = [0.2, 0.9, 0, 0], [0.2, 0.9, 0.1, 0]
    corpus = labelled("r0 j0 0, r0 j1 1", "r1 j0 0, r1 j1 1, r1 j2 0")
    result = evaluate_classification(Table(scores), corpus, official=True)
    assert result.threshold == 0.2
    assert result.pairs["predicted"].tolist() == [0, 1, 0]


def test_classification_metrics_agree_with_sklearn(labelled: Callable[..., Corpus]) -> None:
    rng = np.random.default_rng(3)
    cells = [f"{r} {j} {rng.integers(0, 2)}" for r in RESUMES for j in JOBS]
    ranker = Table(rng.integers(0, 6, (6, 4)) / 5)
    result = evaluate_classification(ranker, labelled(", ".join(cells[:12]), ", ".join(cells[12:])))
    label, score, predicted = (result.pairs[column] for column in ("label", "score", "predicted"))
    assert result.means() == pytest.approx(
        {
            "f1_weighted": f1_score(label, predicted, average="weighted"),
            "roc_auc": roc_auc_score(label, score),
            "precision": precision_score(label, predicted),
            "recall": recall_score(label, predicted),
        }
    )
    summary = result.summary()
    assert (summary["low"] <= summary["mean"]).all()
    assert (summary["mean"] <= summary["high"]).all()
    pd.testing.assert_frame_equal(summary, result.summary(seed=0))


def test_degenerate_classifications_are_reported(labelled: Callable[..., Corpus]) -> None:
    rising = Table(np.arange(24.0).reshape(6, 4)[::-1])
    nobody = evaluate_classification(rising, labelled("r0 j0 1, r0 j1 0, r0 j2 0", "r5 j0 1, r5 j1 0"))
    assert nobody.notes == ("no test pair is above the threshold: precision is undefined",)
    assert np.isnan(nobody.means()["precision"])
    assert nobody.means()["recall"] == 0.0
    one_class = evaluate_classification(rising, labelled("r0 j0 1, r0 j1 1", "r5 j0 0, r5 j1 0"))
    assert one_class.notes[:2] == ("valid labels hold one class", "test labels hold one class")
    assert np.isnan(one_class.means()["roc_auc"])
    assert np.isnan(one_class.means()["recall"])


def test_classification_that_cannot_be_done_is_refused(labelled: Callable[..., Corpus], corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="has no valid labels"):
        evaluate_classification(Table(SUITABLE + 0.0), corpus)
    scores = SUITABLE + 0.0
    scores[1, 1] = np.inf
    with pytest.raises(ValueError, match="no finite numbers"):
        evaluate_classification(Table(scores), labelled("r0 j0 1, r1 j1 0", "r2 j0 1"))


def test_graded_lists_use_exponential_gains():
    grades = pd.DataFrame({"resume_id": ["a", "b", "a"], "job_id": ["y", "y", "x"], "score": [1, 3, 2]})

    class Alphabetical:
        name = "alphabetical"

        def score_pairs(self, resume_ids, job_ids):
            return np.array([{"a": 1.0, "b": 0.0}[resume] for resume in resume_ids])

    measured = evaluate_graded(Alphabetical(), grades)["ndcg@10"]
    discount = 1 / np.log2(3)
    assert measured["x"] == 1.0
    assert measured["y"] == pytest.approx((1 + 7 * discount) / (7 + discount))
    assert graded_baseline(grades)["ndcg@10"]["y"] == pytest.approx((measured["y"] + 1) / 2)
