"""Past memory and past one machine: shards, exact sharded mining, lost workers, indexes."""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from miniature import make_project
from scipy.sparse import csr_array, random_array
from typer.testing import CliRunner

from benchmarks.scale import known_positives
from confitlib import cli, notebooks, scale
from confitlib.encoder import load_encoder
from confitlib.market import compose_to_parquet
from confitlib.mining import kernel
from confitlib.mining.kernel import UNRANKED, select_band
from confitlib.mining.ranking import Hits, concatenate
from confitlib.scale import (
    DocumentShards,
    RayEngine,
    VectorIndex,
    VectorShards,
    build_index,
    encode_shards,
    index_documents,
    mine_file,
    open_documents,
    read_document,
    sharded_band,
    split_vectors,
    write_vectors,
)
from confitlib.text import texts
from confitlib.util import read_entries

SMALL = {"train_resumes": 30, "train_jobs": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return compose_to_parquet("tiny", 3, tmp_path_factory.mktemp("market"), shards=3, **SMALL)


def read(folder: Path, table: str) -> pd.DataFrame:
    return pd.concat(map(pd.read_parquet, sorted((folder / table).glob("*.parquet"))), ignore_index=True)


def same(left: Hits, right: Hits) -> bool:
    names = ("query", "item", "rank", "score")
    pairs = [(getattr(left, name), getattr(right, name)) for name in names]
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def test_the_first_shards_of_a_large_market_are_a_small_one(folder, tmp_path):
    compose_to_parquet("tiny", 3, tmp_path, shards=2, **SMALL)
    for table in ("resumes", "jobs", "labels"):
        large, small = read(folder, table), read(tmp_path, table)
        assert small.equals(large[: len(small)]) and len(small) < len(large), table
    resumes = read(folder, "resumes")
    assert resumes["resume_id"].is_unique and resumes["resume_id"].is_monotonic_increasing
    assert resumes["experience"].is_unique


def test_a_shard_that_is_missing_comes_back_and_the_others_stay(tmp_path):
    compose_to_parquet("tiny", 3, tmp_path, shards=2, **SMALL)
    lost, kept = tmp_path / "resumes/00001.parquet", tmp_path / "resumes/00000.parquet"
    content, age = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    compose_to_parquet("tiny", 3, tmp_path, shards=2, **SMALL)
    assert lost.read_bytes() == content and kept.stat().st_mtime_ns == age


def test_two_markets_do_not_mix(folder):
    with pytest.raises(FileExistsError, match="another market"):
        compose_to_parquet("tiny", 4, folder, shards=1, **SMALL)
    with pytest.raises(ValueError, match="at least 1"):
        compose_to_parquet("tiny", 3, folder, shards=0)


def test_documents_stream_with_the_text_that_a_corpus_gives(folder, tiny, monkeypatch):
    monkeypatch.setattr(scale, "ROWS_A_BATCH", 5)
    documents = DocumentShards.of_folder(folder, "job")
    assert len(documents) == 36
    streamed = [text for path in documents.paths for batch in documents.texts(path) for text in batch]
    jobs = read(folder, "jobs").set_index("job_id")
    corpus = replace(tiny, jobs=jobs, labels=tiny.labels[:0], rankings=tiny.rankings[:0], truth=None)
    assert streamed == texts(corpus, "job").tolist()
    assert [one for path in documents.paths for one in documents.ids(path)] == jobs.index.tolist()


def test_a_list_in_a_cell_reads_as_its_items_in_lines(tmp_path):
    (tmp_path / "jobs").mkdir()
    skills = [[f"skill {number}" for number in range(1500)], []]
    frame = pd.DataFrame({"job_id": ["a", "b"], "skills": skills, "title": ["x", None]})
    frame.iloc[:1].to_parquet(tmp_path / "jobs/0.parquet")
    documents = DocumentShards.of_folder(tmp_path, "job")
    (text,) = next(documents.texts(documents.paths[0]))
    assert all(skill in text.splitlines() for skill in skills[0][1:])


def test_a_market_that_lost_a_mark_or_a_shard_is_completed_or_says_what_is_missing(tmp_path):
    compose_to_parquet("tiny", 3, tmp_path, shards=2, **SMALL)
    (tmp_path / "market.json").write_text("")  # a kill in the moment of writing
    compose_to_parquet("tiny", 3, tmp_path, shards=2, **SMALL)
    assert (tmp_path / "market.json").read_text()
    (tmp_path / "jobs/00001.parquet").unlink()
    with pytest.raises(ValueError, match="2 files of resumes and 1 of jobs"):
        known_positives(tmp_path, *(DocumentShards.of_folder(tmp_path, side) for side in ("resume", "job")))


def test_an_empty_pool_holds_no_band(tmp_path):
    queries = split_vectors(np.ones((3, 2), dtype=np.float32), tmp_path, 2)
    nothing = np.zeros(3, dtype=np.intp)
    assert not len(sharded_band(queries, VectorShards(()), csr_array((3, 0), dtype=bool), nothing, nothing).item)


def test_a_folder_without_documents_says_how_to_get_some(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"resumes/\*.parquet.*confitlib.market"):
        DocumentShards.of_folder(tmp_path, "resume")


def test_encoded_shards_equal_one_call_and_are_made_once(folder, tmp_path):
    documents = DocumentShards.of_folder(folder, "resume")
    vectors = encode_shards(documents, "static", tmp_path)
    listed = [text for path in documents.paths for batch in documents.texts(path) for text in batch]
    assert np.array_equal(vectors.take(np.arange(90)), load_encoder("static", device="cpu").encode(listed))
    ages = [path.stat().st_mtime_ns for path in vectors.paths]
    again = encode_shards(documents, "static", tmp_path)
    assert again == vectors and [path.stat().st_mtime_ns for path in again.paths] == ages


def test_vectors_of_another_text_are_not_reused(tmp_path):
    (tmp_path / "jobs").mkdir()
    file, made = tmp_path / "jobs/0.parquet", []
    for text in ("nurse", "welder"):
        pd.DataFrame({"job_id": ["J1"], "text": [text]}).to_parquet(file)
        made.append(encode_shards(DocumentShards((file,), "job"), "static", tmp_path / "vectors"))
    assert made[0].paths != made[1].paths


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_vectors_in_files_read_as_one_array(rows, tmp_path):
    whole = np.arange(22, dtype=np.float32).reshape(11, 2)
    shards = split_vectors(whole, tmp_path, 3)
    assert shards.sizes == [4, 4, 3] and shards.dim == 2
    firsts, blocks = zip(*shards.blocks(rows), strict=True)
    assert np.array_equal(np.concatenate(blocks), whole)
    assert np.array_equal(np.concatenate([block[:1] for block in blocks]), whole[list(firsts)])
    positions = np.array([0, 3, 4, 10])
    assert np.array_equal(shards.take(positions), whole[positions])
    assert len(shards.sample(5)) == 5 and np.array_equal(shards.sample(50), whole)


def test_an_interrupted_file_of_vectors_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="expects 3 vectors, got 2"):
        write_vectors(tmp_path / "v.npy", (3, 2), iter([np.zeros((2, 2), np.float32)]))
    assert not list(tmp_path.iterdir())


def test_known_positives_are_the_accepted_labels(folder):
    resumes, jobs = (DocumentShards.of_folder(folder, side) for side in ("resume", "job"))
    known = known_positives(folder, resumes, jobs)
    labels = read(folder, "labels").query("label == 1")
    ids = {side: read(folder, f"{side}s")[f"{side}_id"] for side in ("resume", "job")}
    row, column = known.nonzero()
    found = set(zip(ids["resume"][row], ids["job"][column], strict=True))
    assert found == set(zip(labels["resume_id"], labels["job_id"], strict=True)) and len(found) > 15


def windows(rng: np.random.Generator, removed: csr_array) -> tuple[np.ndarray, np.ndarray]:
    left = removed.shape[1] - np.diff(removed.indptr)
    bounds = np.sort(rng.integers(0, left + 1, size=(2, len(left))), axis=0)
    return bounds[0], bounds[1]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), values=st.integers(1, 4), sample=st.sampled_from([1, 3, 1000]))
def test_sharded_windows_equal_a_full_ranking_ties_included(tmp_path_factory, seed, values, sample):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("vectors")
    q, n = rng.integers(1, 12), rng.integers(1, 60)
    queries, pool = (rng.integers(-values, values + 1, size=(k, 3)).astype(np.float32) for k in (q, n))
    removed = csr_array(random_array((q, n), density=0.2, rng=rng) > 0)
    start, stop = windows(rng, removed)
    expected = concatenate(select_band(queries, pool, removed, start, stop))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "SAMPLE", sample)
        patch.setattr(kernel, "CERTAINTY", 0.0)  # bounds that often miss
        patch.setattr(scale, "TILE", (4, 7))
        shards = split_vectors(queries, folder / "q", 3), split_vectors(pool, folder / "p", 4)
        found = sharded_band(*shards, removed, start, stop)
        ranks = np.where(start < stop, start, UNRANKED)[:, None]
        firsts = sharded_band(*shards, removed, start, stop, ranks=ranks)
    assert same(found, expected)
    assert same(firsts, expected.take(expected.rank == start[expected.query]))


def test_real_vectors_rank_the_same_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(7)
    queries, pool = (rng.normal(size=(n, 128)).astype(np.float32) for n in (21, 500))
    removed = csr_array(random_array((21, 500), density=0.01, rng=rng) > 0)
    start, stop = np.full(21, 15), np.full(21, 60)
    found = sharded_band(
        split_vectors(queries, tmp_path / "q", 3), split_vectors(pool, tmp_path / "p", 3), removed, start, stop
    )
    assert same(found, concatenate(select_band(queries, pool, removed, start, stop)))


def test_one_pass_suffices_and_keeps_little_more_than_the_window(tmp_path, monkeypatch):
    pool = np.random.default_rng(0).normal(size=(40_000, 8)).astype(np.float32)
    passes, at = [], kernel.Sieve.at
    monkeypatch.setattr(kernel.Sieve, "at", lambda sieve, *a: passes.append(sieve) or at(sieve, *a))
    shards = split_vectors(pool[:20], tmp_path / "q", 1), split_vectors(pool, tmp_path / "p", 5)
    start, stop = np.full(20, 1200), np.full(20, 1600)
    sharded_band(*shards, csr_array((20, 40_000), dtype=bool), start, stop)
    assert len(passes) == 1, "bounds missed"
    assert 400 <= passes[0].keys.shape[1] <= 3 * 400


@pytest.mark.parametrize(("stop", "value", "message"), [
    (31, 1.0, "a window ends behind the last document that is left"),
    (20, np.nan, r"pool row 17 holds NaN, infinite or overflowing values"),
])  # fmt: skip
def test_what_cannot_be_ranked_is_an_error_not_an_endless_search(stop, value, message, tmp_path):
    pool = np.ones((30, 2), dtype=np.float32)
    pool[17] = value
    shards = split_vectors(pool[:2], tmp_path / "q", 1), split_vectors(pool, tmp_path / "p", 2)
    with pytest.raises(ValueError, match=message):
        sharded_band(*shards, csr_array((2, 30), dtype=bool), np.full(2, stop - 1), np.full(2, stop))


def test_an_engine_that_is_not_running_says_so():
    with pytest.raises(RuntimeError, match="with RayEngine"):
        RayEngine().call(len, "a")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")  # one cluster at a time
def test_a_cluster_that_is_not_there_is_named():
    pytest.importorskip("ray")
    with pytest.raises(ConnectionError, match="ray start --head"), RayEngine("auto"):
        pass


def mine_or_die(marks: Path, number: int, *task: object) -> Hits:
    """A mining task; the first worker of number 1 is killed in the middle of it."""
    attempt = len(list(marks.glob(f"{number}-*")))
    (marks / f"{number}-{attempt}").write_text(str(os.getpid()))
    found = mine_file(*task)
    if number == 1 and attempt == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)  # long enough that both workers get work
    return found


@pytest.fixture(scope="module")
def ray_engine():
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    with RayEngine(workers=2) as engine:
        yield engine


@pytest.mark.slow
@pytest.mark.xdist_group("ray")  # one cluster at a time
def test_a_killed_worker_changes_no_bit_of_the_result(ray_engine, tmp_path):
    rng = np.random.default_rng(1)
    queries, pool = (rng.integers(-9, 10, size=(n, 12)).astype(np.float32) for n in (60, 3000))
    pool = np.repeat(pool, 2, axis=0)  # every score twice
    removed = csr_array(random_array((60, 6000), density=0.002, rng=rng) > 0)
    start, stop = np.full(60, 180), np.full(60, 241)
    shards = split_vectors(queries, tmp_path / "q", 6), split_vectors(pool, tmp_path / "p", 4)
    marks = tmp_path / "marks"
    marks.mkdir()
    tasks = [
        (marks, number, path, shards[1], removed[a : a + 10], start[a : a + 10], stop[a : a + 10], None)
        for number, (path, a) in enumerate(zip(shards[0].paths, range(0, 60, 10), strict=True))
    ]
    results = ray_engine.starmap(mine_or_die, tasks)
    assert len(list(marks.glob("1-*"))) == 2, "the killed task ran a second time"
    assert len({mark.read_text() for mark in marks.iterdir()}) >= 2, "another worker went on"
    found = concatenate(Hits(one.query + 10 * i, one.item, one.rank, one.score) for i, one in enumerate(results))
    assert same(found, sharded_band(*shards, removed, start, stop))
    assert same(found, sharded_band(*shards, removed, start, stop, ray_engine))
    assert same(found, concatenate(select_band(queries, pool, removed, start, stop)))


@pytest.mark.slow
@pytest.mark.xdist_group("ray")  # one cluster at a time
def test_ray_encodes_the_same_vectors(ray_engine, folder, tmp_path):
    documents = DocumentShards.of_folder(folder, "job")
    here, there = (encode_shards(documents, "static", tmp_path / name, engine)
                   for name, engine in (("here", None), ("there", ray_engine)))  # fmt: skip
    assert [path.name for path in here.paths] == [path.name for path in there.paths]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(here.paths, there.paths, strict=True))


@pytest.fixture(scope="module")
def unit_vectors() -> np.ndarray:
    rng = np.random.default_rng(4)
    centres = rng.normal(size=(40, 16))
    vectors = (centres[rng.integers(40, size=3000)] + 0.5 * rng.normal(size=(3000, 16))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("ivf", 0.9), ("hnsw", 0.95)])
def test_an_index_finds_the_exact_neighbours_and_survives_saving(kind, least, unit_vectors, tmp_path):
    shards = split_vectors(unit_vectors, tmp_path / "v", 3)
    documents = pd.DataFrame({"id": [f"J{i}" for i in range(3000)], "title": ""})
    made = VectorIndex("job", "static", "0", documents, build_index(shards, kind))
    exact = np.argsort(-(unit_vectors[:50] @ unit_vectors.T), axis=1, kind="stable")[:, :10]
    found, scores = made.search(unit_vectors[:50], 10)
    assert np.mean([np.isin(e, f).mean() for f, e in zip(found, exact, strict=True)]) >= least
    assert np.allclose(scores, np.take_along_axis(unit_vectors[:50] @ unit_vectors.T, found, axis=1), atol=1e-5)
    loaded = VectorIndex.load(made.save(tmp_path / "index"))
    assert np.array_equal(loaded.search(unit_vectors[:50], 10)[0], found) and loaded.documents.equals(documents)


def confit(*arguments: object):
    return CliRunner().invoke(cli.app, [str(one) for one in arguments])


def test_a_search_from_the_command_line_finds_the_job_whose_text_it_is_given(folder, tmp_path):
    assert confit("index", folder, tmp_path / "jobs", "--model", "static", "--kind", "hnsw").exit_code == 0
    documents = DocumentShards.of_folder(folder, "job")
    (tmp_path / "cv.txt").write_text(next(documents.texts(documents.paths[1]))[7])
    result = confit("search", "--resume", tmp_path / "cv.txt", "--jobs", tmp_path / "jobs", "--top", 3)
    lines = result.output.splitlines()
    assert result.exit_code == 0 and len(lines) == 3, result.output
    title = pd.read_parquet(documents.paths[1])["title"][7]
    assert lines[0].split() == ["1", "1.000", "J00001-000007", *title.split()]


def test_a_resume_of_fields_reads_as_the_corpus_writes_it(tmp_path, tiny):
    row = tiny.resumes.iloc[0][tiny.fields("resume")]
    for name, encoding in (("cv.json", "utf-8"), ("CV.JSON", "utf-8-sig")):
        (tmp_path / name).write_text(json.dumps(row.to_dict()), encoding=encoding)
        assert read_document(tmp_path / name, "resume") == texts(tiny, "resume").iloc[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("cv.txt", b"  ", "blank"), ("cv.pdf", b"%PDF\xff\xfe", "read from .txt, .md, .json"),
     ("cv.json", b"{", "not valid JSON"), ("cv.json", b'{"text": 1}', "object of text fields"),
     (None, b"", "does not exist")],
)  # fmt: skip
def test_a_resume_that_cannot_be_read_is_refused(name, content, message, folder, tmp_path):
    confit("index", folder, tmp_path / "jobs", "--model", "static")
    if name:
        (tmp_path / name).write_bytes(content)
    result = confit("search", "--resume", tmp_path / (name or "cv.txt"), "--jobs", tmp_path / "jobs")
    assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output


def test_an_index_refuses_another_model_and_an_incomplete_folder(folder, tmp_path):
    confit("index", folder, tmp_path / "jobs", "--model", "static")
    other = load_encoder("static", device="cpu")
    with torch.no_grad():
        other.backbone.token_weights *= 2
    (tmp_path / "cv.txt").write_text("nurse")
    wanted = ["search", "--resume", tmp_path / "cv.txt", "--jobs", tmp_path / "jobs"]
    result = confit(*wanted, "--model", other.save(tmp_path / "model"))
    assert result.exit_code == 1 and "other weights" in result.output
    (tmp_path / "jobs/index.json").unlink()
    assert "confit index" in confit(*wanted).output


def test_a_search_for_jobs_refuses_an_index_of_resumes(folder, tmp_path):
    confit("index", folder, tmp_path / "index", "--model", "static", "--side", "resume")
    (tmp_path / "cv.txt").write_text("nurse")
    result = confit("search", "--resume", tmp_path / "cv.txt", "--jobs", tmp_path / "index")
    assert result.exit_code == 1 and "is an index of resumes" in result.output


def shards(folder: Path, *frames: pd.DataFrame) -> DocumentShards:
    (folder / "jobs").mkdir()
    for number, frame in enumerate(frames):
        frame.to_parquet(folder / f"jobs/{number}.parquet", index=False)
    return DocumentShards.of_folder(folder, "job")


def jobs(*rows: tuple[object, object]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["job_id", "title"]).assign(body="" if rows and rows[0][1] == "" else "weld")


@pytest.mark.parametrize(
    ("frames", "message"),
    [([jobs(("1", "a")), jobs(("2", "")), ], "1.parquet, row 1: job without text"),
     ([jobs(("1", "a"), ("1", "b"))], "0.parquet, row 2: job whose id stands in an earlier row"),
     ([jobs(("1", "a")), jobs(("1", "b"))], "job '1' stands in two files"),
     ([jobs(("1", "a"), (None, "b"))], "0.parquet, row 2: job without an id"),
     ([jobs(("1", "a")).drop(columns="job_id")], "0.parquet has no column 'job_id'"),
     ([jobs(("1", "a"))[:0]], "there are no jobs to index")],
)  # fmt: skip
def test_files_that_cannot_be_indexed_are_refused_by_name_and_row(frames, message, tmp_path):
    source = shards(tmp_path, *frames)
    with pytest.raises(ValueError, match=message):
        index_documents(source, "job", "static", "ivf", tmp_path / "index")


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    source = shards(tmp_path, jobs(("1", "a")))
    source.paths[0].write_bytes(b"PAR1 no more")
    for read in (source.ids, lambda path: list(source.texts(path)), lambda _: len(source)):
        with pytest.raises(ValueError, match=r"0\.parquet cannot be read as Parquet"):
            read(source.paths[0])


def test_a_document_without_a_title_shows_its_text(tmp_path, tiny):
    made = index_documents(shards(tmp_path, jobs(("1", None), ("2", "b"))), "job", "static", "flat", tmp_path / "a")
    assert made.documents["title"][1] == "b" and "weld" in made.documents["title"][0]
    untitled = tiny.with_documents("job", tiny.jobs.assign(title=np.nan))
    assert index_documents(untitled, "job", "static", "flat", tmp_path / "b").documents["title"].str.len().all()


@pytest.mark.parametrize(
    ("file", "content"),
    [("index.faiss", b"IxFI"), ("index.json", b"{}"), ("index.json", b"["), ("documents.parquet", b"x")],
)
def test_a_damaged_index_says_how_to_make_it_again(file, content, tmp_path):
    index_documents(shards(tmp_path, jobs(("1", "a"))), "job", "static", "flat", tmp_path / "index")
    (tmp_path / "index" / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: make it again by `confit index`"):
        VectorIndex.load(tmp_path / "index")


def test_an_index_that_cannot_be_made_is_refused(tmp_path):
    missing = confit("index", "nowhere", "x")
    assert missing.exit_code == 1 and "neither a folder nor one of the markets" in missing.output
    vectors = split_vectors(np.ones((2, 2), np.float32), tmp_path, 1)
    with pytest.raises(ValueError, match=r"flat.*ivf.*hnsw"):
        build_index(vectors, "tree")
    with pytest.raises(ValueError, match=r"resume.*job"):
        open_documents("tiny", "people")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")  # one cluster at a time
def test_a_sweep_on_ray_records_what_a_local_one_does(ray_engine, tmp_path, monkeypatch):
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    sweep = tmp_path / "sweeps/rates.yaml"
    sweep.write_text('{notebook: "05", profile: tiny, grid: {rate: [0.5]}, seeds: [6, 7]}')
    assert [run.state for run in notebooks.run_sweep(sweep, 2, ray_engine.call)] == ["done", "done"]
    entries = read_entries(tmp_path / "records/rates.jsonl")
    assert sorted(entry["metrics"]["value"] for entry in entries) == [3.0, 3.5]
    assert [run.seconds for run in notebooks.run_sweep(sweep)] == [0, 0]  # what Ray did, a local sweep knows
