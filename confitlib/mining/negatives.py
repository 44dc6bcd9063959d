"""The table of mined negatives: lookup, statistics, saving, and the official JSON in and out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from confitlib.corpus import REASONS, Corpus, Side, other
from confitlib.util import atomic, parse_json, plain_file

TABLE_COLUMNS = ["query_id", "negative_id", "rank", "percentile", "score"]
QUERY_COLUMNS = ["candidates", *REASONS, "positive_score"]
OFFICIAL_KEYS: dict[Side, str] = {"job": "r_to_j", "resume": "j_to_r"}
ABOUT, TABLE, QUERIES = "about.json", "table.parquet", "queries.parquet"


@dataclass(frozen=True, eq=False)
class Negatives:
    """Mined negatives of one side, `target`, for queries of the other.

    `table`: one row a negative, queries in id order: `query_id, negative_id, rank` (from 0, among the
    candidates; missing where nothing was ranked), `percentile` (rank / candidates) and `score`.
    `queries`: one row a query: `candidates`, how many were removed for each reason, and `positive_score` (mean
    over its training positives). `statistics`: see `describe_mining`. `parameters`: what `mine` was called with.
    """

    target: Side
    table: pd.DataFrame
    queries: pd.DataFrame
    statistics: dict[str, Any]
    parameters: dict[str, Any]

    def __repr__(self) -> str:
        return f"Negatives({self.target!r}: {len(self.table):,} {self.target}s for {len(self.queries):,} queries)"

    @property
    def removed(self) -> dict[str, int]:
        """How many candidates were removed for each reason; a reason that is not known is left out."""
        return {reason: int(self.queries[reason].sum()) for reason in REASONS if self.queries[reason].notna().all()}

    @property
    def score_gap(self) -> float:
        """Mean score gap from a query's positives down to its negatives; the smaller, the harder."""
        return float(self.summary()["gap"]["mean"])

    def of(self, query_id: str) -> list[str]:
        """The negatives of one query, in the order of the table; raises KeyError for what was no query."""
        if query_id not in self.queries.index:
            raise KeyError(f"{other(self.target)} {query_id!r} was not a query of this mining run")
        return list(self._lists.get(query_id, ()))

    def summary(self) -> pd.DataFrame:
        """Count, mean, spread and quartiles of positive scores, negative scores and their gap."""
        return pd.DataFrame({name: self.statistics[name] for name in ("positive", "negative", "gap")}, dtype=float)

    def fingerprint(self) -> str:
        """A hash of what was mined for whom (16 hex digits)."""
        pairs = pd.util.hash_pandas_object(self.table[["query_id", "negative_id"]].astype(str), index=False)
        return hashlib.sha256(self.target.encode() + pairs.to_numpy().tobytes()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write a folder of two Parquet tables and `about.json`, which comes last and marks it complete."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ABOUT).unlink(missing_ok=True)
        self.table.to_parquet(folder / TABLE)
        self.queries.to_parquet(folder / QUERIES)
        _write_json(folder / ABOUT, {name: getattr(self, name) for name in ("target", "statistics", "parameters")})

    @staticmethod
    def load(path: str | Path) -> Negatives:
        """Read what `save` wrote; raises FileNotFoundError if the folder is missing or incomplete."""
        folder = Path(path)
        if not (folder / ABOUT).is_file():
            raise FileNotFoundError(f"{folder} holds no complete negatives ({ABOUT} is missing): mine them again")
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            return Negatives(table=pd.read_parquet(folder / TABLE), queries=pd.read_parquet(folder / QUERIES), **about)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{folder} holds damaged negatives ({error}): mine them again") from error

    @cached_property
    def _lists(self) -> dict[Any, list[str]]:
        """The negatives of every query that has any."""
        return self.table.groupby("query_id", sort=False)["negative_id"].agg(list).to_dict()


def describe_mining(table: pd.DataFrame, queries: pd.DataFrame, positive: pd.Series, n: int | None) -> dict[str, Any]:
    """Counts, and the distributions of positive scores, negative scores and the gap between them.

    positive: one score a training positive. What cannot be computed is None.
    """
    mined, found = mined_counts(table, queries), dict[str, Any](queries=len(queries))
    found |= {"queries_without_negatives": int((mined == 0).sum())}
    found |= {"queries_with_fewer_than_n": int((mined < (n or 0)).sum()), "negatives": len(table)}
    scores = {"positive": positive, "negative": table["score"], "gap": score_gaps(table, queries)}
    for name, values in scores.items():
        described = values.astype("float64").describe()  # count leaves NaN out
        found[name] = {str(key): None if np.isnan(value) else float(value) for key, value in described.items()}
    return found


def mined_counts(table: pd.DataFrame, queries: pd.DataFrame) -> pd.Series:
    """How many negatives each query got."""
    return table.groupby("query_id", sort=False).size().reindex(queries.index, fill_value=0)


def score_gaps(table: pd.DataFrame, queries: pd.DataFrame) -> pd.Series:
    """For every row of the table, the query's mean positive score minus the negative's score."""
    return table["query_id"].map(queries["positive_score"]).astype("float64") - table["score"]


def write_official(path: str | Path, r_to_j: Negatives, j_to_r: Negatives) -> None:
    """Write both directions as the JSON the official trainer reads: `{"r_to_j": {resume: [job, …]}, "j_to_r": …}`.

    Queries without negatives keep an empty list. Source: `--hard_negative_path` of the official code.
    """
    content = {}
    for (target, key), negatives in zip(OFFICIAL_KEYS.items(), (r_to_j, j_to_r), strict=True):
        if negatives.target != target:
            raise ValueError(f"{key} holds {target}s, got negatives whose target is {negatives.target!r}")
        content[key] = {query: negatives.of(query) for query in negatives.queries.index}
    _write_json(Path(path), content)


def read_official(path: str | Path, corpus: Corpus) -> dict[Side, Negatives]:
    """Read the official JSON, by target side; ranks, scores and what was removed are not in it.

    Raises ValueError naming file, key and id where the file and the corpus disagree.
    """
    try:
        content = parse_json(plain_file(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Write the file again.") from error
    negatives: dict[Side, Negatives] = {}
    for target, key in OFFICIAL_KEYS.items():
        # 1. the lists and their ids are checked
        lists, where = content.get(key) if isinstance(content, dict) else None, f"{path}: {key}"
        if not isinstance(lists, dict):
            raise ValueError(f"{where} is no object: expected a list of ids for each query. Write the file again.")
        if odd := [query for query, items in lists.items() if not isinstance(items, list)]:
            raise ValueError(f"{where}, query {odd[0]!r} has no list of ids. Write the file again.")
        pairs = [(str(query), str(item)) for query, items in sorted(lists.items()) for item in items]
        for side, ids in {other(target): set(lists), target: {item for _, item in pairs}}.items():
            if unknown := ids - set(corpus.documents(side).index):
                what = f"{len(unknown)} unknown {side} ids, e.g. {min(unknown)!r}"
                raise ValueError(f"{where} names {what}. Use the corpus it was mined from.")
        # 2. what the file does not hold is missing in both tables
        table = pd.DataFrame(pairs, columns=TABLE_COLUMNS[:2], dtype="str").reindex(columns=TABLE_COLUMNS)
        table = table.astype({"rank": "Int64", "percentile": "float64", "score": "float32"})
        queries = pd.DataFrame(index=pd.Index(sorted(lists), dtype="str", name="query_id"), columns=QUERY_COLUMNS)
        queries = queries.astype(dict.fromkeys(QUERY_COLUMNS[:-1], "Int64") | {"positive_score": "float64"})
        found = describe_mining(table, queries, pd.Series(dtype="float64"), None)
        negatives[target] = Negatives(target, table, queries, found, {"strategy": "read", "source": where})
    return negatives


def _write_json(path: Path, content: object) -> None:
    """Write a JSON file that is whole or not there."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
