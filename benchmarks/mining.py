"""Percentile bands: ours against the official recipe, sentence-transformers, FlagEmbedding and the bare product.

Every contestant mines the band of 3-4 % of square sizes in a process of its own, on the same unit vectors (d = 384),
where query i has the one known positive i. Memory is the peak above what the process held with its inputs loaded.
`--device cuda` measures one card instead: 8 negatives a query from 1M x 1M vectors (d = 768) on the host.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from benchmarks.common import clear_peak, environment, parser_of, report, resident
from confitlib.mining.kernel import select_band
from confitlib.mining.ranking import band_window

LO, HI, NEGATIVES = 0.03, 0.04, 8
FLOOR = "bare product"
PRODUCT_ROWS = 512  # the fastest of 256, 512 and 1,024 at 10k
Vectors = NDArray[np.float32]


def unit_vectors(n: int, dim: int, seed: int) -> Vectors:
    """Random directions: as float32, with no copy left behind."""
    vectors = np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def product(queries: Vectors, pool: Vectors, device: str = "cpu") -> None:
    """The floor: all scores, block by block, into one buffer, and nothing else."""
    left, right = torch.from_numpy(queries), torch.from_numpy(pool).to(device)
    buffer = torch.empty(PRODUCT_ROWS, len(right), device=device)
    for first in range(0, len(left), PRODUCT_ROWS):
        block = left[first : first + PRODUCT_ROWS].to(device)
        torch.mm(block, right.T, out=buffer[: len(block)])


def confitlib(queries: Vectors, pool: Vectors, device: str = "cpu", drawn: bool = False) -> None:
    """The whole band of every query (or ranks drawn from it), one block after the other, exact."""
    count = len(queries)
    positives = csr_array((np.ones(count, dtype=np.int8), (np.arange(count), np.arange(count))), (count, len(pool)))
    start, stop = band_window(np.full(count, len(pool) - 1), LO, HI)
    rng = np.random.default_rng(0)
    ranks = np.sort(rng.integers(start[:, None], stop[:, None], (count, NEGATIVES)), axis=1) if drawn else None
    for _ in select_band(queries, pool, positives, start, stop, device=device, ranks=ranks):
        pass


def confitlib_drawn(queries: Vectors, pool: Vectors) -> None:
    confitlib(queries, pool, drawn=True)


def official(queries: Vectors, pool: Vectors) -> None:
    """The released recipe: one faiss search for the whole head, then the slice, then positives dropped."""
    import faiss

    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(pool)
    found = index.search(queries, max(1, int(HI * len(pool))))[1][:, int(LO * len(pool)) :]
    _ = [[item for item in row if item != query] for query, row in enumerate(found)]


def flag_embedding(queries: Vectors, pool: Vectors) -> None:
    """FlagEmbedding's recipe: a range "lo-hi", faiss in batches of 64, slice, positives dropped, a sample."""
    import faiss

    first, last = (int(part) for part in f"{int(LO * len(pool))}-{int(HI * len(pool))}".split("-"))
    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(pool)
    heads = [index.search(queries[start : start + 64], max(1, last))[1] for start in range(0, len(queries), 64)]
    for query, row in enumerate(np.concatenate(heads)):
        kept = [item for item in row[first:last] if item != query]
        random.sample(kept, min(NEGATIVES, len(kept)))


class Precomputed:
    """What `mine_hard_negatives` asks of a model, answered from vectors: texts are "q7" or "d7"."""

    device = torch.device("cpu")
    prompts: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, queries: Vectors, pool: Vectors) -> None:
        self.vectors = {"q": queries, "d": pool}

    def encode_query(self, texts: Sequence[str], **settings: object) -> Vectors:
        return self.vectors[texts[0][0]][[int(text[1:]) for text in texts]]

    encode_document = encode_query

    def get_embedding_dimension(self) -> int:
        return self.vectors["d"].shape[1]

    def similarity(self, left: Vectors, right: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(left) @ torch.as_tensor(right).T

    def similarity_pairwise(self, left: Vectors, right: Vectors) -> torch.Tensor:
        return (torch.as_tensor(left) * torch.as_tensor(right)).sum(dim=1)


def sentence_transformers(queries: Vectors, pool: Vectors, use_faiss: bool = False) -> None:
    """`mine_hard_negatives` with the same window of ranks and the same number of drawn negatives."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    texts = [[f"{kind}{number}" for number in range(len(queries))] for kind in "qd"]
    first, last = int(LO * len(pool)), max(int(LO * len(pool)) + NEGATIVES, int(HI * len(pool)))
    mine_hard_negatives(
        Dataset.from_dict({"query": texts[0], "document": texts[1]}),
        Precomputed(queries, pool),
        range_min=first,
        range_max=last,
        num_negatives=NEGATIVES,
        sampling_strategy="random",
        output_format="n-tuple",
        use_faiss=use_faiss,
        verbose=False,
    )


def sentence_transformers_faiss(queries: Vectors, pool: Vectors) -> None:
    sentence_transformers(queries, pool, use_faiss=True)


CONTESTANTS: dict[str, Callable[[Vectors, Vectors], None]] = {
    FLOOR: product,
    "confitlib": confitlib,
    f"confitlib, {NEGATIVES} drawn": confitlib_drawn,
    "official (faiss)": official,
    "FlagEmbedding (faiss)": flag_embedding,
    "sentence-transformers (torch)": sentence_transformers,
    "sentence-transformers (faiss)": sentence_transformers_faiss,
}

QUICK = ("confitlib", "official (faiss)", "sentence-transformers (torch)")


def measured(name: str, folder: Path) -> dict[str, float]:
    """Seconds and peak extra MB of one contestant in this process, after a small call that loads its code."""
    queries, pool = (np.load(folder / f"{side}.npy") for side in ("queries", "pool"))
    with Path(os.devnull).open("w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        CONTESTANTS[name](queries[:500], pool[:500])
        clear_peak()
        before = resident("VmRSS")
        start = time.perf_counter()
        CONTESTANTS[name](queries, pool)
    return {"seconds": time.perf_counter() - start, "extra MB": (resident("VmHWM") - before) / 1e6}


def compared(size: int, dim: int, names: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """Medians of every contestant over rounds of processes, so that a busy moment hits them all."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for side, seed in (("queries", 0), ("pool", 1)):
            np.save(Path(folder) / f"{side}.npy", unit_vectors(size, dim, seed))
        for _ in range(repeats):
            for name in names:
                command = [sys.executable, "-m", "benchmarks.mining", "--contestant", name, "--folder", folder]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {name: {key: median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    return [
        {"size": size, "program": name, **values, "x product": values["seconds"] / medians[FLOOR]["seconds"]}
        for name, values in medians.items()
    ]


def on_device(device: str, size: int, dim: int) -> list[dict[str, Any]]:
    """Ours with drawn negatives against the product, in float32, on one device; memory is the card's own peak."""
    torch.backends.cuda.matmul.allow_tf32 = False
    queries, pool = unit_vectors(size, dim, 0), unit_vectors(size, dim, 1)
    calls: dict[str, Callable[[], None]] = {
        FLOOR: lambda: product(queries, pool, device),
        f"confitlib, {NEGATIVES} drawn": lambda: confitlib(queries, pool, device, drawn=True),
    }
    confitlib(queries[:500], pool[:500], device, drawn=True)
    rows: list[dict[str, Any]] = []
    for name, call in calls.items():
        seconds, peak = _on_card(call, device)
        floor = rows[0]["seconds"] if rows else seconds
        rows.append({"size": size, "program": name, "seconds": seconds, "peak MB": peak, "x product": seconds / floor})
    return rows


def _on_card(call: Callable[[], None], device: str) -> tuple[float, float]:
    card = torch.device(device).type == "cuda"
    if card:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    call()
    if card:
        torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() / 1e6 if card else float("nan")


def options() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", help="queries and documents; default 2000 and 10000")
    parser.add_argument("--dim", type=int, help="default 384, with --device 768")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of processes")
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), help="default: all, with --quick four")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="measure one card, e.g. cuda, in place of the peers")
    parser.add_argument("--contestant", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print and, with `--json`, write."""
    chosen = options()
    if chosen.contestant:
        print(json.dumps(measured(chosen.contestant, chosen.folder)))
        return
    rows: list[dict[str, Any]] = []
    if chosen.device:
        for size in chosen.sizes or [20_000 if chosen.quick else 1_000_000]:
            rows += on_device(chosen.device, size, chosen.dim or 768)
    else:
        names = list(dict.fromkeys([FLOOR, *(chosen.only or (QUICK if chosen.quick else CONTESTANTS))]))
        for size in chosen.sizes or ([2_000] if chosen.quick else [2_000, 10_000]):
            rows += compared(size, chosen.dim or 384, names, 1 if chosen.quick else chosen.repeats)
    summary = {f"{row['program']}@{row['size']}".replace(" ", "_"): row["x product"] for row in rows}
    where = environment("faiss-cpu", "sentence-transformers", "numba")
    if chosen.device == "cuda":
        where["card"] = torch.cuda.get_device_name(chosen.device)
    report("mining", rows, summary, where, chosen.json)


if __name__ == "__main__":
    main()
