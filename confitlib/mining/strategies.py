"""Hard-negative mining: the call `mine`, the problem that strategies work on, and every strategy, top to bottom."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_type_hints

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from confitlib.corpus import NEGATIVE_FOR, REASONS, Corpus, Side, known_positive_mask, other
from confitlib.encoder.vectors import Embeddings
from confitlib.mining.choice import choose_band
from confitlib.mining.kernel import UNRANKED, chunks, select_band
from confitlib.mining.negatives import QUERY_COLUMNS, Negatives, describe_mining
from confitlib.mining.ranking import Hits, IntArray, band_window, concatenate, draw, inner_products, mine_band
from confitlib.text import Variant, WordIndex, texts, words
from confitlib.util import check_types, checked, generator_of

DocumentSet = Literal["train", "labelled"]
Strategy = Callable[..., "Selection"]
PLAIN = 2**20  # up to so many scores a band is mined by its definition; beyond, the kernel finds the same sooner
PAIRS_A_CHUNK = 2**15
CELLS_A_BLOCK = 2**22
DEEPEST = 200  # ANCE draws from the top 200
STEPS_A_NEGATIVE = 50  # our bound, so that a walk in a small component ends


@checked
def mine(
    strategy: str,
    corpus: Corpus,
    *,
    target: Side,
    embeddings: Embeddings | None = None,
    n: int | None = None,
    seed: int = 0,
    pool: DocumentSet = "train",
    queries: DocumentSet = "labelled",
    official: bool = False,
    device: str = "cpu",
    **parameters: Any,
) -> Negatives:
    """Mine negatives of the `target` side for every query of the other side, by one of `STRATEGIES`.

    n: how many to keep a query, drawn with the seed (None: all that the strategy selects). pool, queries: all
    training documents ("train") or those in training labels ("labelled"). official (band only): the released
    procedure, whose pool and queries are both "labelled". parameters: those of the strategy, e.g. `lo` and `hi` of
    "band". Raises ValueError for whatever does not fit.

    >>> from confitlib import Embeddings, compose, load_encoder, mine
    >>> corpus = compose("tiny").corpus
    >>> embeddings = Embeddings.of_corpus(load_encoder("static"), corpus)
    >>> mine("band", corpus, target="resume", embeddings=embeddings, lo=0.03, hi=0.04)
    Negatives('resume': 212 resumes for 100 queries)
    """
    pool, queries = ("labelled", "labelled") if official else (pool, queries)
    settings: dict[str, Any] = {"n": n, "seed": seed, "pool": pool, "queries": queries, "official": official}
    used = check_mining(strategy, target=target, **settings, **parameters)
    # 1. queries, pool and the strategy's choice
    query_ids = document_ids(corpus, other(target), queries).rename("query_id")
    pool_ids = document_ids(corpus, target, pool, written=strategy == "synthetic")
    problem = MiningProblem(corpus, target, query_ids, pool_ids, embeddings, n, seed, official, device)
    hits, candidates, removed = STRATEGIES[strategy](problem, **parameters)
    # 2. a row a negative
    rank = pd.Series(hits.rank, dtype="Int64").where(hits.rank != UNRANKED)
    table = pd.DataFrame({"query_id": query_ids[hits.query], "negative_id": pool_ids[hits.item], "rank": rank})
    table["percentile"] = rank.astype("float64") / candidates[hits.query]
    table["score"] = hits.score
    # 3. a row a query
    per_query = pd.DataFrame(np.column_stack([candidates, removed]), query_ids, QUERY_COLUMNS[:-1], dtype="Int64")
    per_query["positive_score"] = problem.positive_scores()
    positive = pd.Series(problem.scores(*problem.labelled(1)))
    top_hits = int((rank == 0).sum())
    statistics = describe_mining(table, per_query, positive, n) | {"top_hits": top_hits}
    if used.get("lo") and top_hits:
        warnings.warn(f"{top_hits} negatives are top hits of their queries: use a larger pool or lo", stacklevel=3)
    recorded = {"strategy": strategy, "corpus": corpus.name, **settings, **used}
    return Negatives(target, table, per_query, statistics, recorded)


def check_mining(strategy: str, **arguments: Any) -> dict[str, Any]:
    """All parameters of a strategy, defaults included; raises ValueError for names and values that `mine` refuses.

    arguments: what `mine` takes beside strategy, corpus and embeddings.
    """
    # 1. names: of the strategy and of its parameters
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r} is unknown; use one of {sorted(STRATEGIES)}")
    settings, own = (dict(inspect.signature(function).parameters) for function in (mine, STRATEGIES[strategy]))
    del own["problem"]
    if unknown := sorted(set(arguments) - set(settings) - set(own)):
        raise ValueError(f"strategy {strategy!r} takes {sorted(own)}, not {unknown}")
    # 2. each value by itself
    hints = get_type_hints(mine) | get_type_hints(STRATEGIES[strategy])
    check_types(arguments, hints)
    for name, value in arguments.items():
        if name in RANGES and value is not None and value not in RANGES[name]:
            raise ValueError(f"{name}={value} must lie in {RANGES[name]}")
    # 3. values together
    if arguments.get("n") is None and strategy not in SIZED:
        raise ValueError(f"strategy {strategy!r} needs n, the number of negatives a query")
    if arguments.get("official") and strategy != "band":
        raise ValueError(f"official=True is the released band mining; strategy {strategy!r} has no such form")
    used = {name: arguments.get(name, one.default) for name, one in own.items()}
    if "lo" in used:
        band_window(np.zeros(0, dtype=np.intp), used["lo"], used["hi"])
    if "ratio" in used and used["ratio"] is None and used["margin"] is None:
        raise ValueError("give ratio, margin or both: without a bound this is the strategy 'top'")
    return used


class Selection(NamedTuple):
    """What a strategy chose: hits, and for each query its candidates `[Q]` and its losses `[Q, len(REASONS)]`.

    Ranks and percentiles count among the candidates; losses are the documents removed for each reason.
    """

    hits: Hits
    candidates: IntArray
    removed: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MiningProblem:
    """What a strategy works on: queries and pool in id order, at most `n` documents a query (None: all), one seed."""

    corpus: Corpus
    target: Side
    query_ids: pd.Index
    pool_ids: pd.Index
    embeddings: Embeddings | None
    n: int | None
    seed: int
    official: bool = False
    device: str = "cpu"

    @property
    def sides(self) -> tuple[tuple[Side, pd.Index], tuple[Side, pd.Index]]:
        """Side and ids of the queries, then of the pool."""
        return (other(self.target), self.query_ids), (self.target, self.pool_ids)

    @cached_property
    def known_positives(self) -> csr_array:
        """Codes of `known_positive_mask` for these queries and this pool, `[Q, N]`."""
        rows, columns = (self.corpus.positions(side, ids) for side, ids in self.sides)
        return known_positive_mask(self.corpus, self.target)[rows][:, columns].sorted_indices()

    @cached_property
    def candidates(self) -> IntArray:
        """Pool documents left for each query once its known positives are out, `[Q]`."""
        return len(self.pool_ids) - np.diff(self.known_positives.indptr).astype(np.intp)

    @property
    def most(self) -> int:
        """How many documents a query may get."""
        return len(self.pool_ids) if self.n is None else self.n

    @cached_property
    def vectors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vectors of the queries `[Q, d]` and of the pool `[N, d]`."""
        if self.embeddings is None:
            raise ValueError("this strategy ranks by embeddings: pass embeddings=Embeddings(resumes, jobs)")
        self.embeddings.check(self.corpus)
        queries, pool = (self.embeddings.of(side)[self.corpus.positions(side, ids)] for side, ids in self.sides)
        lengths = np.concatenate([np.linalg.norm(one, axis=1) for one in (queries, pool)])
        if (np.abs(lengths[lengths > 0] - 1) > 0.01).any():
            message = "embeddings are not of length one: ranks are by inner product, not by cosine; normalise the rows"
            warnings.warn(message, stacklevel=2)
        return queries.astype(np.float32, copy=False), pool.astype(np.float32, copy=False)

    def labelled(self, label: int) -> tuple[IntArray, IntArray]:
        """Query and pool positions of the training pairs with a label, in query order, each once.

        Pairs with a document outside queries or pool are left out: a corpus may hold labels across its splits.
        """
        labels = self.corpus.labelled("train", label)
        pairs = np.stack([ids.get_indexer(pd.Index(labels[f"{side}_id"])) for side, ids in self.sides])
        query, item = np.unique(pairs[:, (pairs >= 0).all(axis=0)], axis=1)
        return query, item

    def positives(self) -> list[IntArray]:
        """Pool positions of each query's training positives."""
        query, item = self.labelled(1)
        return np.split(item, np.searchsorted(query, np.arange(1, len(self.query_ids))))[: len(self.query_ids)]

    def known(self, query: int) -> IntArray:
        """Pool positions of a query's known positives, rising."""
        return self.known_positives.indices[slice(*self.known_positives.indptr[query : query + 2])].astype(np.intp)

    def scores(self, query: IntArray, item: IntArray) -> NDArray[np.float32]:
        """Inner products of flat pairs; NaN without embeddings."""
        scores = np.full(len(query), np.nan, dtype=np.float32)
        if self.embeddings is not None:
            queries, pool = self.vectors
            for part in chunks(np.arange(len(query)), PAIRS_A_CHUNK):
                scores[part] = np.einsum("ij,ij->i", queries[query[part]], pool[item[part]])
        return scores

    def positive_scores(self, of: Literal["min", "mean"] = "mean") -> NDArray[np.float64]:
        """Mean or least score of each query's training positives, `[Q]`; NaN without any, or without embeddings."""
        query, item = self.labelled(1)
        scores = pd.Series(self.scores(query, item), dtype="float64").groupby(query).agg(of)
        return scores.reindex(range(len(self.query_ids))).to_numpy()

    def generator(self, query: int) -> np.random.Generator:
        """A generator of seed and query id alone, so that the order of queries and pool changes nothing."""
        return generator_of(self.seed, str(self.query_ids[query]))

    def ranked(self, start: IntArray, stop: IntArray, ranks: IntArray | None = None) -> Iterator[Hits]:
        """Ranks `[start, stop)`, or of these only `ranks`, of each query's ranking; see `select_band`."""
        return select_band(*self.vectors, self.known_positives, start, stop, ranks, self.device)

    def unranked(self, query: IntArray, item: IntArray) -> Hits:
        """Hits that were not found in a ranking; scored if there are embeddings, else NaN."""
        return Hits(query, item, np.full(len(query), UNRANKED, dtype=np.intp), self.scores(query, item))

    def listed(self, items: list[IntArray]) -> Hits:
        """Unranked hits from a list of pool positions for each query."""
        return self.unranked(np.repeat(np.arange(len(items)), [len(one) for one in items]), joined(items))

    def draw(self, hits: Hits) -> Hits:
        """At most `n` of each query's hits, uniformly without replacement and in their order."""
        groups = zip(*np.unique(hits.query, return_index=True, return_counts=True), strict=True)
        ids = self.query_ids
        return hits.take(joined([first + draw(size, self.n, self.seed, str(ids[q])) for q, first, size in groups]))

    def selection(self, hits: Hits) -> Selection:
        """The selection of a strategy whose candidates are the whole pool without known positives."""
        query = np.repeat(np.arange(len(self.query_ids)), np.diff(self.known_positives.indptr))
        return Selection(hits, self.candidates, count_reasons(query, self.known_positives.data, len(self.query_ids)))


# Without a ranking


def in_batch(problem: MiningProblem) -> Selection:
    """Nothing: training then has the other documents of a batch as its only negatives."""
    return problem.selection(concatenate([]))


def random(problem: MiningProblem) -> Selection:
    """`n` documents of the pool a query, uniformly without replacement, known positives left out.

    In drawn order, so any prefix is a uniform sample too. Embeddings are optional and only score the hits.
    """
    items = []
    for query, left in enumerate(problem.candidates):
        known = problem.known(query)
        places = problem.generator(query).choice(left, min(problem.most, left), replace=False) if left else known[:0]
        # a place among the candidates is a position in the pool, moved up by every known positive before it
        items.append(places + np.searchsorted(known - np.arange(len(known)), places, side="right"))
    return problem.selection(problem.listed(items))


def rejected(problem: MiningProblem) -> Selection:
    """Training pairs labelled 0, in id order; a rejected copy or duplicate of a positive is left out.

    Candidates are the rejections alone. Embeddings are optional and only score the hits. Source: ConFit v1,
    hard negatives of the contrastive loss; in the v2 code the case without `--hard_negative_path`.
    """
    query, item = problem.labelled(0)
    codes = codes_at(problem.known_positives, query, item)
    hits = problem.unranked(query, item).take(codes == 0)
    counts = np.bincount(hits.query, minlength=len(problem.query_ids))
    return Selection(problem.draw(hits), counts, count_reasons(query, codes, len(problem.query_ids)))


# Rankings by words


def bm25(problem: MiningProblem, variant: Variant = "okapi", unique: bool = True) -> Selection:
    """The `n` documents that share most with the query by BM25, known positives left out.

    Ranks are BM25's, ties by id; scores are those of the embeddings, if there are any. `unique`: see `WordIndex`.
    Source: the negatives of DPR (Karpukhin et al. 2020).
    """
    return _best_by_words(problem, variant, unique, by_positives=False)


def passage_bm25(problem: MiningProblem, variant: Variant = "okapi", unique: bool = True) -> Selection:
    """The `n` documents that share most with the query's positive documents by BM25.

    Our reading of "PassageBM25", for which we know no definition: the positive passage takes the place of the query.
    Of several positives the most similar counts; a query without positives gets nothing. Otherwise as `bm25`.
    """
    return _best_by_words(problem, variant, unique, by_positives=True)


def _best_by_words(problem: MiningProblem, variant: Variant, unique: bool, by_positives: bool) -> Selection:
    """The `n` best candidates of each query by its own words, or by those of its most similar positive."""
    # 1. the words of all documents, and what each query asks by: documents of which the best match counts
    queries, pool = ([words(text) for text in texts(problem.corpus, side).loc[ids]] for side, ids in problem.sides)
    index, items = WordIndex(pool, variant, unique), [np.zeros(0, dtype=np.intp)] * len(queries)
    positives = [[pool[item] for item in accepted] for accepted in problem.positives()]
    # 2. the highest scores of each query
    for query, documents in enumerate(positives if by_positives else [[own] for own in queries]):
        if documents:
            scores = np.max([index.scores(document) for document in documents], axis=0)
            scores[problem.known(query)] = -np.inf
            items[query] = np.argsort(-scores, kind="stable")[: min(problem.most, problem.candidates[query])]
    return problem.selection(problem.listed(items)._replace(rank=joined([np.arange(len(order)) for order in items])))


# Rankings by embeddings


def top(problem: MiningProblem) -> Selection:
    """The `n` highest-ranked documents of each query, known positives left out.

    Source: the usual dense hard negatives, as in ANCE (Xiong et al. 2020) without its refresh.
    """
    return problem.selection(top_k(problem, problem.most))


def band(problem: MiningProblem, lo: float = 0.03, hi: float = 0.04) -> Selection:
    """RUM: documents between the percentiles `[lo, hi)` of each query's ranking without its known positives.

    `mine_band` defines it; larger rankings, and those on a card, take the kernel, which finds the same documents.
    Source: ConFit v2, runner-up mining; the defaults are the released band (scripts/hard_neg_mine/hard_neg_mine.sh).
    """
    if problem.official:
        return _official_band(problem, lo, hi)
    # 1. small rankings by the definition
    if problem.device == "cpu" and len(problem.query_ids) * len(problem.pool_ids) <= PLAIN:
        ranking = *problem.vectors, problem.known_positives, problem.query_ids.tolist()
        return problem.selection(mine_band(*ranking, lo, hi, problem.n, problem.seed))
    # 2. others by the kernel, which is told the ranks that are drawn: nothing else need be found  [Q, n]
    start, stop = band_window(problem.candidates, lo, hi)
    ranks = None
    if problem.n is not None:
        ranks = np.full((len(start), min(problem.n, int((stop - start).max(initial=0)))), UNRANKED, dtype=np.intp)
        for query, size in enumerate((stop - start).tolist()):
            places = draw(size, problem.n, problem.seed, str(problem.query_ids[query]))
            ranks[query, : len(places)] = start[query] + places
    return problem.selection(concatenate(problem.ranked(start, stop, ranks)))


def _official_band(problem: MiningProblem, lo: float, hi: float) -> Selection:
    """The released slice: `int(lo * N)` to `int(hi * N)` of the whole ranking, then training positives dropped.

    Bands differ in width and may be empty; ranks count the positives. Source: src/utils/hard_negative_mining.py
    lines 206 and 220-224 (slice) and 238-248 (positives) of the official code.
    """
    shape = len(problem.query_ids), len(problem.pool_ids)
    start, stop = (np.full(shape[0], int(bound * shape[1]), dtype=np.intp) for bound in (lo, hi))
    nothing: csr_array = csr_array(([], ([], [])), shape=shape)
    hits = concatenate(select_band(*problem.vectors, nothing, start, stop, device=problem.device))
    accepted = np.ravel_multi_index(problem.labelled(1), shape)
    codes = len(REASONS) * np.isin(np.ravel_multi_index((hits.query, hits.item), shape), accepted)
    removed = count_reasons(hits.query, codes, shape[0])
    return Selection(problem.draw(hits.take(codes == 0)), np.full(shape[0], shape[1]), removed)


def chosen_band(problem: MiningProblem, width: float = 0.01, bound: float = 0.1, top_rate: float = 1.0) -> Selection:
    """The band that `choose_band` picks from the validation split. Ours."""
    if problem.embeddings is None or not len(problem.query_ids):
        return band(problem)  # which says what is missing, or has nothing to mine for
    choice = choose_band(problem.corpus, problem.embeddings, problem.target, width, bound, top_rate)
    return band(problem, choice.lo, choice.hi)


def ance(problem: MiningProblem, k: int | None = None) -> Selection:
    """`n` documents uniformly from the `k` highest-ranked of each query.

    One refresh of ANCE; `confitlib.training.Refresh` repeats it with the encoder as it learns. `k`: see `top_k`.
    Source: Xiong et al. 2020, arXiv 2007.00808; the released code takes 200 and does not filter them.
    """
    return problem.selection(problem.draw(top_k(problem, k)))


def simans(
    problem: MiningProblem, a: float = 0.5, b: float = 0.0, temperature: float = 0.05, k: int | None = None
) -> Selection:
    """`n` documents of the `k` highest-ranked, with p ∝ exp(-a ((s - s⁺) / temperature - b)²): as hard as a positive.

    s⁺ is the mean score of the query's training positives; without any, all weigh the same. A negative `b` moves
    the peak below the positive. The released code adds `b` where the paper's formula subtracts it: pass its values
    with the other sign. Its scores are dot products with a spread of several units; `temperature` brings cosines to
    that scale (our choice: that of the loss). Source: Zhou et al. 2022, arXiv 2210.11773; a = 0.5, b = 0 there.
    """
    hits = top_k(problem, k)
    gap = (hits.score - problem.positive_scores()[hits.query]) / temperature
    return problem.selection(weighted_draw(problem, hits, np.nan_to_num(-a * (gap - b) ** 2, nan=0.0)))


def trisampler(problem: MiningProblem, max_angle: float = 60.0, k: int | None = None) -> Selection:
    """`n` documents of the `k` highest-ranked that form a near-triangle with the query and its positive.

    Kept are documents whose angle to the query differs from the positive's by at most `max_angle` degrees, with
    weights ReLU(s(d⁺, d⁻) - s(q, d⁻)): those closer to the positive than to the query. d⁺ is the mean of the query's
    positives; without any, all weigh the same. Where no document is closer to the positive than to the query, there
    is nothing. Source: Yang et al. 2024, arXiv 2402.11855; how the paper joins this with its second weight, which
    prefers scores near the positive's, is not known to us.
    """
    hits, (queries, pool) = top_k(problem, k), problem.vectors
    # 1. the mean of each query's positives  [Q, d], and its inner products with the hits
    query, item = problem.labelled(1)
    sums, counts = np.zeros_like(queries), np.bincount(query, minlength=len(queries))
    np.add.at(sums, query, pool[item])
    centres = sums / np.maximum(counts, 1.0)[:, None]
    nearness = np.einsum("nd,nd->n", centres[hits.query], pool[hits.item])
    # 2. the weights of the hits
    positive = problem.positive_scores()[hits.query]
    turn = np.abs(np.arccos(np.clip(positive, -1, 1)) - np.arccos(np.clip(hits.score, -1, 1)))
    with np.errstate(divide="ignore"):
        log_weights = np.log(np.where(turn > np.deg2rad(max_angle), 0.0, np.maximum(nearness - hits.score, 0.0)))
    return problem.selection(weighted_draw(problem, hits, np.where(np.isnan(positive), 0.0, log_weights)))


def top_k(problem: MiningProblem, k: int | None) -> Hits:
    """The `k` highest-ranked candidates of each query, known positives left out.

    By default the top 200, or the top tenth of a smaller pool, but never fewer than are asked for: our scaling of
    what the papers take from pools of millions.
    """
    scaled = np.minimum(DEEPEST, problem.candidates // 10) if k is None else np.full(len(problem.query_ids), k)
    stop = np.minimum(np.maximum(scaled, problem.n or 1), problem.candidates)
    return concatenate(problem.ranked(np.zeros_like(stop), stop))


def weighted_draw(problem: MiningProblem, hits: Hits, log_weights: NDArray[np.floating]) -> Hits:
    """At most `n` of each query's hits without replacement, with chances in proportion to their weights.

    log_weights: `[len(hits)]`; what has weight 0 (minus infinity) is never drawn. Hits stay in their order. The
    draw adds Gumbel noise and keeps the largest sums (Gumbel top-k).
    """
    places = []
    for query, first, size in zip(*np.unique(hits.query, return_index=True, return_counts=True), strict=True):
        keys = log_weights[first : first + size] + problem.generator(query).gumbel(size=size)
        allowed = int((keys > -np.inf).sum())
        places.append(first + np.sort(np.argsort(-keys, kind="stable")[: min(problem.most, allowed)]))
    return hits.take(joined(places))


# Rankings bounded by the positives


def positive_aware(problem: MiningProblem, ratio: float | None = 0.95, margin: float | None = None) -> Selection:
    """The `n` highest-ranked documents whose score is clearly below that of the query's positives.

    TopK-PercPos keeps s < s⁺ - (1 - ratio) |s⁺|, which is `ratio` x s⁺ for positive scores; TopK-MarginPos keeps
    s < s⁺ - margin; with both, both hold. s⁺ is the least score of the query's training positives (our choice: the
    paper's queries have one). A query without positives has no bound and gets nothing.
    Source: NV-Retriever (Moreira et al. 2024, arXiv 2407.15831), 95 %.
    """
    limit, (queries, pool) = _limit(problem, ratio, margin), problem.vectors
    # how many candidates reach the limit: the first rank below it  [Q]
    start = np.zeros(len(queries), dtype=np.intp)
    for rows in chunks(np.arange(len(queries)), CELLS_A_BLOCK // max(1, len(pool))):
        reached = inner_products(queries[rows], pool).numpy() >= limit[rows, None]
        reached[problem.known_positives[rows].nonzero()] = False
        start[rows] = reached.sum(axis=1)
    return _below(problem, limit, start, np.minimum(start + problem.most, problem.candidates))


def band_aware(
    problem: MiningProblem, lo: float = 0.03, hi: float = 0.04, ratio: float | None = 0.95, margin: float | None = None
) -> Selection:
    """A percentile band, less what scores as high as the query's positives: `band` and `positive_aware` together.

    Candidates keep the ranks and percentiles they have in `band`; a query may get none.
    """
    return _below(problem, _limit(problem, ratio, margin), *band_window(problem.candidates, lo, hi))


def _limit(problem: MiningProblem, ratio: float | None, margin: float | None) -> NDArray[np.float32]:
    """The score that negatives of each query must stay below, `[Q]`; NaN without positives."""
    positive = problem.positive_scores("min")
    bounds = [positive - (1 - ratio) * np.abs(positive)] if ratio is not None else []
    bounds += [positive - margin] if margin is not None else []
    return np.min(bounds, axis=0).astype(np.float32)


def _below(problem: MiningProblem, limit: NDArray[np.float32], start: IntArray, stop: IntArray) -> Selection:
    """At most `n` of the ranks `[start, stop)` of each query that score below its limit; none below NaN."""
    blocks = problem.ranked(start, stop)
    return problem.selection(concatenate(problem.draw(part.take(part.score < limit[part.query])) for part in blocks))


# Graphs and written documents


def graph(problem: MiningProblem, candidates: int = 1000, edges: int = 20, restart: float = 0.1) -> Selection:
    """`n` documents that random walks with restart meet around each query's positives.

    Every document is linked to the `edges` nearest of `candidates` drawn at random; a walk starts at a positive of
    the query (without one, at its highest-ranked candidate), goes on to a random neighbour and returns to a start
    with probability `restart`; the first `n` documents met that are no known positives are kept, in the order met.
    Source: graph and walk of BatchSampler (Yang et al. 2023, arXiv 2306.03355: 1,000 drawn, 100 edges, restart 0.1),
    which builds whole batches; to walk from the positives of a query is our choice, as are fewer edges for our pools.
    """
    # 1. the graph: for every document the nearest of a random few others
    _, pool = problem.vectors
    neighbours, others = [], len(pool) - 1
    for place, name in enumerate(problem.pool_ids):
        drawn = draw(others, candidates, problem.seed, str(name))
        drawn[drawn >= place] += 1  # all but the document itself
        neighbours.append(drawn[np.argsort(-(pool[drawn] @ pool[place]), kind="stable")[:edges]])
    # 2. where each query's walk starts
    best = concatenate(problem.ranked(np.zeros_like(problem.candidates), np.minimum(problem.candidates, 1)))
    starts = [own if len(own) else best.item[best.query == query] for query, own in enumerate(problem.positives())]
    # 3. the walk
    met = []
    for query, places in enumerate(starts):
        rng, known, found, here = problem.generator(query), set(problem.known(query).tolist()), dict[int, None](), -1
        for _ in range(STEPS_A_NEGATIVE * problem.most if len(places) else 0):
            back = here < 0 or not len(neighbours[here]) or rng.random() < restart
            here = int(rng.choice(places if back else neighbours[here]))
            if here not in known:
                found[here] = None
            if len(found) == problem.most:
                break
        met.append(np.array(list(found), dtype=np.intp))
    return problem.selection(problem.listed(met))


def synthetic(problem: MiningProblem, share: float = 0.5, lo: float = 0.03, hi: float = 0.04) -> Selection:
    """Of `n` negatives the `share` that was written for the query, the rest from the band `[lo, hi)`.

    `confitlib.augment.synthetic_negatives` adds the written documents; a query without enough of them gets more of
    the band. Written ones have no rank; percentiles count among the real candidates. Source: the hybrid of SyNeg
    (Li et al. 2024, arXiv 2412.17250); the mixing ratio is not known to us and is our choice. Raises ValueError if
    the corpus holds no written negative.
    """
    # 1. which documents of the pool were written as negatives, and the query of each (-1: no query here)
    frame = problem.corpus.documents(problem.target).loc[problem.pool_ids]
    named = frame[NEGATIVE_FOR].fillna("") if NEGATIVE_FOR in frame.columns else pd.Series("", index=frame.index)
    if not (named != "").any() and len(problem.query_ids):
        raise ValueError("the corpus holds no written negatives: add them with confitlib.augment.synthetic_negatives")
    owners = np.where(named != "", problem.query_ids.get_indexer(pd.Index(named)), -1)
    # 2. the share of written ones
    item = np.argsort(owners, kind="stable")[np.count_nonzero(owners < 0) :]
    own = replace(problem, n=round(share * problem.most)).draw(problem.unranked(owners[item], item))
    # 3. the rest from the band among real documents, in rank order
    real = np.flatnonzero(named == "")
    mined = band(replace(problem, pool_ids=problem.pool_ids[real]), lo, hi)
    both = concatenate([own, mined.hits._replace(item=real[mined.hits.item])])
    both = both.take(np.argsort(both.query, kind="stable"))
    place = pd.Series(both.query).groupby(both.query).cumcount().to_numpy()  # among those of its query
    return mined._replace(hits=both.take(place < problem.most))


BY_NAME = (in_batch, random, rejected, bm25, passage_bm25, top, band, ance, simans, trisampler, positive_aware)
STRATEGIES: dict[str, Strategy] = {one.__name__: one for one in (*BY_NAME, band_aware, chosen_band, graph, synthetic)}
SIZED = ("in_batch", "rejected", "band", "band_aware", "chosen_band")  # strategies with a size of their own
RANGES: dict[str, Any] = {
    **dict.fromkeys(("n", "k", "candidates", "edges"), pd.Interval(1, np.inf, "left")),
    **dict.fromkeys(("a", "max_angle"), pd.Interval(0, np.inf, "left")),
    **dict.fromkeys(("ratio", "top_rate", "bound"), pd.Interval(0, 1, "right")),
    **dict.fromkeys(("restart", "share"), pd.Interval(0, 1, "both")),
    "temperature": pd.Interval(0, np.inf, "neither"),
    "margin": pd.Interval(-np.inf, np.inf, "neither"),
    "width": pd.Interval(0, 0.5, "right"),
}


def document_ids(corpus: Corpus, side: Side, documents: DocumentSet, written: bool = False) -> pd.Index:
    """Ids in rising order: all training documents of a side, or those that occur in training labels.

    Negatives that somebody wrote for a query are left out unless `written`.
    """
    ids = corpus.pool(side, "train") if documents == "train" else corpus.labelled("train")[f"{side}_id"].unique()
    frame = corpus.documents(side)
    if NEGATIVE_FOR in frame.columns and not written:
        ids = frame.index[frame.index.isin(ids) & (frame[NEGATIVE_FOR].fillna("") == "")]
    return pd.Index(sorted(ids), dtype="str")


def joined(parts: list[IntArray]) -> IntArray:
    """Positions one after the other."""
    return np.concatenate([np.zeros(0, dtype=np.intp), *parts])


def codes_at(codes: csr_array, rows: IntArray, columns: IntArray) -> NDArray[np.int8]:
    """The codes of flat pairs."""
    if not len(rows):  # scipy answers an empty question with a matrix
        return np.zeros(0, dtype=np.int8)
    return np.asarray(codes[rows, columns]).astype(np.int8)


def count_reasons(query: IntArray, codes: NDArray[np.int8], n_queries: int) -> NDArray[np.int64]:
    """How many pairs each query loses for each of `REASONS`, `[n_queries, 3]`, from flat pairs and their codes."""
    known = codes > 0
    cells = query[known] * len(REASONS) + (len(REASONS) - codes[known])
    return np.bincount(cells, minlength=n_queries * len(REASONS)).reshape(n_queries, len(REASONS))
