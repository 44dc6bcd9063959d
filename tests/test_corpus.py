"""The Corpus finds every defect of its frames, and answers questions about its pairs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from confitlib.corpus import (
    HYRE,
    LABEL_COLUMNS,
    RANKING_COLUMNS,
    Corpus,
    CorpusError,
    Defect,
    copy_groups,
    duplicate_groups,
    empty_frame,
    find_defects,
    known_positive_mask,
    other,
)

SPLIT = ["train", "train", "test"]


def parts(**changes: Any) -> dict[str, Any]:
    """The arguments of a small valid corpus: ids coincide between the sides, as IntelliPro's do."""
    ids = ["1", "2", "3"]
    labels = [("1", "1", 1, "train"), ("1", "2", 0, "train"), ("3", "3", 1, "test")]
    lists = [("resume", "test", "3", "3", 1), ("job", "test", "3", "3", 1)]
    corpus = {
        "resumes": pd.DataFrame({"text": ["cook", "nurse", "welder"], "split": SPLIT}, index=ids),
        "jobs": pd.DataFrame({"text": ["kitchen", "ward", "yard"], "split": SPLIT}, index=ids),
        "labels": pd.DataFrame(labels, columns=LABEL_COLUMNS),
        "rankings": pd.DataFrame(lists, columns=RANKING_COLUMNS),
    }
    return corpus | changes


def labels(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame([*rows], columns=LABEL_COLUMNS)


def lists(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame([*rows], columns=RANKING_COLUMNS)


def resumes(texts: list[Any], ids: list[Any] | None = None, split: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame({"text": texts, "split": split or SPLIT}, index=ids or ["1", "2", "3"])


def test_ids_may_coincide_between_the_sides() -> None:
    corpus = Corpus(**parts())
    assert corpus.positions("resume", ["3"]).tolist() == corpus.positions("job", ["3"]).tolist() == [2]


DEFECTS = [
    ("missing_id", {"resumes": resumes(["a", "b", "c"], ["1", " ", "3"])}, "resumes, row 2", "without an id"),
    ("missing_id", {"resumes": resumes(["a", "b", "c"], ["1", None, "3"])}, "resumes, row 2", "without an id"),
    ("duplicate_id", {"resumes": resumes(["a", "b", "c"], ["1", "3", "3"])}, "resumes, row 3", "'3' appears again"),
    ("id_type", {"resumes": resumes(["a", "b", "c"], ["1", 2, "3"])}, "resumes, row 2", "id 2 is not a string"),
    ("empty_text", {"resumes": resumes(["a", " \n", "c"])}, "resumes, row 2", "resume '2' has no text"),
    ("empty_text", {"resumes": resumes(["a", None, "c"])}, "resumes, row 2", "resume '2' has no text"),
    ("placeholder", {"resumes": resumes(["a", "[[dummy_text]]", "c"])}, "resumes, row 2", "holds placeholder text"),
    ("unknown_split", {"resumes": resumes(["a", "b", "c"], split=["train", "dev", "test"])}, "resumes, row 2", "'dev'"),
    ("missing_column", {"resumes": pd.DataFrame({"text": ["a"]}, index=["1"])}, "resumes", "['split'] are missing"),
    ("missing_column", {"resumes": pd.DataFrame({"split": SPLIT}, index=["1", "2", "3"])}, "resumes", "no text field"),
    ("missing_column", {"labels": labels().drop(columns="label")}, "labels", "['label'] are missing"),
    ("truth_shape", {"truth": csr_array((2, 3), dtype=bool)}, "truth", "shape (2, 3) of bool, documents need (3, 3)"),
    ("truth_shape", {"truth": csr_array((np.ones(1), np.array([7]), np.array([0, 1, 1, 1])), shape=(3, 3))}, "truth",
     "damaged"),
    ("unknown_document", {"labels": labels(("9", "1", 1, "train"))}, "labels, row 1", "unknown resume '9'"),
    ("unknown_document", {"labels": labels(("1", "9", 1, "train"))}, "labels, row 1", "unknown job '9'"),
    ("unknown_label", {"labels": labels(("1", "1", 2, "train"))}, "labels, row 1", "label 2 is not 0 or 1"),
    ("unknown_label", {"labels": labels(("1", "1", "yes", "train"))}, "labels, row 1", "label yes is not 0 or 1"),
    ("unknown_split", {"labels": labels(("1", "1", 1, "dev"))}, "labels, row 1", "split 'dev' is unknown"),
    ("duplicate_label", {"labels": labels(*[("1", "1", 1, "train")] * 2)}, "labels, row 2", "are labelled twice"),
    (
        "conflicting_label",
        {"labels": labels(("1", "1", 1, "train"), ("1", "1", 0, "train"))},
        "labels, row 1",
        "resume '1' and job '1' are both accepted and rejected",
    ),
    (
        "conflicting_label",
        {"rankings": lists(("resume", "test", "3", "3", 0))},
        "rankings, query '3'",
        "the pair with '3' is both accepted and rejected",
    ),
    (
        "unknown_document",
        {"rankings": lists(("resume", "test", "3", "9", -1))},
        "rankings, query '3'",
        "the list names unknown resume '9'",
    ),
    (
        "unknown_document",
        {"rankings": lists(("job", "test", "9", "3", -1))},
        "rankings, query '9'",
        "the query is an unknown resume",
    ),
    ("unknown_label", {"rankings": lists(("job", "test", "3", "3", 5))}, "rankings, query '3'", "label 5 is unknown"),
    ("unknown_target", {"rankings": lists(("cv", "test", "3", "3", 1))}, "rankings, query '3'", "target 'cv'"),
    ("unknown_split", {"rankings": lists(("job", "dev", "3", "3", 1))}, "rankings, query '3'", "split 'dev'"),
    (
        "duplicate_candidate",
        {"rankings": lists(*[("job", "test", "3", "3", 1)] * 2)},
        "rankings, query '3'",
        "candidate '3' is listed twice",
    ),
    (
        "split_leak",
        {"labels": labels(("1", "3", 1, "train"))},
        "jobs, row 3",
        "job '3' of split 'test' is used in 'train' (labels)",
    ),
    (
        "split_leak",
        {"rankings": lists(("job", "test", "3", "1", 1))},
        "jobs, row 1",
        "job '1' of split 'train' is used in 'test' (rankings)",
    ),
    ("split_leak", {"resumes": resumes(["a", "b", "c"], split=["train", "any", "test"])}, "resumes, row 2", "'any'"),
    ("duplicate_column", {"resumes": pd.concat([resumes(["a", "b", "c"])] * 2, axis=1)}, "resumes", "'text'"),
    ("unknown_reference", {"jobs": resumes(["a", "b", "c"]).assign(copy_of=["", "1", "8"])}, "jobs, row 3", "no job"),
    ("unknown_reference", {"jobs": resumes(["a", "b", "c"]).assign(negative_for=[None, "9", "1"])}, "jobs, row 2",
     "no resume"),
]  # fmt: skip


def test_a_corpus_shows_itself_in_one_line() -> None:
    assert repr(Corpus(**parts())) == "Corpus('corpus': 3 resumes, 3 jobs, 3 labels, 2 list entries)"


@pytest.mark.parametrize(("kind", "changes", "where", "what"), DEFECTS)
def test_defect_is_found_and_named(kind: str, changes: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(CorpusError) as caught:
        Corpus(**parts(**changes))
    found = [defect for defect in caught.value.defects if defect.kind == kind]
    assert any(defect.where == where and what in defect.what and defect.remedy for defect in found), caught.value


def test_one_error_names_every_defect_and_only_so_many_in_full() -> None:
    many = labels(*[(str(number), "1", 1, "train") for number in range(10, 40)])
    with pytest.raises(CorpusError, match=r"defects in the input \(30 unknown_document\):") as caught:
        Corpus(**parts(labels=many))
    assert len(caught.value.defects) == 30
    assert "labels, row 20:" in str(caught.value)
    assert "labels, row 21:" not in str(caught.value)
    assert "… and 10 more (see .defects)" in str(caught.value)
    with pytest.raises(CorpusError, match="label maybe is not 0 or 1"):
        Corpus(**parts(labels=pd.concat([many, labels(("1", "1", "maybe", "train"))])))


def test_a_missing_query_is_named_once_not_per_candidate() -> None:
    rows = [("job", "test", "9", job, -1) for job in "12"]
    with pytest.raises(CorpusError) as caught:
        Corpus(**parts(rankings=lists(*rows)))
    assert [defect.kind for defect in caught.value.defects].count("unknown_document") == 1


def test_places_name_the_file_and_the_row_within_it() -> None:
    rows = labels(("1", "1", 1, "train"), ("3", "3", 1, "test"), ("9", "3", 1, "test"))
    places = ["train.jsonl, row 1", "test.jsonl, row 1", "test.jsonl, row 4"]
    with pytest.raises(CorpusError, match=r"test.jsonl, row 4: label names unknown resume '9' \(unknown_document\)"):
        Corpus(**parts(labels=rows), places={"labels": places})


def test_accepted_defects_do_not_raise_but_stay_findable() -> None:
    corpus = Corpus(**parts(resumes=resumes(["a", "[[dummy_text]]", "c"])), accepted=frozenset({"placeholder"}))
    assert [defect.kind for defect in find_defects(corpus)] == ["placeholder"]


def test_warm_regime_lets_documents_recur() -> None:
    changes = {
        "jobs": resumes(["kitchen", "ward", "yard"], split=["any", "train", "test"]),
        "labels": labels(("1", "1", 1, "train"), ("3", "1", 1, "test")),
    }
    corpus = Corpus(**parts(**changes), regime="warm")
    assert corpus.pool("job", "train").tolist() == ["1", "2"]
    assert corpus.pool("job", "test").tolist() == ["1", "3"]
    with pytest.raises(ValueError, match=r"use one of \['cold', 'warm'\]"):
        Corpus(**parts(), regime="tepid")  # type: ignore[arg-type]


def test_labelled_selects_by_split_and_label() -> None:
    corpus = Corpus(**parts())
    assert len(corpus.labelled()) == 3
    assert corpus.labelled("train", 0)["job_id"].tolist() == ["2"]


def test_known_positives_join_labels_and_both_kinds_of_lists() -> None:
    rows = lists(("resume", "test", "3", "2", -1), ("job", "train", "2", "1", 1), ("job", "train", "1", "2", 0))
    known = Corpus(**parts(rankings=rows), accepted=frozenset({"split_leak"})).known_positives().toarray()
    assert known.tolist() == [[True, False, False], [True, False, False], [False, False, True]]


def test_suitable_reads_a_block_of_the_truth() -> None:
    truth = csr_array(np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]], dtype=bool))
    corpus = Corpus(**parts(truth=truth))
    assert corpus.suitable(["3", "1"], ["2", "3"]).tolist() == [[True, True], [False, False]]
    with pytest.raises(ValueError, match="has no truth"):
        Corpus(**parts()).suitable(["1"], ["1"])


def test_unknown_ids_are_named() -> None:
    corpus = Corpus(**parts())
    with pytest.raises(KeyError, match="job '7' is not in corpus 'corpus'"):
        corpus.positions("job", ["1", "7"])
    with pytest.raises(KeyError, match=r"unknown jobs, e\.g\. '7'"):
        corpus.with_hypothetical_resumes({"7": "text"})


def test_hypothetical_resumes_are_no_text_field() -> None:
    corpus = Corpus(**parts()).with_hypothetical_resumes({"2": "a nurse"})
    assert corpus.jobs[HYRE].tolist() == ["", "a nurse", ""]
    assert corpus.fields("job") == ["text"]


def test_describe_counts_by_split() -> None:
    table = Corpus(**parts()).describe()
    assert table["train"].tolist() == [2, 2, 1, 1, 0, 0]
    assert table["test"].tolist() == [1, 1, 1, 0, 1, 1]


def test_other_side() -> None:
    assert (other("resume"), other("job")) == ("job", "resume")


@pytest.mark.parametrize(
    "change",
    [
        {"resumes": resumes(["cook", "nurse", "fitter"])},
        {"resumes": resumes(["cook", "nurse", "welder"], ["1", "4", "3"])},
        {"labels": labels(("1", "1", 1, "train"))},
        {"rankings": lists(("resume", "test", "3", "3", 1))},
        {"truth": csr_array(np.eye(3, dtype=bool))},
        {"name": "other"},
        {"regime": "warm"},
    ],
)
def test_equality_sees_every_part(change: dict[str, Any]) -> None:
    corpus = Corpus(**parts())
    assert corpus == Corpus(**parts())
    assert corpus != replace(corpus, **change)


def test_equality_ignores_how_a_cell_is_stored() -> None:
    corpus = Corpus(**parts(resumes=resumes(["cook", "nurse", "welder"]).assign(extra=["", "", "x"])))
    stored = Corpus(**parts(resumes=resumes(["cook", "nurse", "welder"]).assign(extra=[None, np.nan, "x"])))
    renamed = replace(corpus, resumes=corpus.resumes.rename_axis("resume_id"))
    assert corpus == stored == renamed
    assert corpus != "a corpus"


def test_empty_frames_make_a_valid_corpus() -> None:
    corpus = Corpus(**parts(labels=empty_frame(LABEL_COLUMNS), rankings=empty_frame(RANKING_COLUMNS)))
    assert corpus.known_positives().nnz == 0


def test_a_defect_reads_as_place_fault_and_remedy() -> None:
    assert str(Defect("kind", "file, row 1", "it is wrong", "Mend it.")) == "file, row 1: it is wrong (kind). Mend it."


def test_duplicates_are_alike_but_for_case_spacing_and_the_form_of_a_letter() -> None:
    texts = ["caf\u00e9  Cook", "cafe\u0301 cook", "[[X]]", "[[X]]", "nurse", "other words"]
    jobs = pd.DataFrame({"text": texts, "copy_of": ["", "", "", "", "", "d5"]}, index=[f"d{n}" for n in range(1, 7)])
    jobs = jobs.assign(split="train")
    corpus = Corpus(**parts(jobs=jobs, labels=labels(), rankings=lists()), accepted=frozenset({"placeholder"}))
    assert duplicate_groups(corpus, "job").tolist() == ["d1", "d1", "d3", "d4", "d5", "d5"]
    assert copy_groups(jobs).tolist() == ["d1", "d2", "d3", "d4", "d5", "d5"]


def test_the_mask_of_known_positives_says_why() -> None:
    jobs = resumes(["kitchen", "KITCHEN", "ward"], split=["train"] * 3).assign(copy_of=["", "", "1"])
    corpus = Corpus(**parts(jobs=jobs, labels=labels(("1", "1", 1, "train")), rankings=lists()))
    assert known_positive_mask(corpus, "job").toarray().tolist() == [[3, 1, 2], [0, 0, 0], [0, 0, 0]]
    assert (known_positive_mask(corpus, "resume") != known_positive_mask(corpus, "job").T).nnz == 0
