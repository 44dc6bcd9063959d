"""Each mining strategy against a plain reading of its formula."""

import numpy as np
import pytest
from pandas.testing import assert_frame_equal
from test_mining import brute_rankings, make_corpus, random_case

from confitlib.audit import audit_bands
from confitlib.augment import synthetic_negatives
from confitlib.corpus import NEGATIVE_FOR, other
from confitlib.encoder import load_encoder
from confitlib.mining import STRATEGIES, Embeddings, choose_band, mine
from confitlib.mining.ranking import Hits
from confitlib.mining.strategies import SIZED, MiningProblem, document_ids, weighted_draw
from confitlib.rankers import InBatch
from confitlib.text import words
from confitlib.training import TrainingConfig

TARGETS = pytest.mark.parametrize("target", ["resume", "job"])
DRAWS = 4000


def score_of(corpus, embeddings, target):
    """A function (query, item) -> inner product."""
    matrix = embeddings.resumes @ embeddings.jobs.T
    rows = {side: {name: row for row, name in enumerate(corpus.documents(side).index)} for side in ("resume", "job")}

    def score(query, item):
        resume, job = (item, query) if target == "resume" else (query, item)
        return matrix[rows["resume"][resume], rows["job"][job]]

    return score


def positives_of(corpus, target):
    accepted = corpus.labelled("train", 1)
    return accepted.groupby(f"{other(target)}_id")[f"{target}_id"].agg(lambda ids: sorted(set(ids))).to_dict()


def test_in_batch_mines_nothing():
    corpus, embeddings = random_case(1)
    mined = mine("in_batch", corpus, embeddings=embeddings, target="job")
    assert mined.table.empty and mined.statistics["queries_without_negatives"] == mined.statistics["queries"] > 0


@TARGETS
def test_ance_draws_uniformly_from_the_top(target):
    corpus, embeddings = random_case(2)
    rankings = brute_rankings(corpus, embeddings, target)
    counts = dict.fromkeys(range(6), 0)
    for seed in range(200):
        mined = mine("ance", corpus, embeddings=embeddings, target=target, n=2, k=6, seed=seed)
        query = next(iter(rankings))
        for item in mined.of(query):
            counts[rankings[query].index(item)] += 1
    assert sum(counts.values()) == 400 and min(counts.values()) > 40  # expected 67 each, 5 standard deviations below


def test_ance_reads_the_top_200_or_a_tenth():
    corpus, embeddings = random_case(3, n_resumes=60)
    mined = mine("ance", corpus, embeddings=embeddings, target="resume", n=3)
    tenth = (mined.queries["candidates"] // 10).clip(lower=3)
    assert (mined.table["rank"].to_numpy() < tenth.loc[mined.table["query_id"]].to_numpy()).all()


def draw_shares(weights, n=1):
    """How often each of some hits is drawn, over many queries of one problem."""
    corpus = make_corpus({f"r{i}": f"r {i}" for i in range(DRAWS)}, {"j": "x"})

    ids = (document_ids(corpus, side, "train") for side in ("resume", "job"))
    problem = MiningProblem(corpus, "job", *ids, None, n, seed=0)
    query = np.repeat(np.arange(DRAWS), len(weights))
    item = np.tile(np.arange(len(weights)), DRAWS)
    hits = Hits(query, item, item, item.astype(np.float32))
    with np.errstate(divide="ignore"):
        drawn = weighted_draw(problem, hits, np.tile(np.log(weights), DRAWS))
    return np.bincount(drawn.item, minlength=len(weights)) / DRAWS


def test_weighted_draws_have_the_chances_of_their_weights():
    weights = np.array([0.5, 0.3, 0.2, 0.0])
    np.testing.assert_allclose(draw_shares(weights), weights, atol=0.03)  # three standard deviations of 4,000 draws


def test_weighted_draws_are_without_replacement():
    shares = draw_shares(np.array([0.5, 0.3, 0.2, 0.0]), n=2)
    second = [0.5 + 0.3 * 0.5 / 0.7 + 0.2 * 0.5 / 0.8, None, None, 0.0]
    assert shares.sum() == 2 and shares[0] == pytest.approx(second[0], abs=0.03) and shares[3] == 0


@TARGETS
@pytest.mark.parametrize("b", [0.0, -4.0])
def test_simans_prefers_what_scores_like_a_positive(target, b):
    corpus, embeddings = random_case(4)
    score, positives = score_of(corpus, embeddings, target), positives_of(corpus, target)
    mined = mine("simans", corpus, embeddings=embeddings, target=target, n=1, a=1e6, b=b, k=12)
    rankings = brute_rankings(corpus, embeddings, target)
    for query, accepted in positives.items():
        peak = np.mean([score(query, item) for item in accepted]) + 0.05 * b
        (item,) = mined.of(query)
        assert item == min(rankings[query][:12], key=lambda one: abs(score(query, one) - peak))


@TARGETS
def test_trisampler_keeps_the_angle_and_prefers_the_near_side(target):
    corpus, embeddings = random_case(5)
    score, positives = score_of(corpus, embeddings, target), positives_of(corpus, target)
    vectors = dict(zip(corpus.documents(target).index, embeddings.of(target), strict=True))
    mined = mine("trisampler", corpus, embeddings=embeddings, target=target, n=30, k=30, max_angle=20)
    rankings = brute_rankings(corpus, embeddings, target)
    for query, accepted in positives.items():
        known = np.mean([score(query, item) for item in accepted])
        allowed = []
        for item in rankings[query][:30]:
            side = np.mean([vectors[one] @ vectors[item] for one in accepted])
            turn = abs(np.degrees(np.arccos(np.clip(known, -1, 1)) - np.arccos(np.clip(score(query, item), -1, 1))))
            if side > score(query, item) + 1e-6 and turn <= 20:
                allowed.append(item)
        assert set(mined.of(query)) == set(allowed)


@TARGETS
@pytest.mark.parametrize("rule", [{}, {"ratio": None, "margin": 0.3}, {"margin": 0.2}])
def test_positive_aware_keeps_what_scores_clearly_lower(target, rule):
    corpus, embeddings = random_case(7)
    score, positives = score_of(corpus, embeddings, target), positives_of(corpus, target)
    mined = mine("positive_aware", corpus, embeddings=embeddings, target=target, n=4, **rule)
    chosen = {"ratio": 0.95, "margin": None} | rule
    for query, ranking in brute_rankings(corpus, embeddings, target).items():
        limits = [score(query, item) for item in positives.get(query, [])]
        if not limits:
            assert mined.of(query) == []
            continue
        bounds = [min(limits) - 0.05 * abs(min(limits))] if chosen["ratio"] else []
        bounds += [min(limits) - chosen["margin"]] if chosen["margin"] else []
        assert mined.of(query) == [item for item in ranking if score(query, item) < min(bounds)][:4]


@TARGETS
def test_band_aware_is_the_band_less_what_is_too_close(target):
    corpus, embeddings = random_case(8)
    score, positives = score_of(corpus, embeddings, target), positives_of(corpus, target)
    ask = {"embeddings": embeddings, "target": target, "lo": 0.1, "hi": 0.6}
    band, aware = mine("band", corpus, **ask), mine("band_aware", corpus, **ask)
    for query in band.queries.index:
        limit = min((score(query, item) for item in positives.get(query, [])), default=-np.inf)
        limit -= 0.05 * abs(limit) if np.isfinite(limit) else 0
        assert aware.of(query) == [item for item in band.of(query) if score(query, item) < limit]


def worded():
    """Jobs about cooking and coding; two applicants; r1's positive is j1."""
    resumes = {"r1": "chef of french cuisine", "r2": "java developer", "r3": "nurse"}
    jobs = {"j1": "kitchen help wanted, stove", "j2": "chef for french cuisine", "j3": "java and kotlin developer"}
    jobs |= {"j4": "kitchen stove cleaner", "j5": "java teacher"}
    return make_corpus(resumes, jobs, [("r1", "j1", 1), ("r2", "j3", 1), ("r3", "j5", 0)])


def test_bm25_mines_by_the_words_of_the_query():
    mined = mine("bm25", worded(), target="job", n=1)
    assert mined.of("r1") == ["j2"] and mined.of("r2") == ["j5"]
    assert mined.table["rank"].tolist() == [0, 0, 0] and mined.table["score"].isna().all()


def test_passage_bm25_mines_by_the_words_of_the_positive():
    mined = mine("passage_bm25", worded(), target="job", n=1)
    assert mined.of("r1") == ["j4"] and mined.of("r2") == ["j5"] and mined.of("r3") == []


def test_bm25_agrees_with_the_formula():
    corpus = worded()
    jobs = [words(text) for text in corpus.jobs["text"]]
    mean = np.mean([len(job) for job in jobs])

    def brute(query, job):
        total = 0.0
        for word in set(query):
            df = sum(word in one for one in jobs)
            tf = job.count(word)
            if tf:
                idf = np.log(1 + (len(jobs) - df + 0.5) / (df + 0.5))
                total += idf * tf * 2.5 / (tf + 1.5 * (0.25 + 0.75 * len(job) / mean))
        return total

    for resume, known in (("r1", "j1"), ("r2", "j3")):
        query = words(corpus.resumes.loc[resume, "text"])
        scores = {name: brute(query, job) for name, job in zip(corpus.jobs.index, jobs, strict=True) if name != known}
        order = sorted(scores, key=lambda name: (-scores[name], name))
        assert mine("bm25", corpus, target="job", n=4).of(resume) == order[:4]


@TARGETS
def test_graph_walks_among_the_neighbours_of_the_positives(target):
    corpus, embeddings = random_case(9)
    mined = mine("graph", corpus, embeddings=embeddings, target=target, n=2, edges=2, restart=0.5)
    names, vectors = list(corpus.documents(target).index), embeddings.of(target)
    nearest = {
        name: {names[place] for place in np.argsort(-(vectors @ vectors[row]))[:3]} - {name}
        for row, name in enumerate(names)
    }
    positives = positives_of(corpus, target)
    for query, accepted in positives.items():
        reached = set(accepted)
        for _ in range(30):  # everything a walk can come to
            reached |= set().union(*(nearest[name] for name in reached))
        assert set(mined.of(query)) <= reached - set(accepted)


@pytest.mark.parametrize(
    ("strategy", "wrong"),
    [
        ("simans", {"temperature": 0}),
        ("trisampler", {"max_angle": -1}),
        ("bm25", {"variant": "x"}),
        ("positive_aware", {"ratio": None}),
        ("positive_aware", {"margin": float("nan"), "ratio": None}),
        ("band_aware", {"lo": 0.5, "hi": 0.2}),
        ("graph", {"restart": 1.5}),
        ("ance", {"k": 0}),
    ],
)
def test_unusable_parameters_are_named(strategy, wrong):
    corpus, embeddings = random_case(10)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        mine(strategy, corpus, embeddings=embeddings, target="job", n=2, **wrong)


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - set(SIZED)))
def test_strategies_without_a_size_of_their_own_ask_for_n(strategy):
    corpus, embeddings = random_case(11)
    with pytest.raises(ValueError, match="needs n"):
        mine(strategy, corpus, embeddings=embeddings, target="job")


# The chosen band


@TARGETS
def test_the_chosen_band_is_what_band_mines_there(tiny, target):
    embeddings = Embeddings.of_corpus(load_encoder("static"), tiny)
    chosen = choose_band(tiny, embeddings, target, bound=0.5)
    ask = {"embeddings": embeddings, "target": target, "n": 2, "seed": 3}
    mined = mine("chosen_band", tiny, bound=0.5, **ask)
    assert_frame_equal(mined.table, mine("band", tiny, lo=chosen.lo, hi=chosen.hi, **ask).table)
    assert chosen.matches == len(tiny.labelled("valid", 1))


def planted(shares, n_pool=400, n_queries=300, seed=0):
    """Held-out matches that beat the given shares of the training pool, one a query."""
    rng = np.random.default_rng(seed)
    resumes = {f"r{i:03d}": f"resume {i}" for i in range(n_pool)}
    matches = {f"m{i:03d}": (f"match {i}", "valid") for i in range(n_queries)}
    jobs = {f"j{i:03d}": (f"job {i}", "valid") for i in range(n_queries)}
    labels = [(f"m{i:03d}", f"j{i:03d}", 1, "valid") for i in range(n_queries)]
    corpus = make_corpus({**resumes, **matches}, jobs, labels)
    height = np.concatenate([np.arange(n_pool)[::-1] / n_pool, 1 - shares(rng, n_queries)])
    vectors = np.stack([height, np.zeros(len(height))], axis=1).astype(np.float32)
    return corpus, Embeddings(vectors, np.tile(np.float32([1, 0]), (n_queries, 1)))


def test_the_estimate_finds_where_matches_lie():
    """Nine tenths lie in the first tenth; the rest is spread, at (0.1 / 10) / (0.9 + 0.1 / 10) of its density."""
    spread = 0.01 / 0.91
    found = []
    for seed in range(5):
        corpus, embeddings = planted(
            lambda rng, n: np.where(rng.random(n) < 0.9, rng.uniform(0, 0.1, n), rng.random(n)), seed=seed
        )
        chosen = choose_band(corpus, embeddings, "resume", width=0.1, bound=0.1)
        found.append(chosen.curve["rate"].iloc[len(chosen.curve) // 2])
        assert chosen.lo == pytest.approx(0.1, abs=0.051) and chosen.hi == pytest.approx(chosen.lo + 0.1)
        assert (np.diff(chosen.curve["rate"]) <= 1e-12).all()
    assert np.mean(found) == pytest.approx(spread, rel=0.3)  # 135 matches in all lie there: three standard errors


def test_a_bound_that_no_band_meets_is_an_error():
    corpus, embeddings = planted(lambda rng, n: rng.random(n))
    with pytest.raises(ValueError, match="every band of width"):
        choose_band(corpus, embeddings, "resume", bound=0.05)


def test_without_held_out_matches_no_band_can_be_chosen():
    corpus, embeddings = random_case(12)
    with pytest.raises(ValueError, match="valid split needs accepted pairs"):
        choose_band(corpus, embeddings, "job")
    with pytest.raises(ValueError, match="bound"):
        choose_band(corpus, embeddings, "job", bound=0)


def test_the_estimate_bounds_the_exact_rate(tiny):
    embeddings = InBatch(config=TrainingConfig(epochs=2, batch_size=8)).fit(tiny).embeddings
    curve = choose_band(tiny, embeddings, "resume", width=0.1, bound=0.9).curve
    exact = audit_bands(tiny, embeddings, "resume", [0, 0.1, 0.2, 0.3, 0.5])
    merged = curve.iloc[::2].reset_index(drop=True).iloc[:3]
    assert (merged["high"] >= exact["rate"].iloc[:3]).all()


# Written negatives


@pytest.fixture(scope="module")
def told(tiny):
    return synthetic_negatives(tiny, "offline", count=30, seed=0, targets=["resume"])


def test_written_negatives_come_first_and_the_band_fills_up(told):
    embeddings = Embeddings.of_corpus(load_encoder("static"), told)
    ask = {"target": "resume", "embeddings": embeddings, "seed": 2}
    mined = mine("synthetic", told, n=4, share=0.25, lo=0.1, hi=0.5, **ask)
    written = told.resumes.loc[told.resumes[NEGATIVE_FOR] != "", NEGATIVE_FOR]
    band_alone = mine("band", told, lo=0.1, hi=0.5, n=4, **ask)
    for query in mined.queries.index:
        own = set(mined.of(query)) & set(written.index)
        assert own <= set(written.index[written == query])
        assert len(own) == min(1, (written == query).sum()) and len(mined.of(query)) == 4
        assert set(mined.of(query)) - own <= set(band_alone.of(query))
    assert set(written) & set(mined.queries.index)
    real = set(mined.table["negative_id"]) - set(written.index)
    assert not real & set(told.resumes.index[told.resumes[NEGATIVE_FOR] != ""])  # whoever they were written for


def test_no_other_strategy_sees_what_was_written(told, tiny):
    ask = {"target": "resume", "n": 5, "seed": 1}
    both = [mine("random", corpus, **ask).table.drop(columns="score") for corpus in (told, tiny)]
    assert_frame_equal(*both)


def test_without_written_negatives_the_remedy_is_named(tiny):
    with pytest.raises(ValueError, match="synthetic_negatives"):
        mine("synthetic", tiny, target="resume", n=3, embeddings=Embeddings.of_corpus(load_encoder("static"), tiny))
