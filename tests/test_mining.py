"""Mining: bands equal a full sort, nothing known to be positive is mined, draws are seeded, files round-trip."""

import json
from itertools import pairwise

import faiss
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from confitlib.corpus import LABEL_COLUMNS, RANKING_COLUMNS, Corpus, other
from confitlib.mining import (
    STRATEGIES,
    Embeddings,
    Negatives,
    check_mining,
    mine,
    read_official,
    strategies,
    write_official,
)
from confitlib.mining.ranking import band_window
from confitlib.mining.strategies import MiningProblem, band, document_ids

FIXED = ("in_batch", "top", "positive_aware", "bm25", "passage_bm25")  # nothing is drawn
OF_THEIR_OWN = ("chosen_band", "synthetic")  # need a validation split, or written negatives: see test_strategies.py
FREE = [name for name in STRATEGIES if name not in OF_THEIR_OWN]
SIZE = {name: {"n": 3} for name in FREE} | {"rejected": {}, "band": {"lo": 0.1, "hi": 0.5}}
SIZE |= {name: {"n": 3, "k": 9} for name in ("ance", "simans")} | {"trisampler": {"n": 3, "k": 9, "max_angle": 180}}
SIZE |= {"band_aware": {"lo": 0.0, "hi": 1.0}}


def make_corpus(resumes, jobs, labels=(), rankings=(), more=None, accepted=()):
    """Documents are {id: text} or {id: (text, split)}; labels are (resume, job, label[, split])."""
    tables = {}
    for side, documents in (("resumes", resumes), ("jobs", jobs)):
        rows = {i: value if isinstance(value, tuple) else (value, "train") for i, value in documents.items()}
        tables[side] = pd.DataFrame.from_dict(rows, orient="index", columns=["text", "split"]).rename_axis(side[:-1])
        tables[side] = tables[side].assign(**(more or {}).get(side, {}))
    rows = [label if len(label) == 4 else (*label, "train") for label in labels]
    return Corpus(
        tables["resumes"],
        tables["jobs"],
        pd.DataFrame(rows, columns=LABEL_COLUMNS).astype({"label": int}),
        pd.DataFrame(list(rankings), columns=RANKING_COLUMNS).astype({"label": int}),
        accepted=frozenset(accepted),
    )


def line_up(corpus, scores):
    """Embeddings with which every resume-job pair has the given integer score, exactly."""
    return Embeddings(np.asarray(scores, dtype=np.float32), np.eye(len(corpus.jobs), dtype=np.float32))


def random_case(seed, n_resumes=40, n_jobs=30, levels=None):
    """A labelled corpus with shuffled ids and embeddings: cosines, or whole numbers with many ties."""
    rng = np.random.default_rng(seed)
    resumes = {f"r{i:03d}": f"resume {i}" for i in rng.permutation(n_resumes)}
    jobs = {f"j{i:03d}": f"job {i}" for i in rng.permutation(n_jobs)}
    cells = rng.choice(n_resumes * n_jobs, size=n_resumes * n_jobs // 8, replace=False)
    labels = [(list(resumes)[c // n_jobs], list(jobs)[c % n_jobs], int(rng.integers(2))) for c in cells]
    sizes = (n_resumes, n_jobs)
    vectors = [rng.integers(-levels, levels + 1, (n, 3)) if levels else rng.normal(size=(n, 16)) for n in sizes]
    if not levels:
        vectors = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
    return make_corpus(resumes, jobs, labels), Embeddings(*(v.astype(np.float32) for v in vectors))


def brute_rankings(corpus, embeddings, target, remove=True):
    """Every labelled query's ranking of the pool by plain Python: score down, id up."""
    scores = embeddings.resumes @ embeddings.jobs.T
    scores = scores.T if target == "resume" else scores
    query_side = other(target)
    positives = corpus.labels[corpus.labels["label"] == 1]
    known = set(zip(positives[f"{query_side}_id"], positives[f"{target}_id"], strict=True)) if remove else set()
    queries, pool = list(corpus.documents(query_side).index), list(corpus.documents(target).index)
    rankings = {}
    for query in sorted(set(corpus.labels[f"{query_side}_id"])):
        row = scores[queries.index(query)]
        left = [(-row[i], item) for i, item in enumerate(pool) if (query, item) not in known]
        rankings[query] = [item for _, item in sorted(left)]
    return rankings


def shuffled(corpus, embeddings, seed):
    """The same documents and vectors with the rows of both frames in another order."""
    rng = np.random.default_rng(seed)
    resumes, jobs = rng.permutation(len(corpus.resumes)), rng.permutation(len(corpus.jobs))
    again = Corpus(corpus.resumes.iloc[resumes], corpus.jobs.iloc[jobs], corpus.labels, corpus.rankings)
    return again, Embeddings(embeddings.resumes[resumes], embeddings.jobs[jobs])


# Windows


@pytest.mark.parametrize(
    ("candidates", "lo", "hi", "window"),
    [
        (100, 0.03, 0.04, (3, 4)),
        (100, 0.29, 0.57, (29, 57)),  # both products fall just short of a whole number in floating point
        (20, 0.03, 0.04, (0, 1)),
        (34, 0.03, 0.04, (1, 2)),
        (1, 0.9, 1.0, (0, 1)),
        (3, 0.999999999999, 1.0, (2, 3)),
        (0, 0.03, 0.04, (0, 0)),
        (7, 0.0, 1.0, (0, 7)),
    ],
)
def test_band_window(candidates, lo, hi, window):
    start, stop = band_window(np.array([candidates]), lo, hi)
    assert (start[0], stop[0]) == window


# The band


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.tuples(st.integers(2, 12), st.integers(2, 12)),
    target=st.sampled_from(["resume", "job"]),
    band=st.sampled_from([(0.0, 0.01), (0.03, 0.04), (0.2, 0.5), (0.5, 1.0), (0.97, 1.0)]),
    levels=st.sampled_from([0, 1, 3]),
)
def test_band_equals_a_brute_force_reading(seed, sizes, target, band, levels):
    corpus, embeddings = random_case(seed, *sizes, levels=levels + 1)
    mined = mine("band", corpus, embeddings=embeddings, target=target, lo=band[0], hi=band[1])
    for query, ranking in brute_rankings(corpus, embeddings, target).items():
        first, last = (int(np.floor(bound * len(ranking) + 1e-9)) for bound in band)
        assert mined.of(query) == ranking[first : max(last, first + 1)]


def test_rank_percentile_and_score_describe_the_ranking():
    corpus, embeddings = random_case(3)
    mined = mine("band", corpus, embeddings=embeddings, target="job", lo=0.1, hi=0.4)
    rankings, scores = brute_rankings(corpus, embeddings, "job"), embeddings.resumes @ embeddings.jobs.T
    for row in mined.table.itertuples():
        ranking = rankings[row.query_id]
        assert ranking[row.rank] == row.negative_id
        assert row.percentile == row.rank / len(ranking)
        cell = corpus.positions("resume", [row.query_id])[0], corpus.positions("job", [row.negative_id])[0]
        assert row.score == pytest.approx(scores[cell], abs=1e-6)


@pytest.mark.parametrize("target", ["resume", "job"])
def test_adjacent_bands_tile_the_ranking(target):
    corpus, embeddings = random_case(1)
    edges = [0.0, 0.1, 0.25, 0.6, 1.0]
    bands = [mine("band", corpus, embeddings=embeddings, target=target, lo=lo, hi=hi) for lo, hi in pairwise(edges)]
    for query, ranking in brute_rankings(corpus, embeddings, target).items():
        assert [item for band in bands for item in band.of(query)] == ranking


def test_the_definition_and_the_kernel_give_one_table(monkeypatch):
    for levels in (None, 2):
        corpus, embeddings = random_case(5, levels=levels)
        ask = {"embeddings": embeddings, "target": "job", "lo": 0.1, "hi": 0.9, "n": 7}
        defined = mine("band", corpus, **ask).table
        monkeypatch.setattr(strategies, "PLAIN", 0)
        assert_frame_equal(mine("band", corpus, **ask).table, defined)
        monkeypatch.undo()


def test_band_and_top_agree_at_the_top():
    corpus, embeddings = random_case(2)
    best = mine("top", corpus, embeddings=embeddings, target="job", n=5)
    rankings = brute_rankings(corpus, embeddings, "job")
    assert {query: best.of(query) for query in rankings} == {q: ranking[:5] for q, ranking in rankings.items()}


def test_one_document_pool():
    corpus = make_corpus({"r": "a"}, {"j": "b"}, [("r", "j", 0)])
    mined = mine("band", corpus, embeddings=line_up(corpus, [[1]]), target="job")
    assert mined.of("r") == ["j"]


def test_queries_whose_whole_pool_is_positive_are_reported():
    corpus = make_corpus({"r1": "a", "r2": "b"}, {"j": "c"}, [("r1", "j", 1), ("r2", "j", 0)])
    mined = mine("band", corpus, embeddings=line_up(corpus, [[1], [1]]), target="job", n=1)
    assert (mined.of("r1"), mined.of("r2")) == ([], ["j"])
    assert mined.statistics["queries_without_negatives"] == 1
    assert mined.statistics["queries_with_fewer_than_n"] == 1


@pytest.mark.parametrize("strategy", FREE)
def test_no_labels_and_no_training_documents_give_an_empty_table(strategy):
    corpus = make_corpus({"r": ("a", "test")}, {"j": ("b", "test")})
    for queries in ("labelled", "train"):
        embeddings = line_up(corpus, [[1]])
        mined = mine(strategy, corpus, embeddings=embeddings, target="job", queries=queries, **SIZE[strategy])
        assert mined.table.empty
        assert mined.statistics["queries"] == 0


@pytest.mark.parametrize("strategy", FREE)
@pytest.mark.parametrize("sides", [({}, {"j": "b"}), ({"r": "a"}, {}), ({}, {})])
@pytest.mark.parametrize("target", ["job", "resume"])
def test_a_side_without_documents_is_mined_like_any_other(strategy, sides, target):
    corpus = make_corpus(*sides)
    embeddings = Embeddings(*(np.ones((len(side), 1), dtype=np.float32) for side in sides))
    mined = mine(strategy, corpus, embeddings=embeddings, target=target, queries="train", **SIZE[strategy])
    assert mined.table.empty and mined.statistics["queries"] == len(corpus.documents(other(target)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_parameters_are_checked_without_a_corpus(strategy):
    right = SIZE.get(strategy, {"n": 3})
    check_mining(strategy, **right)
    for wrong in ({"seed": -1}, {"n": 0}, {"unknown": 1}, {"pool": "all"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            check_mining(strategy, **right | wrong)
    with pytest.raises(ValueError, match=r"width=5 must lie in \(0, 0.5\]"):
        check_mining("chosen_band", n=3, width=5)
    with pytest.raises(ValueError, match="0 <= lo < hi <= 1"):
        check_mining("band", lo=0.5, hi=0.2)


def test_empty_pool_leaves_every_query_without_negatives():
    corpus = make_corpus({"r": "a"}, {"j": ("b", "test")})
    mined = mine("band", corpus, embeddings=line_up(corpus, [[1]]), target="job", queries="train")
    assert mined.statistics["queries_without_negatives"] == mined.statistics["queries"] == 1


# What is removed


@pytest.fixture
def crowded():
    """Job j1 accepted r1; r2 copies r1 (as does its copy r3), r4 says the same as r2; j2 repeats j1's text."""
    resumes = {"r1": "Java  developer", "r2": "java programmer", "r3": "coder", "r4": "JAVA programmer ", "r5": "cook"}
    resumes |= {f"x{i}": f"somebody {i}" for i in range(6)}
    jobs = {"j1": "Wanted: Java", "j2": "wanted: java", "j3": "Wanted: cook", "j4": ("Later", "test")}
    labels = [("r1", "j1", 1), ("r5", "j3", 1), ("x0", "j1", 0), ("x1", "j2", 0), ("r4", "j1", 0)]
    return make_corpus(resumes, jobs, labels, more={"resumes": {"copy_of": ["", "r1", "r2", *[""] * 8]}})


@pytest.mark.parametrize("strategy", FREE)
def test_positives_copies_and_twins_are_never_mined(strategy, crowded):
    rng = np.random.default_rng(0)
    embeddings = line_up(crowded, rng.integers(0, 9, (11, 4)))
    settings = {**SIZE[strategy], "n": 11} | ({"lo": 0.0, "hi": 1.0} if strategy == "band" else {})
    mined = mine(strategy, crowded, embeddings=embeddings, target="resume", **settings)
    clean = {"r5"} | {f"x{i}" for i in range(6)}
    for job in ("j1", "j2"):
        free = {"j1": {"x0"}, "j2": {"x1"}}[job] if strategy == "rejected" else clean
        assert set(mined.of(job)) <= free
        if strategy in ("rejected", "random", "bm25", "top", "band", "ance", "simans"):  # these take all they can get
            assert set(mined.of(job)) == free
    counts = {"labelled positive": 0, "augmented copy": 0, "same text": 1}
    pool_counts = {"labelled positive": 2, "augmented copy": 2, "same text": 5}
    assert mined.removed == (counts if strategy == "rejected" else pool_counts)


@pytest.mark.parametrize("target", ["resume", "job"])
def test_positives_of_all_splits_and_candidate_lists_are_removed(target):
    resumes = {"r1": ("a", "any"), "r2": ("b", "any"), "r3": ("c", "any"), "r4": ("d", "any")}
    jobs = {"j1": ("e", "any"), "j2": ("f", "any"), "j3": ("g", "any"), "j4": ("h", "any")}
    labels = [("r1", "j1", 1, "train"), ("r1", "j2", 1, "test"), ("r2", "j1", 1, "valid")]
    listed = [("job", "test", "r1", "j3", 1), ("resume", "valid", "j1", "r3", 1), ("job", "test", "r1", "j4", -1)]
    corpus = make_corpus(resumes, jobs, labels, listed, accepted=["split_leak"])
    mined = mine("band", corpus, embeddings=line_up(corpus, np.ones((4, 4))), target=target, lo=0, hi=1)
    assert mined.of("r1" if target == "job" else "j1") == (["j4"] if target == "job" else ["r4"])


def test_withheld_or_missing_texts_are_no_twins():
    stub = "[[dummy_text]]"
    corpus = make_corpus(
        {"r1": stub, "r2": stub, "r3": "", "r4": ""},
        {"j1": "x"},
        [("r1", "j1", 1), ("r3", "j1", 1)],
        accepted=["placeholder", "empty_text"],
    )
    mined = mine("band", corpus, embeddings=line_up(corpus, np.ones((4, 1))), target="resume", lo=0, hi=1)
    assert mined.of("j1") == ["r2", "r4"]


def test_same_text_compares_all_fields():
    resumes = {"r1": "same", "r2": "same", "r3": "same"}
    more = {"resumes": {"city": ["Bonn", "Berlin", " bonn"]}}
    corpus = make_corpus(resumes, {"j1": "x"}, [("r1", "j1", 1)], more=more)
    mined = mine("band", corpus, embeddings=line_up(corpus, np.ones((3, 1))), target="resume", lo=0, hi=1)
    assert mined.of("j1") == ["r2"]


def test_pool_and_queries_are_training_documents():
    resumes = {"r1": "a", "r2": "b", "r3": ("c", "test"), "r4": "d"}
    corpus = make_corpus(resumes, {"j1": "x", "j2": "y"}, [("r1", "j1", 1), ("r2", "j1", 0)])
    embeddings = line_up(corpus, np.ones((4, 2)))
    everyone = mine("band", corpus, embeddings=embeddings, target="resume", lo=0, hi=1, queries="train")
    assert {job: everyone.of(job) for job in ("j1", "j2")} == {"j1": ["r2", "r4"], "j2": ["r1", "r2", "r4"]}
    labelled = mine("band", corpus, embeddings=embeddings, target="resume", lo=0, hi=1, pool="labelled")
    assert labelled.of("j1") == ["r2"]
    with pytest.raises(KeyError, match="job 'j2' was not a query"):
        labelled.of("j2")


# Draws


@pytest.mark.parametrize("strategy", FREE)
@pytest.mark.parametrize("target", ["resume", "job"])
def test_draws_are_seeded_and_blind_to_the_order_of_documents(strategy, target):
    corpus, embeddings = random_case(11, levels=2)
    settings = {**SIZE[strategy], "n": 3, "target": target}
    table = mine(strategy, corpus, embeddings=embeddings, seed=4, **settings).table
    again, moved = shuffled(corpus, embeddings, seed=1)
    assert_frame_equal(mine(strategy, again, embeddings=moved, seed=4, **settings).table, table)
    if strategy not in FIXED:
        assert not mine(strategy, corpus, embeddings=embeddings, seed=5, **settings).table.equals(table)


def test_a_draw_keeps_part_of_the_band_in_rank_order():
    corpus, embeddings = random_case(8)
    whole = mine("band", corpus, embeddings=embeddings, target="job", lo=0.1, hi=0.6)
    drawn = mine("band", corpus, embeddings=embeddings, target="job", lo=0.1, hi=0.6, n=4)
    for query, part in drawn.table.groupby("query_id"):
        assert len(part) == 4
        assert part["rank"].is_monotonic_increasing
        assert set(part["negative_id"]) < set(whole.of(query))


@pytest.mark.parametrize("n", [1, 3, 50])
def test_drawn_ranks_are_the_draw_from_the_whole_band(n, monkeypatch):
    monkeypatch.setattr(strategies, "PLAIN", 0)
    corpus, embeddings = random_case(6, levels=2)
    queries, pool = document_ids(corpus, "resume", "train"), document_ids(corpus, "job", "train")
    problems = [MiningProblem(corpus, "job", queries, pool, embeddings, size, seed=3) for size in (n, None)]
    drawn, whole = (band(problem, 0.1, 0.4).hits for problem in problems)
    for found, expected in zip(drawn, problems[0].draw(whole), strict=True):
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("strategy", FREE)
def test_a_query_draws_the_same_whoever_else_asks(strategy):
    corpus, embeddings = random_case(12, n_jobs=12)
    settings = {**SIZE[strategy], "n": 3, "target": "resume", "embeddings": embeddings}
    fewer = corpus.labels[corpus.labels["job_id"] > "j003"]
    mined = mine(strategy, corpus, **settings)
    rest = mine(strategy, Corpus(corpus.resumes, corpus.jobs, fewer), **settings)
    assert len(rest.queries) == len(mined.queries) - 4
    assert {job: rest.of(job) for job in rest.queries.index} == {job: mined.of(job) for job in rest.queries.index}


def test_random_draws_are_uniform_over_the_allowed_pool():
    resumes, jobs = {f"r{i}": f"resume {i}" for i in range(600)}, {f"j{i}": f"job {i}" for i in range(8)}
    corpus = make_corpus(resumes, jobs, [(resume, job, 1) for resume in resumes for job in ("j2", "j3", "j7")])
    counts = mine("random", corpus, target="job", n=2).table["negative_id"].value_counts()
    assert sorted(counts.index) == ["j0", "j1", "j4", "j5", "j6"]
    assert ((counts - 240) ** 2 / 240).sum() < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


def test_rejections_are_those_of_the_training_labels():
    resumes = {"r1": "a", "r2": "b", "t": ("c", "test")}
    jobs = {"j1": "x", "j2": "y", "u": ("z", "test")}
    corpus = make_corpus(resumes, jobs, [("r1", "j1", 0), ("r1", "j2", 0), ("r2", "j1", 1), ("t", "u", 0, "test")])
    mined = mine("rejected", corpus, target="job")
    assert (mined.of("r1"), mined.of("r2")) == (["j1", "j2"], [])
    assert mined.table["rank"].isna().all()
    assert mined.table["score"].isna().all()
    assert np.isnan(mined.score_gap)


# The released procedure


@pytest.mark.parametrize("target", ["resume", "job"])
@pytest.mark.parametrize("band", [(0.03, 0.04), (0.0, 0.2), (0.1, 0.5)])
def test_official_slices_first_and_drops_positives_after(target, band):
    corpus, embeddings = random_case(21, levels=2)
    mined = mine("band", corpus, embeddings=embeddings, target=target, official=True, lo=band[0], hi=band[1])
    pool = set(corpus.labels[f"{target}_id"])
    accepted = corpus.labels[corpus.labels["label"] == 1]
    known = set(zip(accepted[f"{other(target)}_id"], accepted[f"{target}_id"], strict=True))
    dropped = 0
    for query, everything in brute_rankings(corpus, embeddings, target, remove=False).items():
        ranking = [item for item in everything if item in pool]
        part = ranking[int(band[0] * len(ranking)) : int(band[1] * len(ranking))]
        assert mined.of(query) == [item for item in part if (query, item) not in known]
        dropped += sum((query, item) in known for item in part)
    assert mined.removed == {"labelled positive": dropped, "augmented copy": 0, "same text": 0}


def test_official_agrees_with_faiss():
    corpus, embeddings = random_case(34, n_resumes=120, n_jobs=60)
    mined = mine("band", corpus, embeddings=embeddings, target="resume", official=True, lo=0.1, hi=0.2)
    pool = list(corpus.labelled("train")["resume_id"].unique())
    index = faiss.IndexFlatIP(16)
    index.add(embeddings.resumes[corpus.positions("resume", pool)])
    first, last = int(0.1 * len(pool)), int(0.2 * len(pool))
    known = corpus.known_positives().toarray()
    for job in mined.queries.index:
        column = corpus.positions("job", [job])
        found = index.search(embeddings.jobs[column], last)[1][0][first:]
        names = [pool[i] for i in found if not known[corpus.positions("resume", [pool[i]])[0], column[0]]]
        assert mined.of(job) == names


def test_official_bands_may_be_empty_where_ours_are_not():
    corpus, embeddings = random_case(9, n_resumes=15, n_jobs=20)
    official = mine("band", corpus, embeddings=embeddings, target="job", official=True)
    assert official.table.empty
    assert official.statistics["queries_without_negatives"] == len(official.queries)
    ours = mine("band", corpus, embeddings=embeddings, target="job")
    assert ours.statistics["queries_without_negatives"] == 0


# Bad input


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_values_that_spoil_a_ranking_are_refused_by_side_row_and_id(value):
    corpus, embeddings = random_case(0)
    embeddings.jobs[7, 1] = value
    with pytest.raises(ValueError, match=f"job embeddings.*first row 7 .*{corpus.jobs.index[7]}"):
        mine("band", corpus, embeddings=embeddings, target="resume")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "bands"}, "strategy 'bands' is unknown; use one of"),
        ({"target": "resumes"}, "target='resumes' is unknown"),
        ({"n": 0}, r"n=0 must lie in \[1"),
        ({"low": 0.1}, r"strategy 'band' takes \['hi', 'lo'\], not \['low'\]"),
        ({"lo": 0.5, "hi": 0.5}, "got lo=0.5, hi=0.5"),
        ({"hi": float("nan")}, "0 <= lo < hi <= 1"),
        ({"strategy": "top"}, "needs n"),
        ({"strategy": "random"}, "needs n"),
        ({"strategy": "top", "n": 2, "official": True}, "official=True is the released band mining"),
        ({"n": 2, "seed": -1}, "seed=-1 must be at least 0"),
        ({"device": "gpu"}, "device='gpu' is unknown or missing"),
        ({"pool": "all"}, "pool='all' is unknown"),
        ({"embeddings": None}, "pass embeddings="),
        ({"embeddings": Embeddings(np.ones((3, 2)), np.ones((30, 2)))}, r"resume embeddings have shape \[3, 2\]"),
        ({"embeddings": Embeddings(np.ones((40, 2)), np.ones((30, 3)))}, "2 and 3 dimensions"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    corpus, embeddings = random_case(0)
    call = {"strategy": "band", "target": "job", "embeddings": embeddings} | arguments
    with pytest.raises(ValueError, match=message):
        mine(call.pop("strategy"), corpus, **call)


# The table


def test_statistics_add_up():
    corpus, embeddings = random_case(13)
    mined = mine("band", corpus, embeddings=embeddings, target="job", lo=0.2, hi=0.4, n=3)
    statistics, table = mined.statistics, mined.table
    assert statistics["negatives"] == len(table) == sum(len(mined.of(query)) for query in mined.queries.index)
    assert statistics["queries"] == len(mined.queries) == corpus.labels["resume_id"].nunique()
    assert (mined.queries["candidates"] + mined.queries["labelled positive"] == len(corpus.jobs)).all()
    assert mined.removed["labelled positive"] == len(corpus.labelled("train", 1))
    assert statistics["positive"]["count"] == len(corpus.labelled("train", 1))
    assert statistics["negative"]["mean"] == pytest.approx(table["score"].mean())
    positive = corpus.labelled("train", 1)
    scores = pd.DataFrame(embeddings.resumes @ embeddings.jobs.T, corpus.resumes.index, corpus.jobs.index)
    means = {r: np.mean([scores.loc[r, j] for j in part["job_id"]]) for r, part in positive.groupby("resume_id")}
    gaps = [means[row.query_id] - row.score for row in table.itertuples() if row.query_id in means]
    assert statistics["gap"]["count"] == len(gaps)
    assert mined.score_gap == pytest.approx(np.mean(gaps), abs=1e-6)
    assert mined.summary().loc["50%", "negative"] == pytest.approx(table["score"].median())


@pytest.mark.parametrize("strategy", FREE)
def test_save_and_load_round_trip(strategy, tmp_path):
    corpus, embeddings = random_case(17)
    vectors = None if strategy == "rejected" else embeddings
    mined = mine(strategy, corpus, embeddings=vectors, target="job", **SIZE[strategy])
    mined.save(tmp_path / "mined")
    again = Negatives.load(tmp_path / "mined")
    assert_frame_equal(again.table, mined.table)
    assert_frame_equal(again.queries, mined.queries)
    assert (again.target, again.statistics, again.parameters) == (mined.target, mined.statistics, mined.parameters)
    assert again.of(mined.queries.index[0]) == mined.of(mined.queries.index[0])
    assert repr(again) == f"Negatives('job': {len(mined.table)} jobs for {len(mined.queries)} queries)"


def test_fingerprint_tells_contents_apart():
    corpus, embeddings = random_case(17)
    prints = [mine("top", corpus, embeddings=embeddings, target="job", n=n).fingerprint() for n in (2, 2, 3)]
    assert prints[0] == prints[1] != prints[2]


def test_an_incomplete_folder_is_refused(tmp_path):
    corpus, embeddings = random_case(17)
    mine("top", corpus, embeddings=embeddings, target="job", n=1).save(tmp_path)
    (tmp_path / "about.json").write_text("{")
    with pytest.raises(ValueError, match="damaged negatives"):
        Negatives.load(tmp_path)
    (tmp_path / "about.json").unlink()
    with pytest.raises(FileNotFoundError, match="no complete negatives"):
        Negatives.load(tmp_path)


def test_official_json_round_trip(tmp_path):
    corpus, embeddings = random_case(19)
    mined = {target: mine("band", corpus, embeddings=embeddings, target=target) for target in ("resume", "job")}
    write_official(tmp_path / "hard_negatives.json", mined["job"], mined["resume"])
    content = json.loads((tmp_path / "hard_negatives.json").read_text(encoding="utf-8"))
    assert content["r_to_j"] == {query: mined["job"].of(query) for query in mined["job"].queries.index}
    again = read_official(tmp_path / "hard_negatives.json", corpus)
    for target, negatives in mined.items():
        assert {query: again[target].of(query) for query in again[target].queries.index} == {
            query: negatives.of(query) for query in negatives.queries.index
        }
        assert again[target].statistics["negatives"] == negatives.statistics["negatives"]
    again["job"].save(tmp_path / "again")
    assert_frame_equal(Negatives.load(tmp_path / "again").table, again["job"].table)


def test_official_json_keeps_queries_without_negatives(tmp_path):
    corpus = make_corpus({"r1": "a", "r2": "b"}, {"j": "c"}, [("r1", "j", 1), ("r2", "j", 0)])
    mined = {target: mine("rejected", corpus, target=target) for target in ("resume", "job")}
    write_official(tmp_path / "mined.json", mined["job"], mined["resume"])
    assert read_official(tmp_path / "mined.json", corpus)["job"].of("r1") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "mined.json: .*line 1"),
        ('{"r_to_j": {}}', "mined.json: j_to_r is no object"),
        ('{"r_to_j": {"r1": ["nobody"]}, "j_to_r": {}}', "mined.json: r_to_j names 1 unknown job ids, e.g. 'nobody'"),
        ('{"r_to_j": [], "j_to_r": {}}', "mined.json: r_to_j is no object"),
        ('{"r_to_j": {"r1": 3}, "j_to_r": {}}', "mined.json: r_to_j, query 'r1' has no list of ids"),
        ('{"r_to_j": {}, "j_to_r": {"nowhere": []}}', "mined.json: j_to_r names 1 unknown job ids, e.g. 'nowhere'"),
    ],
)
def test_a_foreign_official_file_is_refused(content, message, tmp_path):
    (tmp_path / "mined.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_official(tmp_path / "mined.json", make_corpus({"r1": "a"}, {"j1": "b"}))


def test_directions_must_not_be_swapped(tmp_path):
    corpus = make_corpus({"r1": "a"}, {"j": "c"}, [("r1", "j", 0)])
    jobs, resumes = (mine("rejected", corpus, target=target) for target in ("job", "resume"))
    with pytest.raises(ValueError, match="r_to_j holds jobs"):
        write_official(tmp_path / "mined.json", resumes, jobs)
