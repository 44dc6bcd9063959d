"""Ranking metrics: ours against scikit-learn and ir_measures (trec_eval), on the same scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.common import arguments, environment, interleaved, report
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


def disagreement(contender: Contender, data: Inputs) -> float:
    """The largest difference to ours in any metric of any query, on scores without ties."""
    ours, theirs = confitlib(*data), contender(*data)
    return float(np.abs(ours[theirs.columns].to_numpy() - theirs.to_numpy()).max())


def main() -> None:
    """Measure, print and, with `--json`, write."""
    options = arguments(__doc__)
    queries, candidates = (200, 5_000) if options.quick else (1_000, 10_000)
    data = inputs(queries, candidates)
    peers: list[Contender] = [sklearn, trec_eval]
    calls = {contender.__name__: partial(contender, *data) for contender in [confitlib, *peers, one_sort]}
    seconds = interleaved(calls)
    differences = {peer.__name__: disagreement(peer, (data[0][:50], data[1][:50])) for peer in peers}
    rows = [
        {
            "program": name,
            "seconds": value,
            "times ours": value / seconds["confitlib"],
            "largest difference to ours": differences.get(name, ""),
        }
        for name, value in seconds.items()
    ]
    summary = {"queries": queries, "candidates": candidates} | {f"{name}_s": value for name, value in seconds.items()}
    report("evaluation", rows, summary, environment("scikit-learn", "ir-measures"), options.json)


if __name__ == "__main__":
    main()
