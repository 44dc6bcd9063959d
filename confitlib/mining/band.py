"""Runner-up mining: a percentile band of the dense ranking, and its plain relative, the top of it."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from confitlib.corpus import REASONS
from confitlib.mining.kernel import IntArray, concatenate
from confitlib.mining.removal import codes_at, count_reasons
from confitlib.mining.task import Selection, Task
from confitlib.mining.window import ranked


def band(task: Task, lo: float = 0.03, hi: float = 0.04) -> Selection:
    """RUM: documents between the percentiles `[lo, hi)` of each query's ranking without its known positives.

    The band is at least one document wide wherever one is left. Source: ConFit v2, runner-up mining; the
    defaults are the released band (scripts/hard_neg_mine/hard_neg_mine.sh).
    """
    if not 0 <= lo < hi <= 1:
        raise ValueError(f"a band needs 0 <= lo < hi <= 1, got lo={lo}, hi={hi}")
    if task.official:
        return _official_band(task, lo, hi)
    start, stop = band_window(task.candidates, lo, hi)
    return task.from_pool(concatenate(ranked(task, start, stop, task.draw_ranks(start, stop))))


def top(task: Task) -> Selection:
    """The `n` highest-ranked documents of each query, known positives left out.

    Source: the usual dense hard negatives, as in ANCE (Xiong et al. 2020) without its refresh.
    """
    start = np.zeros(len(task.query_ids), dtype=np.intp)
    stop = np.minimum(task.candidates, task.quota())
    return task.from_pool(concatenate(ranked(task, start, stop)))


def band_window(candidates: IntArray, lo: float, hi: float) -> tuple[IntArray, IntArray]:
    """First rank and end rank of a percentile band among so many candidates; one wide unless there are none."""
    slack = 1e-9  # 0.29 * 100 is 28.999… and must floor to 29
    start = np.minimum(np.floor(lo * candidates + slack), candidates - 1).clip(0).astype(np.intp)
    stop = np.maximum(np.floor(hi * candidates + slack).astype(np.intp), start + 1)
    return start, np.minimum(stop, candidates)


def _official_band(task: Task, lo: float, hi: float) -> Selection:
    """The released slice: `int(lo * N)` to `int(hi * N)` of the whole ranking, then training positives dropped.

    Bands differ in width and may be empty; ranks count the positives. Source: src/utils/hard_negative_mining.py
    lines 206 and 220-224 (slice) and 238-248 (positives) of the official code.
    """
    shape = (len(task.query_ids), len(task.pool_ids))
    start, stop = (np.full(shape[0], int(bound * shape[1]), dtype=np.intp) for bound in (lo, hi))
    query, item = task.labelled(1)
    codes = np.full(len(query), len(REASONS), dtype=np.int8)  # the code of a labelled positive
    positives = csr_array((codes, (query, item)), shape=shape)
    nothing: csr_array = csr_array(([], ([], [])), shape=shape)
    kept, dropped = [], []
    for block in ranked(task, start, stop, removed=nothing):
        free = codes_at(positives, block.query, block.item) == 0
        kept.append(task.draw(block.take(free)))
        dropped.append(block.take(~free))
    lost = concatenate(dropped)
    removed = count_reasons(lost.query, codes_at(positives, lost.query, lost.item), shape[0])
    return Selection(concatenate(kept), np.full(shape[0], shape[1]), removed)
