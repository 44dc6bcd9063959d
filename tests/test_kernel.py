"""The ranking kernel: windows equal a full sort, bands their definition, whatever the tiles, blocks and threads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from confitlib.mining import kernel
from confitlib.mining.kernel import UNRANKED, Sieve, Sizes, decoded, encoded, in_order, select_band
from confitlib.mining.ranking import band_window, concatenate, draw, inner_products, mine_band


@st.composite
def rankable(draw):
    """Vectors of few whole numbers (so that scores tie often and are exact), removals, windows and rows of a block."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_queries, levels = draw(st.integers(1, 6)), draw(st.sampled_from([0, 1, 3, 1000]))
    n_pool = draw(st.one_of(st.integers(0, 3), st.integers(4, 150)))
    queries = rng.integers(-levels, levels + 1, (n_queries, 2)).astype(np.float32)
    pool = rng.integers(-levels, levels + 1, (n_pool, 2)).astype(np.float32)
    removed = rng.random((n_queries, n_pool)) < draw(st.sampled_from([0, 0.05, 0.2, 0.9, 1]))
    left = (~removed).sum(axis=1)
    start = rng.integers(0, left + 1)
    width = draw(st.sampled_from([0, 1, 5, 150]))
    return queries, pool, removed, start, np.minimum(start + width, left), draw(st.sampled_from([1, 2, 5]))


def sorted_rows(queries, pool, removed):
    for row, gone in zip(queries @ pool.T, removed, strict=True):
        order = np.lexsort((np.arange(len(pool)), -row))
        yield row, order[~gone[order]]


def by_sorting(queries, pool, removed, start, stop):
    """What `select_band` must return, as rows of query, rank, item and score."""
    expected = []
    for query, (row, order) in enumerate(sorted_rows(queries, pool, removed)):
        ranks = range(start[query], stop[query])
        expected += [(query, rank, order[rank], row[order[rank]]) for rank in ranks]
    return expected


def rows_of(parts):
    return [tuple(row) for p in parts for row in zip(p.query, p.rank, p.item, p.score, strict=True)]


def unit_vectors(n, dim, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def threads():
    """Sets torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(rankable(), st.sampled_from([1, 3, 17, 2048]), st.sampled_from([1, 60, 10**6]))
def test_select_band_equals_a_full_sort(case, columns, keys):
    queries, pool, removed, start, stop, rows = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "CACHED", Sizes(rows, columns, keys))
        found = rows_of(select_band(queries, pool, csr_array(removed), start, stop))
    assert found == by_sorting(queries, pool, removed, start, stop)


@settings(max_examples=200, deadline=None)
@given(rankable(), st.sampled_from([3, 17, 2048]))
def test_the_operations_of_a_card_equal_a_full_sort(case, columns):
    queries, pool, removed, start, stop, rows = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "CACHED", Sizes(rows, columns, 1000))
        patch.setattr(Sieve, "add", Sieve.add_on_device)
        patch.setattr(kernel, "in_order", lambda values: values.sort(dim=1).values)
        found = rows_of(select_band(queries, pool, csr_array(removed), start, stop))
    assert found == by_sorting(queries, pool, removed, start, stop)


@settings(max_examples=150, deadline=None)
@given(
    rankable(),
    st.sampled_from([(0.0, 0.01), (0.03, 0.04), (0.29, 0.57), (0.0, 1.0)]),
    st.sampled_from([None, 1, 4]),
    st.sampled_from([1, 3, 7, 256]),
    st.sampled_from([1, 5, 300, 600]),
)
def test_the_kernel_finds_what_the_definition_of_a_band_finds(case, band, n, block, dim):
    queries, pool, removed, *_ = case
    if dim > 1:  # real vectors: scores are rounded
        rng = np.random.default_rng(len(pool))
        queries, pool = (rng.normal(size=(len(side), dim)).astype(np.float32) for side in (queries, pool))
    known, ids = csr_array(removed), [f"q{row}" for row in range(len(queries))]
    defined = mine_band(queries, pool, known, ids, *band, n=n, seed=3, block=block)
    start, stop = band_window((~removed).sum(axis=1), *band)
    ranks = np.full((len(queries), max(1, len(pool))), UNRANKED)
    for row, name in enumerate(ids):
        places = draw(stop[row] - start[row], n, 3, name)
        ranks[row, : len(places)] = start[row] + places
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "CACHED", Sizes(4, 17, 1000))
        found = concatenate(select_band(queries, pool, known, start, stop, ranks=ranks))
    assert same_bits(found, defined)


def same_bits(left, right):
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("dim", [48, 384, 500, 768, 1024])
def test_products_are_the_same_bits_in_any_company(dim, threads):
    queries, pool = unit_vectors(70, dim, seed=1), unit_vectors(1003, dim, seed=2)
    threads(1)
    whole = inner_products(queries, pool)
    for count, rows, step in [(2, 70, 1), (3, 5, 1), (2, 33, 7), (1, 70, 10), (1, 1, 100)]:
        threads(count)
        assert (inner_products(queries[:rows], pool[::step]) == whole[:rows, ::step]).all()


@pytest.mark.parametrize("certainty", [0.0, 3.5])
@pytest.mark.parametrize("order", ["random", "rising", "periodic"])
def test_bounds_that_miss_change_nothing(certainty, order, monkeypatch):
    monkeypatch.setattr(kernel, "CERTAINTY", certainty)
    monkeypatch.setattr(kernel, "CACHED", Sizes(8, 100, 3000))
    rng = np.random.default_rng(3)
    pool = rng.integers(-1000, 1000, (1000, 2)).astype(np.float32)
    if order == "rising":
        pool = pool[pool[:, 0].argsort()]
    if order == "periodic":  # the first tile holds every tenth document: none like the others
        pool[::10] -= 5000
    queries, removed = rng.integers(-9, 9, (20, 2)).astype(np.float32), rng.random((20, 1000)) < 0.01
    start = np.full(20, 30)
    margins, bounded = [], Sieve.of
    monkeypatch.setattr(Sieve, "of", lambda *args: margins.append(args[-1]) or bounded(*args))
    assert rows_of(select_band(queries, pool, csr_array(removed), start, start + 12)) == by_sorting(
        queries, pool, removed, start, start + 12
    )
    if certainty == 0 or order == "periodic":
        assert np.inf in margins
    if certainty == 3.5 and order != "periodic":
        assert np.inf not in margins


def test_a_pool_of_one_text_is_ranked_by_position(monkeypatch):
    monkeypatch.setattr(kernel, "CACHED", Sizes(8, 64, 3000))
    vector = unit_vectors(1, 24, seed=0)
    removed = csr_array((np.ones(2), ([0, 0], [0, 31])), shape=(3, 501))
    window = np.full(3, 30), np.full(3, 33)
    hits = concatenate(select_band(unit_vectors(3, 24, seed=1), vector.repeat(501, axis=0), removed, *window))
    assert hits.item.reshape(3, 3).tolist() == [[32, 33, 34], [30, 31, 32], [30, 31, 32]]


@pytest.mark.parametrize("n_pool", [1, 5, 37, 1003])
def test_blocks_tiles_and_threads_round_alike(n_pool, threads, monkeypatch):
    queries, pool = unit_vectors(33, 48, seed=1), unit_vectors(n_pool, 48, seed=2)
    nothing = csr_array((33, n_pool), dtype=np.int8)
    start, stop = np.full(33, n_pool // 3), np.full(33, n_pool)
    found = []
    for rows, columns, count in [(64, 2048, 1), (1, 2048, 2), (7, 2048, 3), (32, 100, 2), (1, 17, 1)]:
        threads(count)
        monkeypatch.setattr(kernel, "CACHED", Sizes(rows, columns, 10**6))
        found.append(rows_of(select_band(queries, pool, nothing, start, stop)))
        assert torch.get_num_threads() == count
    assert all(again == found[0] for again in found)
    whole = mine_band(queries, pool, nothing, [""] * 33, 0.0, 1.0)
    assert found[0] == rows_of([whole.take(whole.rank >= n_pool // 3)])


@settings(max_examples=100, deadline=None)
@given(rankable(), st.integers(0, 2**32 - 1))
def test_chosen_ranks_are_a_part_of_the_window(case, seed):
    queries, pool, removed, start, stop, rows = case
    rng = np.random.default_rng(seed)
    ranks = rng.integers(start[:, None], np.maximum(stop, start + 1)[:, None], (len(queries), 4))
    ranks[(rng.random(ranks.shape) < 0.3) | (start == stop)[:, None]] = UNRANKED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "CACHED", kernel.CACHED._replace(rows=rows))
        found = rows_of(select_band(queries, pool, csr_array(removed), start, stop, ranks))
    whole = {row[:2]: row for row in by_sorting(queries, pool, removed, start, stop)}
    assert found == [whole[query, rank] for query, row in enumerate(ranks) for rank in row if rank != UNRANKED]


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("side", ["query", "pool"])
def test_vectors_without_a_finite_length_are_refused_by_row(value, side):
    vectors = {"query": np.ones((3, 2), dtype=np.float32), "pool": np.ones((3, 2), dtype=np.float32)}
    vectors[side][1, 1] = value
    window = np.zeros(3, dtype=np.intp), np.ones(3, dtype=np.intp)
    with pytest.raises(ValueError, match=rf"{side} row 1 holds NaN, infinite or overflowing values \(1 such rows\)"):
        list(select_band(vectors["query"], vectors["pool"], csr_array((3, 3), dtype=np.int8), *window))


def test_a_consumer_may_stop_early(threads, monkeypatch):
    threads(2)
    monkeypatch.setattr(kernel, "CACHED", kernel.CACHED._replace(rows=1))
    queries, pool = unit_vectors(20, 8, seed=0), unit_vectors(30, 8, seed=1)
    window = np.zeros(20, dtype=np.intp), np.full(20, 3)
    blocks = select_band(queries, pool, csr_array((20, 30), dtype=np.int8), *window)
    assert next(blocks).query.tolist() == [0, 0, 0]
    blocks.close()
    assert torch.get_num_threads() == 2


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30))
def test_keys_sort_by_falling_score_then_position(values):
    scores = torch.tensor(values)
    keys = encoded(scores, torch.arange(len(scores)))
    item, score = decoded(in_order(keys[None])[0])
    assert item.tolist() == np.lexsort((np.arange(len(values)), -np.asarray(values, dtype=np.float32))).tolist()
    assert score.tolist() == scores[item].tolist()
