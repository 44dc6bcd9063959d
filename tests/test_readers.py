"""Readers: every format from a small folder, every defect with its place and remedy, exact round trips."""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from confitlib.corpus import HYRE, LABEL_COLUMNS, RANKING_COLUMNS, WIDTHLESS, Corpus, CorpusError, empty_frame
from confitlib.readers import ACCEPTABLE, load, load_hub, load_pairs, load_recbole, load_tianchi, save, split_documents

DATA = Path(__file__).parents[2] / "shared" / "data"
Rows = list[list[Any]]


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding=encoding, newline="")
    return path


def jsonl(path: Path, *records: Any) -> Path:
    return write(path, *(json.dumps(record) for record in records))


def label(resume: Any, job: Any, satisfied: Any) -> dict[str, Any]:
    return {"user_id": resume, "jd_no": job, "satisfied": satisfied}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A complete release folder: ids are numbers, coincide between the sides, and one has a zero in front."""
    write(tmp_path / "all_resume.csv", "user_id,education,skills", "1,BSc,C", "02,PhD,SQL", '3,,"a ""b"",c"', "4,MA,R")
    write(tmp_path / "all_jd.csv", "jd_no,title", "1,Cook", "2,Nurse", "3,Welder")
    jsonl(tmp_path / "train_labeled_data.jsonl", label("1", "1", 1), label("02", 1, 0))
    jsonl(tmp_path / "valid_classification_data.jsonl", label(3, "2", 1))
    jsonl(tmp_path / "test_classification_data.jsonl", label("4", "3", 0))
    lists = {"3": {"user_ids": [4], "satisfied": [0]}}
    (tmp_path / "rank_resume.json").write_text(json.dumps(lists))
    (tmp_path / "rank_job.json").write_text(json.dumps({"4": {"jd_nos": ["3"], "satisfied": [0]}}))
    (tmp_path / "valid_rank_resume.json").write_text(json.dumps({"2": {"user_ids": ["3"], "satisfied": [1]}}))
    (tmp_path / "valid_rank_job.json").write_text(json.dumps({"3": {"jd_nos": ["2"], "satisfied": [1]}}))
    return tmp_path


def refused(call: Callable[[], Any], kind: str, *expected: str) -> CorpusError:
    """The call must raise an error with a defect of this kind whose text holds everything expected."""
    with pytest.raises(CorpusError) as caught:
        call()
    found = [str(defect) for defect in caught.value.defects if defect.kind == kind]
    assert any(all(part in text for part in expected) for text in found), str(caught.value)
    return caught.value


# --- the release layout ---


def test_release_is_read(release: Path) -> None:
    corpus = load(release)
    assert corpus.resumes.index.tolist() == ["1", "02", "3", "4"]
    assert corpus.fields("resume") == ["education", "skills"]
    assert corpus.resumes.loc["3"].tolist() == ["", 'a "b",c', "valid"]
    assert corpus.labels.to_numpy().tolist() == [
        ["1", "1", 1, "train"],
        ["02", "1", 0, "train"],
        ["3", "2", 1, "valid"],
        ["4", "3", 0, "test"],
    ]
    assert corpus.rankings["target"].tolist() == ["resume", "resume", "job", "job"]
    assert (corpus.name, corpus.notes) == (release.name, ())
    assert corpus.describe().loc["rank-job queries"].tolist() == [0, 1, 1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_chinese_columns_are_kept(release: Path, encoding: str) -> None:
    header = (
        "user_id,居住城市,期望工作城市,期望工作行业,期望工作类型,期望薪资,当前工作行业,当前工作类型,当前薪资,学历,年龄,"
    )
    rows = [f"{number},北京" + "," * 11 for number in ("1", "02", "3", "4")]
    write(release / "all_resume.csv", header + "开始工作时间,工作经验", *rows, encoding=encoding)
    corpus = load(release, encoding="gb18030" if encoding == "gb18030" else "utf-8")
    assert corpus.fields("resume")[0] == "居住城市"
    assert corpus.resumes["居住城市"].unique().tolist() == ["北京"]


def test_version_2_names_are_found(release: Path) -> None:
    (release / "all_resume.csv").rename(release / "all_resume_full_desensitized_recruiting_data.csv")
    (release / "all_jd.csv").rename(release / "all_job_waug_full.csv")
    (release / "train_labeled_data.jsonl").rename(release / "train_labeled_data_waug.jsonl")
    (release / "rank_resume.json").rename(release / "test_rank_resume.json")
    assert load(release).describe()["test"].tolist() == [1, 1, 0, 1, 1, 1]


def test_unjudged_candidates_are_kept_and_unused_documents_noted(release: Path) -> None:
    write(release / "all_jd.csv", "jd_no,title", "1,Cook", "2,Nurse", "3,Welder", "9,Pilot")
    (release / "rank_job.json").write_text(json.dumps({"4": {"jd_nos": ["3", "8"], "satisfied": [0, -1]}}))
    write(release / "all_jd.csv", "jd_no,title", "1,Cook", "2,Nurse", "3,Welder", "8,Baker", "9,Pilot")
    corpus = load(release)
    assert corpus.rankings["label"].tolist()[-1] == -1
    assert corpus.jobs["split"].tolist() == ["train", "valid", "test", "test", "train"]
    assert corpus.notes == ("1 jobs occur in no label and no list: they are in split 'train'",)


def test_copies_of_the_official_augmented_files_name_their_original(release: Path) -> None:
    write(release / "all_jd.csv", "jd_no,title", "1,Cook", "2,Nurse", "3,Welder", "aug_eda_1,Chef", "aug_chatgpt_9,X")
    corpus = load(release)
    assert corpus.jobs["copy_of"].tolist() == ["", "", "", "1", ""]
    assert "copy_of" not in corpus.resumes and load(save(corpus, release / "out")) == corpus


def test_several_variants_need_a_choice(release: Path) -> None:
    write(release / "all_resume_eda.csv", "user_id,text", "1,x", "02,x", "3,x", "4,x")
    what = "several files hold resumes: all_resume.csv, all_resume_eda.csv"
    refused(lambda: load(release), "several_files", what, "Leave one of them there")
    (release / "all_resume.csv").unlink()
    assert load(release).fields("resume") == ["text"]


def test_missing_files(release: Path) -> None:
    (release / "rank_job.json").unlink()
    assert load(release).notes == ("the folder has no file for: test_rank_job",)
    (release / "all_jd.csv").unlink()
    refused(lambda: load(release), "missing_file", "all_job*.csv", "Give the file this name")
    refused(lambda: load(release / "nowhere"), "missing_file", "the folder does not exist")


def test_a_table_without_its_id_column(release: Path) -> None:
    write(release / "all_jd.csv", "number,title", "1,Cook", "2,Nurse", "3,Welder")
    what = "no column 'jd_no' (there are: number, title)"
    refused(lambda: load(release), "missing_column", what, "Name the column of ids 'jd_no'")


def test_unexpected_columns_are_refused_or_ignored(release: Path) -> None:
    write(release / "all_jd.csv", ",jd_no,text_job,phone", "0,1,Cook,5", "1,2,Nurse,6", "2,3,Welder,7")
    error = refused(
        lambda: load(release), "unexpected_column", "all_jd.csv, header", "column 'phone'", "accept 'unexpected_column'"
    )
    assert len(error.defects) == 2
    corpus = load(release, accept="unexpected_column")
    assert corpus.fields("job") == ["text_job"]
    assert "accepted 'unexpected_column' (the column is ignored): 2 found while reading" in corpus.notes


def test_split_column_is_obeyed_and_warm_regime_marks_recurring_documents(release: Path) -> None:
    jsonl(release / "test_classification_data.jsonl", label("4", "1", 0))
    refused(lambda: load(release), "split_leak", "all_jd.csv, row 1: job '1' of split 'train' is used in")
    assert load(release, regime="warm").jobs["split"].tolist() == ["any", "valid", "test"]
    jsonl(release / "test_classification_data.jsonl", label("4", "3", 0))
    write(release / "all_jd.csv", "jd_no,title,split", "1,Cook,train", "2,Nurse,valid", "3,Welder,valid")
    refused(lambda: load(release), "split_leak", "job '3' of split 'valid' is used in 'test'")


# --- defects of the release layout, refused and repaired ---

DOCUMENT_DEFECTS: list[tuple[str, list[str], str, int, str]] = [
    ("empty_text", ["1,Cook", "2, ", "3,Welder"], "row 2: job '2' has no text", 2, "1 jobs dropped, "),
    (
        "duplicate_id",
        ["1,Cook", "2,Nurse", "3,Welder", "3,Fitter"],
        "row 4: job id '3' appears again",
        3,
        "1 jobs dropped",
    ),
    ("ragged_row", ["1,Cook", "2,Nurse,RN", "3,Welder"], "row 2: 3 cells, the header has 2", 2, "1 found while"),
    ("placeholder", ["1,Cook", "2,[[dummy_text]]", "3,Welder"], "row 2: job '2' holds", 3, "1 documents keep"),
]


@pytest.mark.parametrize(("kind", "rows", "message", "left", "note"), DOCUMENT_DEFECTS)
def test_document_defects(release: Path, kind: str, rows: list[str], message: str, left: int, note: str) -> None:
    write(release / "all_jd.csv", "jd_no,title", *rows)
    refused(lambda: load(release), kind, f"all_jd.csv, {message}", f"accept '{kind}'")
    corpus = load(release, accept=(kind, "unknown_document"))
    assert len(corpus.jobs) == left
    assert any(text.startswith(f"accepted '{kind}'") and note in text for text in corpus.notes), corpus.notes


def test_what_names_an_empty_document_goes_with_it(release: Path) -> None:
    write(release / "all_jd.csv", "jd_no,title", "1,Cook", "2,", "3,Welder")
    corpus = load(release, accept="empty_text")
    assert corpus.notes == ("accepted 'empty_text': 1 jobs dropped, 1 labels and 2 list entries dropped",)
    assert "2" not in set(corpus.labels["job_id"]) | set(corpus.rankings["query_id"])


LABEL_DEFECTS: list[tuple[str, list[Any], list[str], int]] = [
    ("unknown_document", [label("7", "1", 1)], ["row 3", "unknown resume '7'"], 2),
    ("unknown_label", [label("1", "4", "maybe")], ["row 3", "label maybe is not 0 or 1"], 2),
    ("unknown_label", [label("1", "4", -1)], ["row 3", "label -1 is not 0 or 1"], 2),
    ("duplicate_label", [label("1", "1", 1)], ["row 3", "resume '1' and job '1' are labelled twice"], 2),
    ("conflicting_label", [label("1", "1", 0)], ["row 1", "both accepted and rejected"], 1),
    ("unexpected_column", [label("1", "4", 1) | {"when": 5}], ["key 'when' is in no official layout"], 3),
]


@pytest.mark.parametrize(("kind", "extra", "message", "left"), LABEL_DEFECTS)
def test_label_defects(release: Path, kind: str, extra: list[Any], message: list[str], left: int) -> None:
    write(release / "all_jd.csv", "jd_no,title", "1,Cook", "2,Nurse", "3,Welder", "4,Baker")
    jsonl(release / "train_labeled_data.jsonl", label("1", "1", 1), label("02", "1", 0), *extra)
    refused(lambda: load(release), kind, "train_labeled_data.jsonl", *message, f"accept '{kind}'")
    corpus = load(release, accept=kind)
    assert len(corpus.labelled("train")) == left
    assert corpus.labels["label"].dtype == "int64"
    assert any(text.startswith(f"accepted '{kind}'") for text in corpus.notes)


def test_malformed_json_line_names_file_and_line(release: Path) -> None:
    path = release / "train_labeled_data.jsonl"
    broken = ['{"user_id": "02", "jd_no": ', "[1, 2]", '{"user_id": "1", "user_id": "2"}', "[" * 100_000]
    write(path, json.dumps(label("1", "1", 1)), "", *broken)
    error = refused(lambda: load(release), "malformed_json", f"{path}, line 3: Expecting value", "Repair the line")
    assert [re.sub(".*, ", "", defect.where) for defect in error.defects] == ["line 3", "line 4", "line 5", "line 6"]
    assert "key 'user_id' occurs twice" in error.defects[2].what
    corpus = load(release, accept="malformed_json")
    assert len(corpus.labelled("train")) == 1
    assert corpus.notes[0] == "accepted 'malformed_json' (the line is dropped): 4 found while reading"


@pytest.mark.parametrize("value", [True, 1.0, "1"])
def test_labels_may_be_written_in_other_types(release: Path, value: Any) -> None:
    jsonl(release / "train_labeled_data.jsonl", label("1", "1", value))
    assert load(release).labelled("train")["label"].tolist() == [1]


def test_label_line_without_a_key(release: Path) -> None:
    path = jsonl(release / "train_labeled_data.jsonl", label("1", "1", 1), {"user_id": "02", "jd_no": "1"})
    refused(lambda: load(release), "missing_column", f"{path}, line 2: the line lacks ['satisfied']")


JOBS, TRAIN, LISTED = "all_jd.csv", "train_labeled_data.jsonl", "rank_job.json"
ODD_LABELS = ["null", '{"a": 1}', "[1]", "1.5", "1" + "0" * 30]
ONE_LIST = '"4": {"jd_nos": ["3"], "satisfied": [0]}'
FATAL: list[tuple[str, str | bytes, str, str]] = [
    (JOBS, "jd_no,title\n1,Cook\n,Nurse\n2,Nurse\n3,Welder\n", "missing_id", "row 2: job without an id"),
    (JOBS, 'jd_no,title\n1,"Cook\n', "malformed_row", "unexpected end of data"),
    (JOBS, "jd_no,title,title\n1,a,b\n", "duplicate_column", "columns ['title'] occur twice"),
    (JOBS, "", "missing_column", "the file is empty"),
    (JOBS, b"\xff\xfejd_no", "encoding", "header: byte 0xff at offset 0"),
    (TRAIN, b'{"user_id": "1"}\n{"user_id": "\xff"}\n', "encoding", "line 2: byte 0xff at offset 30"),
    (TRAIN, '\n{"user_id": "\\ud83d"}', "malformed_json", "line 2: 'utf-8' codec can't encode"),
    *((TRAIN, f'{{"user_id": "1", "jd_no": "1", "satisfied": {value}}}', "unknown_label", "row 1: label ")
      for value in ODD_LABELS),
    (LISTED, '{"4": {"jd_nos": ["3", "1"], "satisfied": [0]}}', "unequal_lists", "query '4': 2 jd_nos but 1 satisfied"),
    (LISTED, '{"4": {"jds": ["3"], "satisfied": [0]}}', "missing_column", "query '4': the lists 'jd_nos' and 'satisf"),
    (LISTED, '{"4": ["3"]}', "missing_column", "query '4': the lists 'jd_nos' and 'satisfied' were expected"),
    (LISTED, '["3"]', "malformed_json", "an object of queries was expected"),
    (LISTED, '{"4": ', "malformed_json", "line 1 column 7"),
    (LISTED, f"{{{ONE_LIST}, {ONE_LIST}}}", "malformed_json", "key '4' occurs twice in one object"),
    (LISTED, '{"\\ud83d": {}}', "malformed_json", "surrogates not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "content", "kind", "message"), FATAL)
def test_what_cannot_be_read_is_named_with_file_and_place(
    release: Path, file: str, content: str | bytes, kind: str, message: str
) -> None:
    (release / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(lambda: load(release), kind, str(release / file), message)


def test_lists_that_name_unknown_documents(release: Path) -> None:
    content = {"4": {"jd_nos": ["3", "77"], "satisfied": [0, -1]}, "88": {"jd_nos": ["3"], "satisfied": [0]}}
    (release / "rank_job.json").write_text(json.dumps(content))
    error = refused(
        lambda: load(release), "unknown_document", "rank_job.json, query '4': the list names unknown job '77'"
    )
    assert "query '88': the query is an unknown resume" in str(error)
    corpus = load(release, accept="unknown_document")
    assert corpus.notes == ("accepted 'unknown_document': 0 labels and 2 list entries dropped",)
    assert len(corpus.rankings) == 4


def test_repeated_candidate_keeps_the_judged_entry(release: Path) -> None:
    content = {"4": {"jd_nos": ["3", "3"], "satisfied": [-1, 0]}}
    (release / "rank_job.json").write_text(json.dumps(content))
    refused(lambda: load(release), "duplicate_candidate", "query '4': candidate '3' is listed twice")
    corpus = load(release, accept="duplicate_candidate")
    assert corpus.rankings["label"].tolist() == [1, 0, 1, 0]
    assert corpus.notes == ("accepted 'duplicate_candidate': 0 labels and 1 list entries dropped",)


def test_label_and_list_that_contradict_each_other_are_both_dropped(release: Path) -> None:
    (release / "rank_job.json").write_text(json.dumps({"4": {"jd_nos": ["3"], "satisfied": [1]}}))
    refused(lambda: load(release), "conflicting_label", "test_classification_data.jsonl, row 1")
    corpus = load(release, accept="conflicting_label")
    assert corpus.notes == ("accepted 'conflicting_label': 1 labels and 2 list entries dropped",)


def test_several_repairs_at_once(release: Path) -> None:
    write(release / "all_jd.csv", "jd_no,title", "1,Cook", "2,", "3,[[X]]")
    jsonl(release / "train_labeled_data.jsonl", label("1", "1", 1), label("1", "1", 1), label("9", "1", 1))
    with pytest.raises(CorpusError) as caught:
        load(release, accept=("empty_text", "duplicate_label"))
    assert {defect.kind for defect in caught.value.defects} == {"unknown_document", "placeholder"}
    corpus = load(release, accept=ACCEPTABLE)
    assert [text.split("'")[1] for text in corpus.notes if text.startswith("accepted")] == [
        *("unknown_document", "empty_text", "duplicate_label", "placeholder")
    ]
    assert len(corpus.labelled("train")) == 1


def test_only_known_kinds_can_be_accepted(release: Path) -> None:
    with pytest.raises(ValueError, match=r"\['split_leak'\] cannot be accepted; choose from"):
        load(release, accept="split_leak")


# --- encodings and damaged files ---


def test_wrong_encoding_names_byte_offset_and_row(release: Path) -> None:
    path = release / "all_jd.csv"
    path.write_bytes(b'jd_no,title\n1,"two\nlines"\n2,Nurse\x92s aide\n3,Welder\n')
    offset = path.read_bytes().index(b"\x92")
    place = f"{path}, row 2: byte 0x92 at offset {offset} is not utf-8 (encoding)"
    refused(lambda: load(release), "encoding", place, 'encoding="cp1252"')
    assert load(release, encoding="cp1252").jobs.loc["2", "title"] == "Nurse’s aide"
    with pytest.raises(ValueError, match="encoding 'latin-nine' is unknown"):
        load(release, encoding="latin-nine")


def test_damaged_archive(tmp_path: Path) -> None:
    packed, path = gzip.compress(b"resume_id,job_id,label\n" * 99), tmp_path / "pairs.csv.gz"
    for damaged in (packed[:20], packed[:12] + b"\xff" * 9 + packed[21:]):
        path.write_bytes(damaged)
        refused(lambda: load_pairs(path), "unreadable", "pairs.csv.gz", "Fetch or write the file again")
    with pytest.raises(ValueError, match=r"cannot tell the format; rename it to one of \.csv"):
        load_pairs(tmp_path / "pairs.xlsx")


def test_a_long_text_is_read(release: Path) -> None:
    write(release / "all_jd.csv", "jd_no,title", f"1,{'x' * 200_000}", "2,Nurse", "3,Welder")
    assert len(load(release).jobs.loc["1", "title"]) == 200_000


# --- saving ---


def small_corpus(**changes: Any) -> Corpus:
    split = ["train", "test"]
    parts = {
        "resumes": pd.DataFrame({"text": ["cook, chef", 'says "hi"\r\nbye\r'], "split": split}, index=["007", "2"]),
        "jobs": pd.DataFrame({"split": split, "标题": ["厨师", ""], "pay": ["NA", "1.50"]}, index=["007", "2"]),
        "labels": pd.DataFrame([("2", "2", 1, "test"), ("007", "007", 0, "train")], columns=LABEL_COLUMNS),
        "rankings": pd.DataFrame(
            [("job", "test", "2", "2", 1), ("resume", "test", "2", "2", 1)], columns=RANKING_COLUMNS
        ),
        "truth": csr_array(np.array([[False, True], [True, False]])),
        "name": "small",
        "notes": ("made by hand",),
    }
    return Corpus(**(parts | changes))


def test_saved_files_equal_the_official_format_literally(tmp_path: Path) -> None:
    folder = save(small_corpus(), tmp_path / "out")
    read = {path.name: path.read_bytes().decode() for path in folder.iterdir() if path.suffix != ".npz"}
    assert read["all_resume.csv"] == 'user_id,text\n007,"cook, chef"\n2,"says ""hi""\r\nbye\r"\n'
    assert read["all_jd.csv"] == "jd_no,标题,pay\n007,厨师,NA\n2,,1.50\n"
    assert read["train_labeled_data.jsonl"] == '{"user_id": "007", "jd_no": "007", "satisfied": 0}\n'
    assert read["test_classification_data.jsonl"] == '{"user_id": "2", "jd_no": "2", "satisfied": 1}\n'
    assert read["rank_resume.json"] == json.dumps({"2": {"user_ids": ["2"], "satisfied": [1]}}, indent=4)
    assert read["rank_job.json"] == json.dumps({"2": {"jd_nos": ["2"], "satisfied": [1]}}, indent=4)
    assert "valid_classification_data.jsonl" not in read


def test_the_official_way_of_reading_finds_everything(tiny: Corpus, tmp_path: Path) -> None:
    """As src/preprocess/dataset.py of ConFit does it: ids by str(), every column a configured field."""
    folder = save(tiny, tmp_path / "market")
    names = {"resume": ("user_id", "all_resume.csv"), "job": ("jd_no", "all_jd.csv")}
    for side, (id_column, file) in names.items():
        records = {str(row.pop(id_column)): row for row in pd.read_csv(folder / file).to_dict("records")}
        assert list(records) == tiny.documents(side).index.tolist()
        assert all(set(record) == set(tiny.fields(side)) for record in records.values())
        pairs = pd.read_json(folder / "train_labeled_data.jsonl", lines=True)
        assert {str(value) for value in pairs[id_column]} <= set(records)
        assert set(pairs["satisfied"]) == {0, 1}


def test_without_its_sidecar_a_saved_folder_reads_like_a_release(tmp_path: Path) -> None:
    corpus = small_corpus()
    folder = save(corpus, tmp_path / "out")
    assert load(folder) == corpus
    for path in folder.glob("confitlib*"):
        path.unlink()
    plain = load(folder)
    assert plain.labels["resume_id"].tolist() == ["007", "2"]
    assert plain.resumes["split"].tolist() == ["train", "test"]
    assert (plain.name, plain.truth) == ("out", None)


def test_market_round_trip(tiny: Corpus, tmp_path: Path) -> None:
    assert load(save(tiny, tmp_path / "market")) == tiny


def test_settings_survive_the_round_trip(tmp_path: Path) -> None:
    corpus = small_corpus(
        jobs=pd.DataFrame({"text": ["[[X]]", "b"], "split": ["any", "test"], HYRE: ["", "a, b"]}, index=["007", "2"]),
        labels=pd.DataFrame([("2", "2", 1, "test", 4.5)], columns=[*LABEL_COLUMNS, "score"]),
        regime="warm",
        accepted=frozenset({"placeholder"}),
    )
    again = load(save(corpus, tmp_path / "out"))
    assert again == corpus
    assert (again.regime, again.accepted, again.notes) == ("warm", corpus.accepted, corpus.notes)
    assert again.jobs[HYRE].tolist() == ["", "a, b"]
    assert again.labels["score"].tolist() == [4.5]


ids = st.lists(
    st.text(min_size=1, max_size=5).filter(lambda name: re.sub(WIDTHLESS, "", name).strip()),
    min_size=1,
    max_size=4,
    unique=True,
)
names = st.text(max_size=5).filter(lambda name: name not in ("user_id", "jd_no", "split", HYRE))
label_rows = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0, 1]))


@st.composite
def documents(draw: st.DrawFn) -> pd.DataFrame:
    index = draw(ids)
    fields = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    cells = {name: draw(st.lists(st.text(max_size=8), min_size=len(index), max_size=len(index))) for name in fields}
    cells[fields[0]] = [cell + "x" for cell in cells[fields[0]]]
    frame = pd.DataFrame(cells, index=index, dtype="str")
    frame.insert(draw(st.integers(0, len(fields))), "split", "any")
    return frame


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    resumes, jobs = draw(documents()), draw(documents())
    if draw(st.booleans()):
        jobs[HYRE] = draw(st.lists(st.text(max_size=5), min_size=len(jobs), max_size=len(jobs)))
    splits = st.sampled_from(["train", "valid", "test"])
    judged = {}
    for row, column, value in draw(st.lists(label_rows, max_size=6)):
        judged[resumes.index[row % len(resumes)], jobs.index[column % len(jobs)]] = value
    rows = [(*pair, value, draw(splits)) for pair, value in judged.items()]
    entries = {
        (target, draw(splits), *(pair if target == "job" else pair[::-1]), draw(st.sampled_from([-1, value])))
        for pair, value in judged.items()
        for target in ("resume", "job")
    }
    shuffled = draw(st.permutations(sorted(entries)))
    truth = csr_array(np.ones((len(resumes), len(jobs)), dtype=bool)) if draw(st.booleans()) else None
    labels = pd.DataFrame(rows, columns=LABEL_COLUMNS) if rows else empty_frame(LABEL_COLUMNS)
    rankings = pd.DataFrame(shuffled, columns=RANKING_COLUMNS) if shuffled else empty_frame(RANKING_COLUMNS)
    return Corpus(resumes, jobs, labels, rankings, truth, name=draw(st.text(max_size=4)) or "n", regime="warm")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(corpus=corpora())
def test_round_trip_is_exact(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = load(save(corpus, tmp_path_factory.mktemp("saved")))
    assert again == corpus
    assert again.resumes.equals(corpus.resumes.astype("str").rename_axis("resume_id"))
    assert again.jobs.index.tolist() == corpus.jobs.index.tolist()
    assert again.labels.to_numpy().tolist() == corpus.labels.to_numpy().tolist()
    assert again.rankings.to_numpy().tolist() == corpus.rankings.to_numpy().tolist()


def test_saving_never_mixes_two_corpora(tmp_path: Path, release: Path) -> None:
    folder = save(small_corpus(), tmp_path / "out")
    for taken in (folder, release):
        with pytest.raises(FileExistsError, match=r"holds a corpus already \(all_jd.csv, .*choose or clear a folder"):
            save(small_corpus(), taken)
    assert load(folder) == small_corpus() and len(load(release).resumes) == 4


def test_a_save_that_was_killed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as killed, pytest.raises(OSError, match="full"):
        killed.setattr("numpy.savez_compressed", lambda *_, **__: exec("raise OSError('full')"))
        save(small_corpus(), tmp_path / "out")
    refused(lambda: load(tmp_path / "out"), "stale_sidecar", "not saved completely", "Save the corpus again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": small_corpus().labels.assign(rater="a")}, r"cannot hold the label or ranking columns \['rater'\]"),
        ({"jobs": small_corpus().jobs.assign(jd_no="1")}, "keeps job ids in 'jd_no'"),
        ({"labels": small_corpus().labels.assign(label=1.0)}, "whole-number labels only"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save(small_corpus(**change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["all_resume.csv", "test_classification_data.jsonl", "train_rank_job.json"])
def test_a_folder_that_was_changed_does_not_pass_as_the_saved_one(change: str, tmp_path: Path) -> None:
    folder = save(small_corpus(), tmp_path / "out")
    with (folder / change).open("a") as file:
        file.write("\n")
    what = "the release files are not those that were saved with it"
    refused(lambda: load(folder), "stale_sidecar", what, "delete the confitlib* files")


@pytest.mark.parametrize("content", [b"", b"no archive", {}, {"settings": b"[]"}, {"settings": b'{"files": 1}'}])
def test_a_damaged_sidecar_is_refused(content: Any, tmp_path: Path) -> None:
    folder = save(small_corpus(), tmp_path / "out")
    if isinstance(content, bytes):
        (folder / "confitlib.npz").write_bytes(content)
    else:
        np.savez(folder / "confitlib.npz", **{name: np.frombuffer(value, np.uint8) for name, value in content.items()})
    refused(lambda: load(folder), "stale_sidecar", "confitlib.npz", "Save the corpus again")


def test_a_folder_of_an_older_version_is_refused_with_a_remedy(tmp_path: Path) -> None:
    folder = save(small_corpus(), tmp_path / "out")
    (folder / "confitlib.npz").rename(folder / "confitlib.json")
    refused(lambda: load(folder), "stale_sidecar", "saved by another version", "Save the corpus again")


# --- splits ---


def test_cold_start_split_partitions_documents(tiny: Corpus) -> None:
    whole = replace(tiny, rankings=empty_frame(RANKING_COLUMNS))
    corpus = split_documents(whole, (0.6, 0.2, 0.2), seed=3)
    for side in ("resume", "job"):
        home = corpus.labels[f"{side}_id"].map(corpus.documents(side)["split"])
        assert (home == corpus.labels["split"]).all()
    assert set(corpus.labels["split"]) == {"train", "valid", "test"}
    crossing = len(whole.labels) - len(corpus.labels)
    assert corpus.notes[-1].startswith(f"cold-start split: {crossing} of {len(whole.labels)} labels")
    assert crossing < 0.45 * len(whole.labels)
    assert corpus == split_documents(whole, (0.6, 0.2, 0.2), seed=3)
    assert corpus != split_documents(whole, (0.6, 0.2, 0.2), seed=4)


def test_split_loses_no_label_when_components_are_small() -> None:
    index = [str(number) for number in range(100)]
    frame = pd.DataFrame({"text": index, "split": "train"}, index=index)
    labels = pd.DataFrame(
        {"resume_id": index, "job_id": [str(n // 4) for n in range(100)], "label": 1, "split": "train"}
    )
    corpus = split_documents(Corpus(frame, frame, labels))
    assert len(corpus.labels) == 100
    assert corpus.labels["split"].value_counts().to_dict() == {"train": 80, "valid": 8, "test": 12}
    assert (corpus.jobs["split"][25:] == "train").all()


def test_a_job_that_was_posted_twice_stays_in_one_split() -> None:
    names = [f"{number:02d}" for number in range(40)]
    jobs = pd.DataFrame({"text": [f"Job  {n // 2}" if n % 2 else f"job {n // 2}" for n in range(40)]}, index=names)
    resumes = pd.DataFrame({"text": names}, index=names)
    labels = pd.DataFrame({"resume_id": names, "job_id": names, "label": 1, "split": "train"})
    corpus = split_documents(Corpus(resumes.assign(split="train"), jobs.assign(split="train"), labels))
    assert corpus.jobs["split"].nunique() == 3
    assert (corpus.jobs["split"].to_numpy()[::2] == corpus.jobs["split"].to_numpy()[1::2]).all()


def test_split_refuses_lists_and_odd_fractions(tiny: Corpus) -> None:
    with pytest.raises(ValueError, match="has candidate lists"):
        split_documents(tiny)
    for fractions in [(0.5, 0.5), (0.5, 0.2, 0.2), (1.2, -0.1, -0.1)]:
        with pytest.raises(ValueError, match="give the shares of"):
            split_documents(replace(tiny, rankings=empty_frame(RANKING_COLUMNS)), fractions)


# --- pairs ---


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    jsonl(tmp_path / "cvs.jsonl", *({"id": n, "text": f"cv {n}", "source": "web"} for n in range(1, 5)))
    write(tmp_path / "posts.csv", "job_id,title,body", "1,Cook,soup", "2,Nurse,care")
    write(tmp_path / "pairs.csv", "resume_id,job_id,label", "1,1,1", "2,1,0", "3,2,1")
    return tmp_path


def test_three_tables(tables: Path) -> None:
    corpus = load_pairs(tables / "pairs.csv", resumes=tables / "cvs.jsonl", jobs=tables / "posts.csv", split="test")
    assert corpus.resumes["text"].tolist() == ["cv 1", "cv 2", "cv 3", "cv 4"]
    assert corpus.resumes["split"].tolist() == ["test", "test", "test", "train"]
    assert corpus.fields("job") == ["title", "body"]
    assert corpus.labels["label"].tolist() == [1, 0, 1]
    assert corpus.notes == (
        f"{tables / 'cvs.jsonl'}: columns ['source'] are not used",
        "1 resumes occur in no label and no list: they are in split 'train'",
    )
    assert load(save(corpus, tables / "out")) == corpus


def test_texts_inside_the_pairs_and_ids_made_from_them(tmp_path: Path) -> None:
    rows = [{"resume_text": text, "post": post, "label": 1} for text, post in [("a", "x"), ("b", "x"), ("a", "y")]]
    path = jsonl(tmp_path / "pairs.jsonl", *rows)
    corpus = load_pairs(path, columns={"pairs": {"job_text": "post"}}, split="train")
    assert corpus.resumes["text"].tolist() == ["a", "b"]
    assert corpus.jobs["text"].tolist() == ["x", "y"]
    assert corpus.labels["resume_id"].tolist() == corpus.resumes.index[[0, 1, 0]].tolist()
    assert f"{path}: resume ids are made from 2 distinct texts" in corpus.notes


def test_scores_become_labels_by_a_threshold_and_stay(tables: Path) -> None:
    write(tables / "pairs.csv", "resume_id,job_id,rating", "1,1,7", "2,1,4.5", "3,2,2")
    read = {"resumes": tables / "cvs.jsonl", "jobs": tables / "posts.csv", "split": "test"}
    corpus = load_pairs(tables / "pairs.csv", **read, threshold=4.5, columns={"pairs": {"label": "rating"}})
    assert corpus.labels["label"].tolist() == [1, 1, 0]
    assert corpus.labels["score"].tolist() == [7.0, 4.5, 2.0]
    write(tables / "pairs.csv", "resume_id,job_id,label", "1,1,7", "2,1,n/a")
    call = lambda: load_pairs(tables / "pairs.csv", **read, threshold=5)  # noqa: E731
    refused(call, "unknown_label", "pairs.csv, row 2: label n/a is not 0 or 1")
    refused(lambda: load_pairs(tables / "pairs.csv", **read), "unknown_label", "row 1: label 7 is not 0 or 1")


@pytest.mark.parametrize("spelling", ["1.0", "1", " 1"])
def test_a_mapping_of_numbers_reads_them_however_they_are_written(spelling: str, tables: Path) -> None:
    write(tables / "pairs.csv", "resume_id,job_id,label", f"1,1,{spelling}", "2,1,0.0")
    read = {"resumes": tables / "cvs.jsonl", "jobs": tables / "posts.csv", "split": "train"}
    assert load_pairs(tables / "pairs.csv", **read, label_values={1: 0, 0: 1}).labels["label"].tolist() == [0, 1]
    call = lambda: load_pairs(tables / "pairs.csv", **read, label_values={5: 1, 0: 0})  # noqa: E731
    refused(call, "unknown_label", "row 1: label", "not in label_values")


def test_named_labels(tables: Path) -> None:
    write(tables / "pairs.csv", "resume_id,job_id,label", "1,1,Good Fit", "2,1,No Fit", "3,2,Unsure")
    read = {"resumes": tables / "cvs.jsonl", "jobs": tables / "posts.csv", "split": "train"}
    values = {"Good Fit": 1, "No Fit": 0}
    refused(
        lambda: load_pairs(tables / "pairs.csv", **read, label_values=values), "unknown_label", "row 3: label Unsure"
    )
    corpus = load_pairs(tables / "pairs.csv", **read, label_values=values, accept="unknown_label")
    assert corpus.labels["label"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="not both"):
        load_pairs(tables / "pairs.csv", **read, label_values=values, threshold=1)


def test_an_unknown_split_is_a_defect_like_any_other(tables: Path) -> None:
    write(tables / "pairs.csv", "resume_id,job_id,label,split", "1,1,1,train", "2,1,0,holdout")
    call = lambda: load_pairs(tables / "pairs.csv", resumes=tables / "cvs.jsonl", jobs=tables / "posts.csv")  # noqa: E731
    refused(call, "unknown_split", "pairs.csv, row 2: split 'holdout' is unknown")


def test_the_case_of_a_file_ending_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "PAIRS.CSV", "resume_text,job_text,label", '"a, b",x,1', "c,x,0")
    assert load_pairs(path, split="train").resumes["text"].tolist() == ["a, b", "c"]


def test_split_column_and_fractions(tables: Path) -> None:
    write(tables / "pairs.csv", "resume_id,job_id,label,split", "1,1,1,train", "2,1,0,Train", "3,2,1,validation")
    read = {"resumes": tables / "cvs.jsonl", "jobs": tables / "posts.csv"}
    corpus = load_pairs(tables / "pairs.csv", **read)
    assert corpus.labels["split"].tolist() == ["train", "train", "valid"]
    assert corpus.jobs["split"].tolist() == ["train", "valid"]
    assert "cold-start split" in load_pairs(tables / "pairs.csv", **read, split=(0.5, 0.0, 0.5)).notes[-1]
    with pytest.raises(ValueError, match="split='dev' is unknown"):
        load_pairs(tables / "pairs.csv", **read, split="dev")  # type: ignore[arg-type]


def test_missing_columns_and_texts(tables: Path) -> None:
    write(tables / "pairs.csv", "cv,job_id,label,job_text", "1,1,1,a", "2,1,0,b")
    error = refused(
        lambda: load_pairs(tables / "pairs.csv", columns={"pairs": {"split": "fold"}}),
        "missing_column",
        "no column 'resume_id' (there are: cv, job_id, label, job_text)",
        'Map it: columns={"pairs": {"resume_id": "<a column of the file>"}}.',
    )
    assert "no resume texts: neither a column ['resume_text'] nor resumes=…" in str(error)
    assert "no column 'fold'" in str(error)
    assert "pairs.csv, row 2: job '1' has another text here than in an earlier row (conflicting_text)" in str(error)


def test_unknown_names_in_columns_are_refused(tables: Path) -> None:
    with pytest.raises(ValueError, match=r"\['id'\] are unknown names of 'jobs'"):
        load_pairs(tables / "pairs.csv", columns={"jobs": {"id": "number"}})
    with pytest.raises(ValueError, match="'job' is an unknown table"):
        load_pairs(tables / "pairs.csv", columns={"job": {"job_id": "number"}})


def test_a_misspelt_id_column_is_named_although_ids_could_be_made(tables: Path) -> None:
    write(tables / "pairs.csv", "cv,job_id,label,resume_text,job_text", "1,1,1,a,b")
    call = lambda: load_pairs(tables / "pairs.csv", columns={"pairs": {"resume_id": "cvs"}})  # noqa: E731
    refused(call, "missing_column", "no column 'cvs' (there are: cv, job_id")


def test_parquet_tables_are_read_like_the_others(tables: Path) -> None:
    for name, frame in {
        "pairs": pd.DataFrame({"resume_id": [1, 2, 3], "job_id": [1, 1, 2], "label": [1, 0, 1]}),
        "cvs": pd.DataFrame({"id": [1, 2, 3, 4], "text": ["cv 1", "cv 2", "cv 3", "cv 4"], "source": "web"}),
    }.items():
        frame.to_parquet(tables / f"{name}.parquet")
    read = {"jobs": tables / "posts.csv", "split": "test", "name": "same"}
    corpus = load_pairs(tables / "pairs.parquet", resumes=tables / "cvs.parquet", **read)
    assert corpus == load_pairs(tables / "pairs.csv", resumes=tables / "cvs.jsonl", **read)
    (tables / "pairs.parquet").write_bytes(b"PAR1")
    refused(lambda: load_pairs(tables / "pairs.parquet"), "unreadable", "pairs.parquet")
    refused(lambda: load_pairs(tables / "none.parquet"), "missing_file", "none.parquet")


def test_missing_texts_come_with_a_remedy_that_works(tables: Path) -> None:
    read = {"resumes": tables / "cvs.jsonl", "jobs": tables / "posts.csv", "split": "train"}
    call = lambda text: load_pairs(tables / "pairs.csv", **read, columns={"resumes": {"text": text}})  # noqa: E731
    refused(lambda: call(["a", "text"]), "missing_column", "no column 'a'", 'columns={"resumes": {"text": "<a column')
    assert call("text").fields("resume") == ["text"]


def test_rows_are_those_of_the_file_whatever_is_blank_repeated_or_merged(release: Path, tables: Path) -> None:
    write(tables / "pairs.csv", "resume_text,job_text,label", "a,x,1", "", "a,x,0", "b,y,2", " ,z,1")
    error = refused(lambda: load_pairs(tables / "pairs.csv", split="train"), "empty_text", "pairs.csv, row 5: resume")
    assert "pairs.csv, row 1: resume" in str(error) and "pairs.csv, row 4: label 2 is not 0 or 1" in str(error)
    write(tables / "pairs.csv", "resume_id,job_id,label,job_text", "", "1,1,1,soup", "2,3,0, ")
    read = {"resumes": tables / "cvs.jsonl", "jobs": tables / "posts.csv", "split": "train"}
    refused(lambda: load_pairs(tables / "pairs.csv", **read), "empty_text", "pairs.csv, row 3: job '3' has no text")
    write(release / "train_labeled_data.jsonl", "", json.dumps(label("1", "1", 7)))
    refused(lambda: load(release), "unknown_label", "train_labeled_data.jsonl, row 2: label 7")


def test_a_split_that_stays_empty_is_noted(tables: Path) -> None:
    corpus = load_pairs(tables / "pairs.csv", resumes=tables / "cvs.jsonl", jobs=tables / "posts.csv")
    absent = {"train", "valid", "test"} - set(corpus.labels["split"])
    assert absent and all(any(f"split {split!r} has no label" in note for note in corpus.notes) for split in absent)


def test_the_warm_regime_splits_labels(tmp_path: Path) -> None:
    rows = [f"r{n % 10},j{n // 10},{n % 2},cv {n % 10},post {n // 10}" for n in range(50)]
    path = write(tmp_path / "pairs.csv", "resume_id,job_id,label,resume_text,job_text", *rows)
    corpus = load_pairs(path, regime="warm", split=(0.6, 0.2, 0.2), seed=1)
    assert corpus.regime == "warm" and "any" in set(corpus.jobs["split"])
    assert corpus.labels["split"].value_counts().to_dict() == {"train": 30, "valid": 10, "test": 10}
    assert corpus == load_pairs(path, regime="warm", split=(0.6, 0.2, 0.2), seed=1)
    assert corpus != load_pairs(path, regime="warm", split=(0.6, 0.2, 0.2), seed=2)


def test_own_table_wins_over_the_text_in_the_pairs(tables: Path) -> None:
    write(tables / "pairs.tsv", "resume_id\tjob_id\tlabel\tresume_text", '1\t1\t1\tsays "hi', "9\t2\t0\tnew cv")
    corpus = load_pairs(tables / "pairs.tsv", resumes=tables / "cvs.jsonl", jobs=tables / "posts.csv", split="train")
    assert corpus.resumes["text"].tolist() == ["cv 1", "cv 2", "cv 3", "cv 4", "new cv"]
    assert any(note.startswith("1 resumes stand in") for note in corpus.notes)


@pytest.mark.skipif(not DATA.exists(), reason="the real texts are not here")
def test_real_files() -> None:
    corpus = load_pairs(
        DATA / "hr_labels.csv",
        resumes=DATA / "real_resumes.jsonl.gz",
        jobs=DATA / "real_jobs.jsonl.gz",
        columns={"pairs": {"label": "score"}},
        threshold=5,
        split="test",
    )
    assert (len(corpus.resumes), len(corpus.jobs), len(corpus.labels)) == (2483, 1390 + 25, 231)
    assert (len(corpus.pool("resume", "train")), len(corpus.pool("job", "test"))) == (2289, 25)
    assert corpus.labels["score"].between(1, 7).all()


# --- Hugging Face datasets ---


def hub_pairs() -> dict[str, list[Any]]:
    return {"resume_text": ["a", "b"], "job_description": ["x", "y"], "label": ["Good Fit", "No Fit"]}


HUB = {"columns": {"pairs": {"job_text": "job_description"}}, "label_values": {"Good Fit": 1, "No Fit": 0}}


def test_hub_pairs_with_splits_from_disk(tmp_path: Path) -> None:
    import datasets

    test = {"resume_text": ["c"], "job_description": ["z"], "label": ["No Fit"]}
    parts = {"train": datasets.Dataset.from_dict(hub_pairs()), "test": datasets.Dataset.from_dict(test)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "fit"))
    corpus = load_hub(tmp_path / "fit", **HUB)
    assert corpus.labels["split"].tolist() == ["train", "train", "test"]
    assert corpus.labels["label"].tolist() == [1, 0, 0]
    assert corpus.resumes["text"].tolist() == ["a", "b", "c"]
    assert corpus.name == "fit"


def test_hub_tables_and_class_labels_from_disk(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "resume_id": datasets.Value("int64"),
            "job_id": datasets.Value("int64"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    pairs = datasets.Dataset.from_dict({"resume_id": [7, 8], "job_id": [1, 1], "label": [1, 0]}, features=features)
    resumes = datasets.Dataset.from_dict({"id": [7, 8], "skills": [["C", "R"], []], "degree": ["BSc", "MA"]})
    jobs = datasets.Dataset.from_dict({"id": [1], "text": ["Cook"]})
    datasets.DatasetDict({"pairs": pairs, "resumes": resumes, "jobs": jobs}).save_to_disk(str(tmp_path / "three"))
    corpus = load_hub(tmp_path / "three", label_values={"yes": 1, "no": 0}, split="train")
    assert corpus.resumes.loc["7"].tolist() == ["C\nR", "BSc", "train"]
    assert corpus.labels["label"].tolist() == [1, 0]
    refused(lambda: load_hub(tmp_path / "three"), "unknown_label", "three [pairs], row 1: label yes is not 0 or 1")


def test_hub_folder_of_data_files_and_configurations(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    for config in ("labels", "cv", "posts"):
        (folder / config).mkdir(parents=True)
    write(folder / "labels" / "train.csv", "resume_id,job_id,label", "a1,b1,1")
    write(folder / "cv" / "train.csv", "id,text", "a1,cook")
    write(folder / "posts" / "train.csv", "id,text", "b1,kitchen")
    entries = [f"  - config_name: {name}\n    data_files: {name}/train.csv" for name in ("labels", "cv", "posts")]
    write(folder / "README.md", "---", "configs:", *entries, "---")
    configs = {"pairs": "labels", "resumes": "cv", "jobs": "posts"}
    corpus = load_hub(folder, configs=configs, split="train", cache_dir=str(tmp_path / "cache"))
    assert corpus.labels[["resume_id", "job_id"]].to_numpy().tolist() == [["a1", "b1"]]
    with pytest.raises(ValueError, match="name the configuration of the pairs"):
        load_hub(folder, configs={"jobs": "posts"}, cache_dir=str(tmp_path / "cache"))


# --- RecBole-PJF atomic files ---


@pytest.fixture
def atomic(tmp_path: Path) -> Path:
    inter = ["u1\tj1\t0\t1.0", "u1\tj1\t1\t0.0", "u2\tj1\t0\t0.0", "u3\tj2\t1\t1.0"]
    write(tmp_path / "zhilian.inter", "user_id:token\tjob_id:token\tdirect:token\tlabel:float", *inter)
    write(tmp_path / "zhilian.user", "user_id:token\tcity:token", "u1\t551", "u2\t530")
    write(tmp_path / "zhilian.udoc", "user_id:token\tuser_doc:token_seq", "u1\tcooked soup", "u3\tnursed", "u1\tbaked")
    write(tmp_path / "zhilian.idoc", "job_id:token\tjob_doc:token_seq", "j1\tcook wanted", 'j2\tnurse "on call')
    return tmp_path


def test_recbole(atomic: Path) -> None:
    corpus = load_recbole(atomic, "zhilian", fractions=(1, 0, 0))
    assert corpus.resumes.drop(columns="split").to_dict("index") == {
        "u1": {"city": "551", "text": "cooked soup\nbaked"},
        "u2": {"city": "530", "text": ""},
        "u3": {"city": "", "text": "nursed"},
    }
    assert corpus.jobs["text"].tolist() == ["cook wanted", 'nurse "on call']
    assert corpus.labels["label"].tolist() == [1, 0, 1]
    assert corpus.notes == (
        f"{atomic / 'zhilian.inter'}: columns ['direct'] are not used",
        "4 events were merged into 3 labelled pairs, accepted if any was",
        "cold-start split: 0 of 3 labels join documents of two splits and are left out",
    )


def test_recbole_without_labels_or_ids(atomic: Path) -> None:
    write(atomic / "zhilian.inter", "geek:token\titem_id:token", "u1\tj1", "u3\tj2")
    what = "no column 'user_id' (there are: geek, item_id)"
    refused(lambda: load_recbole(atomic, "zhilian"), "missing_column", what, "Name the column of resume ids user_id")
    write(atomic / "zhilian.inter", "user_id:token\tjob_id:token", "u1\tj1", "u3\tj2")
    corpus = load_recbole(atomic, "zhilian", fractions=(1, 0, 0))
    assert corpus.labels["label"].tolist() == [1, 1]
    assert "so every interaction counts as an acceptance" in corpus.notes[0]


def test_recbole_defects(atomic: Path) -> None:
    write(atomic / "zhilian.inter", "user_id:token\tjob_id:token\tlabel:float", "u1\tj1\tx", "u9\tj1\t1", "u3\tj2\t1")
    refused(lambda: load_recbole(atomic, "zhilian"), "unknown_label", "row 1: label 'x' is not a number")
    call = lambda: load_recbole(atomic, "zhilian", accept="unknown_label")  # noqa: E731
    refused(call, "unknown_document", "zhilian.inter, row 2", "unknown resume 'u9'")
    write(atomic / "zhilian.inter", "user_id:token\tjob_id:token", "u1\tj1", "u1\tj1", "u9\tj1", "u9\tj1")
    refused(lambda: load_recbole(atomic, "zhilian"), "unknown_document", "zhilian.inter, row 3", "'u9'")
    write(atomic / "zhilian.user", "user_id\tcity:token", "u1\t551")
    refused(lambda: load_recbole(atomic, "zhilian"), "untyped_header", "'user_id' has no known type", "Write name:type")
    write(atomic / "zhilian.user", "geek:token\tcity:token", "u1\t551")
    refused(lambda: load_recbole(atomic, "zhilian"), "missing_column", "no column 'user_id'", "alike in every file")
    (atomic / "zhilian.user").unlink()
    (atomic / "zhilian.udoc").unlink()
    refused(lambda: load_recbole(atomic, "zhilian"), "missing_file", "neither it nor zhilian.udoc exists")


# --- Tianchi tables ---

USER = (
    "user_id live_city_id desire_jd_city_id desire_jd_industry_id desire_jd_type_id desire_jd_salary_id "
    "cur_industry_id cur_jd_type cur_salary_id cur_degree_id birthday start_work_date experience"
).replace(" ", "\t")
JOB = (
    "jd_no jd_title company_name city jd_sub_type require_nums max_salary min_salary start_date end_date "
    "is_travel min_years key min_edu_level max_edu_level is_mangerial resume_language_required job_description"
).replace(" ", "\t")


def tabbed(*cells: str) -> str:
    return "\t".join(cells)


@pytest.fixture
def tianchi(tmp_path: Path) -> Path:
    users = [tabbed(user, "551", "551,-,-", *"-" * 6, "大专", "24", "2017", "停车|预算") for user in ("u1", "u2", "u3")]
    write(tmp_path / "table1_user", USER, *users)
    cells = [
        "厨师",
        "\\N",
        "530",
        "餐饮",
        "1",
        "6000",
        "4000",
        "20190101",
        "20190101",
        "0",
        "3",
        "",
        *"大大-",
        "",
        '做"饭',
    ]
    jobs = [tabbed(job, *cells) for job in ("j1", "j2")]
    write(tmp_path / "table2_jd.txt", JOB, *jobs)
    actions = ["u1 j1 1 1 0", "u1 j1 1 1 1", "u2 j1 1 1 0", "u3 j2 1 0 0"]
    lines = ["user_id jd_no browsed delivered satisfied", *actions]
    write(tmp_path / "table3_action", *(line.replace(" ", "\t") for line in lines))
    return tmp_path


def test_tianchi(tianchi: Path) -> None:
    corpus = load_tianchi(tianchi, fractions=(1, 0, 0))
    assert (len(corpus.fields("resume")), len(corpus.fields("job"))) == (12, 11)
    assert corpus.resumes.loc["u1", ["期望工作城市", "学历", "当前工作类型"]].tolist() == ["551,-,-", "大专", ""]
    assert corpus.jobs.loc["j1", ["薪资", "工作描述", "工作类型"]].tolist() == ["4000-6000", '做"饭', "餐饮"]
    assert corpus.labels[["resume_id", "job_id", "label"]].to_numpy().tolist() == [["u1", "j1", 1], ["u2", "j1", 0]]
    assert f"{tianchi / 'table3_action'}: 1 actions were browsing only and give no label" in corpus.notes
    assert any("'company_name', 'key'" in note for note in corpus.notes)
    again = load(save(corpus, tianchi / "official"))
    assert again == corpus


def test_tianchi_defects(tianchi: Path) -> None:
    with (tianchi / "table2_jd.txt").open("a") as file:
        file.write("j9\tbroken row\n")
    refused(lambda: load_tianchi(tianchi), "ragged_row", "table2_jd.txt, row 3: 2 cells, the header has 18")
    assert len(load_tianchi(tianchi, accept="ragged_row").jobs) == 2
    write(tianchi / "table3_action", tabbed("user_id", "jd_no", "browsed", "delivered", "satisfied"), tabbed(*"uj1?1"))
    refused(lambda: load_tianchi(tianchi), "unknown_label", "table3_action, row 1: delivered '?', satisfied '1'")
    write(tianchi / "table3_action", tabbed("user_id", "jd_no", "browsed", "delivered"))
    refused(lambda: load_tianchi(tianchi), "missing_column", "table3_action: no column 'satisfied'")
    write(tianchi / "table3_action.txt", "")
    refused(lambda: load_tianchi(tianchi), "several_files", "table3_action, table3_action.txt")
    (tianchi / "table3_action").unlink()
    (tianchi / "table3_action.txt").unlink()
    refused(lambda: load_tianchi(tianchi), "missing_file", "no file table3_action")


def same_market(read: Corpus, tiny: Corpus, texts_of: dict[str, pd.Series]) -> None:
    """Every labelled pair and every text of the market came through."""
    columns = ["resume_id", "job_id", "label"]
    found, expected = (one.labels[columns].astype(str).sort_values(columns).to_numpy().tolist() for one in (read, tiny))
    assert found == expected
    for side, written in texts_of.items():
        documents = read.documents(side)["text"]  # type: ignore[arg-type]
        assert documents.to_dict() == {key: written[key] for key in documents.index} and len(documents) > 100


@pytest.fixture(scope="module")
def whole_texts(tiny: Corpus) -> dict[str, pd.Series]:
    return {side: tiny.documents(side)[tiny.fields(side)].agg("\n".join, axis=1) for side in ("resume", "job")}


def test_a_market_comes_back_from_judgements_and_folders_of_texts(tiny, whole_texts, tmp_path):
    for side, written in whole_texts.items():
        (tmp_path / side).mkdir()
        for key, text in written.items():
            (tmp_path / side / f"{key}.txt").write_text(text, encoding="utf-8")
    lines = [f"{row.job_id} 0 {row.resume_id} {row.label}" for row in tiny.labels.itertuples()]
    columns = {"pairs": {"job_id": "query_id", "resume_id": "document_id"}}
    files = {"resumes": tmp_path / "resume", "jobs": tmp_path / "job"}
    read = load_pairs(write(tmp_path / "market.qrels", *lines), **files, columns=columns, split="train")
    same_market(read, tiny, whole_texts)


@pytest.mark.parametrize(("ending", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_a_market_comes_back_from_tables_without_header(tiny, whole_texts, tmp_path, ending, mark):
    files, flat = {}, {side: written.str.replace("\n", "; ") for side, written in whole_texts.items()}
    for side, written in flat.items():
        files[f"{side}s"] = tmp_path / f"{side}{ending}"
        written.to_csv(files[f"{side}s"], header=False, sep=mark)
    pairs = tmp_path / f"pairs{ending}"
    tiny.labels[["resume_id", "job_id", "label"]].to_csv(pairs, header=False, index=False, sep=mark)
    columns: dict[str, Any] = {f"{side}s": {f"{side}_id": "1", "text": "2"} for side in ("resume", "job")}
    columns["pairs"] = {"resume_id": "1", "job_id": "2", "label": "3"}
    same_market(load_pairs(pairs, **files, columns=columns, header=None, split="train"), tiny, flat)


def test_lists_of_ids_make_a_pair_of_each(tiny, whole_texts, tmp_path):
    accepted = tiny.labels[tiny.labels["label"] == 1].groupby("job_id")["resume_id"].agg(list)
    lines = [{"job_id": job, "resume_id": resumes} for job, resumes in accepted.items()]
    files = {}
    for side, written in whole_texts.items():
        rows = [{"id": key, "text": text} for key, text in written.items()]
        files[f"{side}s"] = jsonl(tmp_path / f"{side}.jsonl", *rows)
    read = load_pairs(jsonl(tmp_path / "pairs.jsonl", *lines), **files, split="train")
    kept = replace(tiny, labels=tiny.labels[tiny.labels["label"] == 1].reset_index(drop=True))
    same_market(read, kept, whole_texts)
    assert any("every pair is accepted" in note for note in read.notes)
