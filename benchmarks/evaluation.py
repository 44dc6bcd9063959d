"""Ranking metrics: ours against scikit-learn and ir_measures (trec_eval), on the same scores."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from confitlib.evaluation import rank_metrics

KS = (10, 100)
Inputs = tuple[NDArray[np.float32], NDArray[np.bool_]]
Contender = Callable[[NDArray[np.float32], NDArray[np.bool_]], pd.DataFrame]


def inputs(queries: int, candidates: int, share: float = 0.01, seed: int = 0) -> Inputs:
    """Scores without ties, and about 1 % relevant candidates (as in the market), at least one a query."""
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(candidates, dtype=np.float32), (queries, 1)), axis=1)
    relevant = rng.random((queries, candidates)) < share
    relevant[np.arange(queries), rng.integers(0, candidates, queries)] = True
    return scores, relevant


def confitlib(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> pd.DataFrame:
    return rank_metrics(scores, relevant, KS)


def sklearn(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> pd.DataFrame:
    """A loop over queries: nDCG and AP of scikit-learn, recall and reciprocal rank of a sorted list."""
    from sklearn.metrics import average_precision_score, ndcg_score

    rows = []
    for score, hit in zip(scores, relevant, strict=True):
        ranked = hit[np.argsort(-score)]
        row = {f"recall@{k}": ranked[:k].sum() / hit.sum() for k in KS}
        row |= {f"ndcg@{k}": ndcg_score(hit[None], score[None], k=k) for k in KS}
        rows.append(row | {"map": average_precision_score(hit, score), "mrr": 1 / (1 + ranked.argmax())})
    return pd.DataFrame(rows)


def trec_eval(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> pd.DataFrame:
    """ir_measures over trec_eval; the nested dictionaries it wants are part of its work."""
    import ir_measures

    names = {f"R@{k}": f"recall@{k}" for k in KS} | {f"nDCG@{k}": f"ndcg@{k}" for k in KS} | {"AP": "map", "RR": "mrr"}
    documents = [f"d{number}" for number in range(scores.shape[1])]
    run = {str(q): dict(zip(documents, row, strict=True)) for q, row in enumerate(scores.tolist())}
    qrels = {str(q): {documents[c]: 1 for c in np.flatnonzero(row)} for q, row in enumerate(relevant)}
    measures = [ir_measures.parse_measure(name) for name in names]
    values = ir_measures.pytrec_eval.iter_calc(measures, qrels, run)
    table = pd.DataFrame([(int(v.query_id), names[str(v.measure)], v.value) for v in values])
    return table.pivot_table(index=0, columns=1, values=2)


def one_sort(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> pd.DataFrame:
    """The floor of any exact method: every row put in order once, nothing else."""
    np.sort(scores, axis=1)
    return pd.DataFrame()


def measure(contenders: list[Contender], data: Inputs, repeats: int) -> dict[str, float]:
    """Median seconds of each contender, run in turns."""
    seconds: dict[str, list[float]] = {contender.__name__: [] for contender in contenders}
    for _ in range(repeats):
        for contender in contenders:
            start = time.perf_counter()
            contender(*data)
            seconds[contender.__name__].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def disagreement(contender: Contender, data: Inputs) -> float:
    """The largest difference to ours in any metric of any query, on scores without ties."""
    ours, theirs = confitlib(*data), contender(*data)
    return float(np.abs(ours[theirs.columns].to_numpy() - theirs.to_numpy()).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller input, under 50 s on two cores")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    queries, candidates = (200, 5_000) if options.quick else (1_000, 10_000)
    data = inputs(queries, candidates)
    peers: list[Contender] = [sklearn, trec_eval]
    seconds = measure([confitlib, *peers, one_sort], data, repeats=3)
    differences = {peer.__name__: disagreement(peer, (data[0][:50], data[1][:50])) for peer in peers}
    report(seconds, differences, queries, candidates, options.json)


def report(
    seconds: dict[str, float], differences: dict[str, float], queries: int, candidates: int, path: Path | None
) -> None:
    """Print the table and the closing line; write the figures if asked."""
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    print(f"{queries} queries x {candidates} candidates, float32, OMP threads: {threads}; medians of 3")
    print(f"{'':<10} {'seconds':>9} {'x ours':>7}  largest difference to ours")
    for name, value in seconds.items():
        difference = f"{differences[name]:.1e}" if name in differences else ""
        print(f"{name:<10} {value:9.3f} {value / seconds['confitlib']:7.2f}  {difference}")
    figures: dict[str, Any] = {"queries": queries, "candidates": candidates}
    figures |= {f"{name}_s": round(value, 4) for name, value in seconds.items()}
    figures |= {f"{name}_difference": float(f"{value:.1e}") for name, value in differences.items()}
    if path:
        path.write_text(json.dumps(figures, indent=1))
    print("evaluation: " + " ".join(f"{key}={value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
