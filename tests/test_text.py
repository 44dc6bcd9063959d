"""Serialisation and tokenisation of documents."""

import builtins
import re
from typing import Any
from unicodedata import category

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confitlib.corpus import HYRE, LABEL_COLUMNS, Corpus, empty_frame
from confitlib.text import language_of, sentences, texts, words


def corpus_of(resumes: dict[str, Any], jobs: dict[str, Any]) -> Corpus:
    frames = [pd.DataFrame({**fields, "split": "train"}, index=["1", "2"]) for fields in (resumes, jobs)]
    return Corpus(frames[0], frames[1], empty_frame(LABEL_COLUMNS))


@pytest.fixture
def corpus() -> Corpus:
    resumes = {"education": ["BSc", "PhD"], "skills": ["C++\nSQL", ""]}
    return corpus_of(resumes, {"text": ["builds engines", "sells cars"], HYRE: ["I built engines.", ""]})


def test_fields_follow_the_official_format_literally(corpus: Corpus) -> None:
    expected = "Resume Content: section education:\nBSc\nResume Content: section skills:\nC++\nSQL\n"
    assert texts(corpus, "resume")["1"] == expected


def test_an_empty_field_keeps_its_heading(corpus: Corpus) -> None:
    assert texts(corpus, "resume")["2"].endswith("Resume Content: section skills:\n\n")


def test_jobs_and_chinese_fields_get_their_own_source_names() -> None:
    corpus = corpus_of({"工作经验": ["三年", "五年"]}, {"title": ["Cook", "Nurse"], "pay": [1.5, None]})
    assert texts(corpus, "resume")["1"] == "简历信息: section 工作经验:\n三年\n"
    assert texts(corpus, "job")["1"] == "Job Information: section title:\nCook\nJob Information: section pay:\n1.5\n"
    assert texts(corpus, "job")["2"].endswith("section pay:\n\n")


def test_hypothetical_resume_is_appended_after_the_job_only_where_there_is_one(corpus: Corpus) -> None:
    assert texts(corpus, "job").tolist() == ["builds engines\n[Example resume]\nI built engines.", "sells cars"]
    assert texts(corpus, "job", hyre=False).tolist() == ["builds engines", "sells cars"]


def test_fields_select_and_order(corpus: Corpus) -> None:
    chosen = texts(corpus, "resume", fields=["skills", "education"])["2"]
    assert chosen == "Resume Content: section skills:\n\nResume Content: section education:\nPhD\n"


@pytest.mark.parametrize("fields", [["salary"], []])
def test_unknown_or_no_fields_are_refused(corpus: Corpus, fields: list[str]) -> None:
    with pytest.raises(KeyError, match="has \\['education', 'skills'\\]"):
        texts(corpus, "resume", fields=fields)


def test_every_document_of_the_market_is_serialised_in_order(tiny: Corpus) -> None:
    for side in ("resume", "job"):
        serialised = texts(tiny, side)
        assert serialised.index.equals(tiny.documents(side).index)
        assert serialised.str.len().min() > 50


def test_words_keep_technology_names_apart() -> None:
    assert words("C++ and C#, Node.js; 3+ YEARS_of naïve bayes.") == [
        *("c++", "and", "c#", "node", "js", "3+", "years", "of", "naïve", "bayes")
    ]


def test_a_decomposed_letter_is_the_same_letter() -> None:
    assert words("Mu\u0308ller re\u0301sume\u0301") == words("M\u00fcller r\u00e9sum\u00e9") == ["müller", "résumé"]


def test_chinese_is_segmented_and_latin_terms_survive() -> None:
    expected = ["我", "在", "北京", "做", "java", "后端", "开发", "精通", "c++"]
    assert words("我在北京做Java后端开发，精通C++。") == expected


@pytest.mark.parametrize(
    ("sample", "language"),
    [("plain English", "en"), ("", "en"), ("Müller", "en"), ("负责 Java 开发", "zh"), ("一 two three", "en")],
)
def test_language_is_chinese_above_a_fifth_of_the_characters(sample: str, language: str) -> None:
    assert language_of(sample) == language


def test_missing_jieba_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "jieba":
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install confitlib\[zh\]"):
        words("北京大学")


def test_sentences_end_at_lines_and_full_stops() -> None:
    told = "- Led a team, e.g. of nurses. Wrote rotas; Cut costs by 3.5 %!\n\n• 负责招聘。管理团队"
    expected = ["Led a team, e.g. of nurses.", "Wrote rotas;", "Cut costs by 3.5 %!", "负责招聘。", "管理团队"]
    assert sentences(told) == expected


@given(st.text(max_size=80))
def test_sentences_lose_only_bullets_and_blanks(sample: str) -> None:
    kept = "".join("".join(sentences(sample)).split())
    assert all(piece == piece.strip() != "" for piece in sentences(sample))
    assert re.sub(r"[\s\-*•·–]", "", kept) == re.sub(r"[\s\-*•·–]", "", sample)


@given(st.text(max_size=80))
def test_words_are_clean(sample: str) -> None:
    for word in words(sample):
        assert word and word.strip() == word and word[0].isalnum()
        assert all(sign.isalnum() or category(sign) in ("Mn", "Mc") for sign in word.rstrip("+#"))
