"""The synthetic market: its texts, labels, lists and truth follow the rules of the data card."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from confitlib import evaluate_ranking
from confitlib.corpus import SIDES, SPLITS, Corpus, Side
from confitlib.market import PRESETS, Market, compose
from confitlib.market.__main__ import card_table, markdown, statistics
from confitlib.market.labels import degrees
from confitlib.market.texts import TRAIN_PHRASES, Dice, load_bank, phrases
from confitlib.market.world import LEVELS, fit
from confitlib.oracles import Oracle, oracle_table, strata
from confitlib.rankers import CountTable

CARD = Path(__file__).parents[1] / "docs" / "data_card.md"
# The first 16 hex digits of the SHA-256 of all job posts as CSV; they change only with RESULTS_VERSION["market"].
JOB_POSTS = {
    ("tiny", 0): "fcd5f986d9de3a1c",
    ("laptop", 0): "bbd29ad0ed6bfbe8",
    ("laptop", 1): "1251a03f9fa7a00c",
    ("intellipro", 0): "0759a01a6309ea85",
    ("aliyun", 0): "f26671c0ca0b57cf",
}


@pytest.fixture(scope="module")
def laptop() -> Market:
    return compose("laptop", seed=0)


@pytest.fixture(scope="module")
def calibrated() -> dict[str, Market]:
    return {name: compose(name, seed=0) for name in ("intellipro", "aliyun")}


def joined(corpus: Corpus, side: Side) -> pd.Series:
    return corpus.documents(side)[corpus.fields(side)].agg("\n".join, axis=1)


def fragment(phrase: str) -> str:
    """The longest part of a phrase without slots: it identifies the phrase in a text."""
    return max(re.split(r"\{\w+\}", phrase), key=len)


def fragments(held_out: bool) -> list[str]:
    bank = load_bank()
    owners = {"bullets": bank.skills, "requirements": bank.skills}
    owners |= {"summaries": bank.occupations, "responsibilities": bank.occupations}
    return [
        fragment(phrase)
        for kind, entries in owners.items()
        for entry in entries.itertuples()
        for phrase in phrases(entry, kind, held_out)
    ]


def true_labels(corpus: Corpus) -> np.ndarray:
    rows = corpus.positions("resume", corpus.labels["resume_id"])
    columns = corpus.positions("job", corpus.labels["job_id"])
    assert corpus.truth is not None
    return corpus.truth[rows, columns].astype(bool)


def card_rows(first_cell: str) -> list[list[str]]:
    """The rows of the card's table whose header starts with a cell."""
    lines = CARD.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_cell}"))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]


def test_the_bank_has_what_the_card_says() -> None:
    bank = load_bank()
    assert (bank.occupations["family"].nunique(), len(bank.occupations), len(bank.skills)) == (12, 60, 278)
    sentences = {"bullets": 7, "requirements": 5, "summaries": 4, "responsibilities": 7}
    assert sentences | {"resume_terms": 3, "industries": 2, "degrees": 2} == TRAIN_PHRASES


def test_same_seed_same_corpus(market: Market) -> None:
    again = compose("tiny", seed=0)
    assert again.corpus == market.corpus
    pd.testing.assert_frame_equal(again.resumes, market.resumes)


@pytest.mark.parametrize(("preset", "seed"), JOB_POSTS)
def test_job_posts_are_those_of_every_version(preset: str, seed: int) -> None:
    jobs = compose(preset, seed=seed).corpus.jobs.to_csv()
    assert hashlib.sha256(jobs.encode()).hexdigest()[:16] == JOB_POSTS[preset, seed]


def test_another_seed_changes_everything(market: Market) -> None:
    changed = compose("tiny", seed=1)
    ours, theirs = market.corpus, changed.corpus
    for side in SIDES:
        assert not set(joined(ours, side)) & set(joined(theirs, side))
    pairs = [set(zip(c.labels["resume_id"], c.labels["job_id"], strict=True)) for c in (ours, theirs)]
    assert len(pairs[0] & pairs[1]) < 0.1 * len(pairs[0])
    assert ours.truth is not None and theirs.truth is not None
    assert ours.truth.multiply(theirs.truth).sum() < 0.2 * ours.truth.sum()


def test_people_apply_anew_with_documents_and_truth_as_they_are(market: Market) -> None:
    again = compose("tiny", seed=0, redraw=1).corpus
    for side in SIDES:
        pd.testing.assert_frame_equal(again.documents(side), market.corpus.documents(side))
    assert again.truth is not None and market.corpus.truth is not None
    assert (again.truth != market.corpus.truth).nnz == 0
    pairs = [set(zip(c.labels["resume_id"], c.labels["job_id"], strict=True)) for c in (again, market.corpus)]
    assert len(pairs[0] & pairs[1]) < 0.6 * len(pairs[0])


def test_truth_follows_the_definition(market: Market) -> None:
    rng = np.random.default_rng(0)
    resumes = rng.choice(market.resumes.index, 60, replace=False)
    jobs = rng.choice(market.jobs.index, 60, replace=False)
    fits = market.corpus.suitable(resumes, jobs)
    assert fits.any()
    for row, resume in enumerate(market.resumes.loc[resumes].itertuples()):
        for column, job in enumerate(market.jobs.loc[jobs].itertuples()):
            covered = Fraction(len(set(resume.skills) & set(job.skills)), len(job.skills))
            gap = abs(LEVELS.index(resume.level) - LEVELS.index(job.level))
            assert fits[row, column] == (covered >= Fraction(2, 3) and gap <= 1)


def test_coverage_and_fit_are_exact(market: Market) -> None:
    resumes, jobs = market.resumes.index[[5, 0, 300]], market.jobs.index[[7, 150]]
    rows = [market.corpus.positions(side, ids) for side, ids in (("resume", resumes), ("job", jobs))]
    fits = fit(market.latents["resume"].rows(rows[0]), market.latents["job"].rows(rows[1]))
    coverage = market.coverage(resumes, jobs)
    for row, resume in enumerate(market.resumes.loc[resumes].itertuples()):
        for column, job in enumerate(market.jobs.loc[jobs].itertuples()):
            covered = len(set(resume.skills) & set(job.skills)) / len(job.skills)
            gap = abs(LEVELS.index(resume.level) - LEVELS.index(job.level))
            assert coverage[row, column] == pytest.approx(covered, abs=1e-6)
            assert fits[row, column] == pytest.approx(covered - 0.15 * gap, abs=1e-6)


def test_about_one_pair_in_a_hundred_is_suitable(laptop: Market) -> None:
    assert 0.8 <= statistics(laptop)["suitable pairs, %"] <= 1.2


@pytest.mark.parametrize("split", SPLITS)
def test_phrases_stay_on_their_side(market: Market, split: str) -> None:
    corpus = market.corpus
    texts = [joined(corpus, side)[corpus.documents(side)["split"] == split] for side in SIDES]
    everything = "\n".join(pd.concat(texts))
    foreign = fragments(held_out=split == "train")
    assert not [phrase for phrase in foreign if phrase in everything]
    assert any(phrase in everything for phrase in fragments(held_out=split != "train"))


@pytest.mark.parametrize("split", SPLITS)
def test_resumes_name_skills_titles_and_degrees_in_words_of_their_split(market: Market, split: str) -> None:
    held_out = split != "train"
    bank, resumes = load_bank(), market.corpus.resumes[market.corpus.resumes["split"] == split]
    terms = {term for skill in bank.skills.itertuples() for term in phrases(skill, "resume_terms", held_out)}
    foreign = {term for skill in bank.skills.itertuples() for term in phrases(skill, "resume_terms", not held_out)}
    listed = {term for skills in resumes["skills"] for term in re.split(r", (?![^(]*\))", skills)}
    assert listed <= terms and not listed & (foreign - terms)
    degrees = {one for work in bank.occupations.itertuples() for one in phrases(work, "degrees", held_out)}
    assert set(resumes["education"].str.split(", ").str[0]) <= {one.split(", ")[0] for one in degrees}
    titles = {text for work in bank.occupations["titles"] for level in work.values() for text in level[1:-1]}
    assert resumes["title"].isin(titles).all() == held_out


def test_nothing_but_fit_ranks_well(laptop: Market) -> None:
    """The aims of the market: neither the field of work nor the counting of words is enough."""
    reached = oracle_table(laptop)["ndcg@100, resumes"]
    assert reached["same family"] < 0.35 and reached["same occupation"] < 0.5 and reached["truth"] == 1
    means = evaluate_ranking(CountTable().fit(laptop.corpus), laptop.corpus, "resume").means()
    assert means["ndcg@100"] < reached["same family"]


def test_strata_tell_what_a_ranker_knows(market: Market) -> None:
    family, truth = (strata(Oracle(market, name), market) for name in ("same family", "truth"))
    assert list(family.values()) == [1, 0.5, 0.5, 0.5]
    assert truth["suitable in occupation and level"] == 1 and truth["family"] < 1


def test_splits_share_no_document(market: Market) -> None:
    for side in SIDES:
        used = [set(market.corpus.labelled(split)[f"{side}_id"]) for split in SPLITS]
        assert not used[0] & used[1] and not used[0] & used[2] and not used[1] & used[2]
        assert set(market.corpus.documents(side)["split"]) == set(SPLITS)


@pytest.mark.parametrize("split", SPLITS)
def test_a_tenth_of_the_accepted_does_not_suit(laptop: Market, split: str) -> None:
    here = (laptop.corpus.labels["split"] == split).to_numpy()
    truth, accepted = true_labels(laptop.corpus)[here], laptop.corpus.labels["label"].to_numpy()[here] == 1
    assert (~truth[accepted]).mean() == pytest.approx(0.1, abs=0.5 / accepted.sum())
    assert 0.03 < (~accepted[truth]).mean() < 0.17  # as many of the suitable are rejected, give or take chance


def test_applications_prefer_what_fits(laptop: Market) -> None:
    truth = true_labels(laptop.corpus)
    assert 0.3 < truth.mean() < 0.6  # one pair in a hundred is suitable, about half of the applications are


def test_laptop_has_the_size_of_the_design(laptop: Market) -> None:
    figures = statistics(laptop)
    assert figures["train accepted"] + figures["train rejected"] == pytest.approx(5_700, rel=0.01)
    assert 2_200 <= figures["train accepted"] <= 2_700


def test_half_of_the_skills_are_listed_and_the_others_shown(market: Market) -> None:
    skills = {skill.Index: skill for skill in load_bank().skills.itertuples()}
    for resume_id, held in market.resumes["skills"].items():
        text = market.corpus.resumes.loc[resume_id]
        listed = {key for key in held if _lists(text["skills"], skills[key].resume_terms)}
        assert len(re.split(r", (?![^(]*\))", text["skills"])) == len(held) // 2  # a term may hold commas in brackets
        shown = {key for key in held if any(fragment(line) in text["experience"] for line in skills[key].bullets)}
        assert listed | shown == set(held)


def _lists(text: str, terms: tuple[str, ...]) -> bool:
    return any(f", {term}, " in f", {text}, " for term in terms)


def test_jobs_ask_for_every_required_skill(market: Market) -> None:
    skills = {skill.Index: skill for skill in load_bank().skills.itertuples()}
    for job_id, required in market.jobs["skills"].items():
        text = market.corpus.jobs.loc[job_id]
        for key in required:
            assert _lists(text["skills"], skills[key].job_terms)
            assert any(fragment(line) in text["requirements"] for line in skills[key].requirements)


def test_texts_are_clean(laptop: Market) -> None:
    for side in SIDES:
        texts = joined(laptop.corpus, side)
        for flaw in ("{", "}", "  ", "None", "nan,", " \n"):
            assert not texts.str.contains(flaw, regex=False).any(), flaw
        assert not texts.str.contains(r"\ba (?:8|11|18)\b").any()
        assert not texts.duplicated().any()
        assert texts.str.split().str.len().between(80, 400).all()


def test_dates_agree_with_the_years_of_experience(market: Market) -> None:
    for resume_id, years in market.resumes["years"].items():
        starts = re.findall(r", (\d{4}) to (\d{4}|present)$", market.corpus.resumes.loc[resume_id, "experience"], re.M)
        assert starts[0][1] == "present"
        assert int(starts[-1][0]) == 2024 - years
        assert [start for start, _ in starts[:-1]] == [until for _, until in starts[1:]]


def test_lists_hold_every_judged_candidate_and_fill_up_with_unjudged_ones(market: Market) -> None:
    corpus = market.corpus
    judged = corpus.labels.set_index(["resume_id", "job_id"])["label"].to_dict()
    for (target, split, query), rows in corpus.rankings.groupby(["target", "split", "query_id"]):
        pool = corpus.pool(target, split)
        assert len(rows) == min(100, len(pool)) and rows["candidate_id"].isin(pool).all()
        pairs = [(c, query) if target == "resume" else (query, c) for c in rows["candidate_id"]]
        assert [judged.get(pair, -1) for pair in pairs] == rows["label"].tolist()
        known = corpus.labels[f"{'job' if target == 'resume' else 'resume'}_id"] == query
        assert (rows["label"] >= 0).sum() == known.sum()
        assert (rows["label"] == 1).any()


@pytest.mark.slow
def test_words_alone_leave_headroom(laptop: Market) -> None:
    corpus = laptop.corpus
    texts = {side: joined(corpus, side)[corpus.pool(side, "test")] for side in SIDES}
    vectors = TfidfVectorizer(sublinear_tf=True).fit(pd.concat(texts.values()))
    scores = (vectors.transform(texts["job"]) @ vectors.transform(texts["resume"]).T).toarray()
    truth = corpus.suitable(texts["resume"].index, texts["job"].index).T
    best = np.argsort(-scores, axis=1)[:, :100]
    hits, total = np.take_along_axis(truth, best, axis=1).sum(axis=1), truth.sum(axis=1)
    assert 0.45 <= (hits[total > 0] / total[total > 0]).mean() <= 0.65


def test_overrides_replace_fields_of_the_preset() -> None:
    small = compose("tiny", seed=3, train_resumes=60, train_jobs=30, queries=5)
    assert len(small.corpus.pool("resume", "train")) == 60
    assert small.corpus.rankings.groupby(["target", "split"])["query_id"].nunique().max() <= 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "huge"}, "unknown preset 'huge': choose one of tiny"),
        ({"preset": "tiny", "train_resume": 5}, "unknown override 'train_resume'"),
        ({"preset": "tiny", "train_jobs": 0}, "train_jobs=0 must be at least 1"),
        ({"preset": "tiny", "families": 13}, "families=13 must be at least 1 and at most 12"),
    ],
)
def test_wrong_arguments_say_what_to_do(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose(**arguments)


@given(n=st.integers(1, 400), mean=st.floats(1, 12), most=st.integers(13, 60))
def test_degrees_add_up(n: int, mean: float, most: int) -> None:
    total = round(n * mean)
    found = degrees(n, max(total, n), most)
    assert len(found) == n and found.sum() == max(total, n) and found.min() >= 1
    assert found.max() <= 2 * most


@given(seed=st.integers(0, 100), low=st.integers(-5, 5), width=st.integers(0, 5))
def test_dice_stay_in_range(seed: int, low: int, width: int) -> None:
    dice = Dice(np.random.default_rng(seed))
    draws = {dice.integer(low, low + width) for _ in range(300)}
    assert draws == set(range(low, low + width + 1))
    assert sorted(dice.shuffled(range(9))) == list(range(9))


def test_the_card_shows_the_composed_figures(market: Market, laptop: Market) -> None:
    _assert_card_shows([market, laptop])


def test_the_card_shows_the_oracles(laptop: Market) -> None:
    reached = oracle_table(laptop).map("{:.3f}".format, na_action="ignore").fillna("")
    assert markdown(reached) in CARD.read_text(encoding="utf-8")
    _, resumes, jobs, *_ = reached.loc["same occupation"]
    readme = (CARD.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"of {resumes} for resumes and {jobs} for jobs" in readme


@pytest.mark.slow
def test_the_card_shows_the_calibrated_figures(calibrated: dict[str, Market]) -> None:
    _assert_card_shows(calibrated.values())


def _assert_card_shows(markets: Iterable[Market]) -> None:
    header, _, *rows = card_rows("| tiny")
    lines = [line.strip("|").split("|") for line in card_table(markets).splitlines()]
    columns = [header.index(name.strip()) for name in lines[0][1:]]
    shown = {row[0]: [row[column] for column in columns] for row in rows}
    assert shown == {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines[2:]}


@pytest.mark.slow
def test_calibrated_presets_match_the_published_counts(calibrated: dict[str, Market]) -> None:
    _, _, *rows = card_rows("published")
    for column, market in enumerate(calibrated.values(), start=1):
        figures = statistics(market)
        published = {row[0]: row[column] for row in rows if row[column] != "not available"}
        assert len(published) >= 16
        for name, value in published.items():
            assert figures[name] == pytest.approx(float(value.replace(",", "")), rel=0.10), (market.preset.name, name)


def test_presets_are_named_by_their_keys() -> None:
    assert [preset.name for preset in PRESETS.values()] == list(PRESETS) == ["tiny", "laptop", "intellipro", "aliyun"]
