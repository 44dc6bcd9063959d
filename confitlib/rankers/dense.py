"""Rankers that compare embeddings: zero-shot encoders, HyDE and HyQE, and the dual encoder trained on the corpus."""

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from sklearn.preprocessing import normalize

from confitlib.augment import TASKS, Generator, generate
from confitlib.corpus import HYPOTHETICAL, SIDES, Corpus, Side, other
from confitlib.encoder import Embeddings, Pooling, TextEncoder, load_encoder
from confitlib.llm import Client
from confitlib.mining import Negatives, check_mining, mine
from confitlib.rankers.base import Rows, Scores, VectorRanker, trained_weights
from confitlib.text import texts
from confitlib.training import Refresh, TrainingConfig, TrainingResult, train, train_once
from confitlib.util import checked

HyRe = bool | Literal["average"]


@checked
@dataclass(eq=False, repr=False)
class RawEmbed(VectorRanker):
    """Cosine of the embeddings of an encoder that has not seen the corpus.

    `encoder`: "static", "minilm", a hub name or a local folder; `max_length`: tokens read of a document, or
    None for the encoder's own. `hyre`: append hypothetical texts (HyRe to jobs, HyJob to resumes) where the corpus
    has them; "average": embed them by themselves and average both vectors. `cache`: folder for embeddings
    and for encoders trained without mined negatives, which all mining starts from. `trust_remote_code`: run the code
    that a hub model brings along, which Jina v2 needs. Rankers derived from this one take the same options by name.
    The attribute `progress` says whether slow steps show a bar.

    >>> from confitlib import RawEmbed, compose, evaluate_ranking
    >>> corpus = compose("tiny").corpus
    >>> result = evaluate_ranking(RawEmbed("static").fit(corpus), corpus, "resume")
    >>> round(result.means()["ndcg@10"], 2)
    0.28
    """

    name = "RawEmbed"
    progress = True

    encoder: str = "minilm"
    _: KW_ONLY
    max_length: int | None = None
    hyre: HyRe = True
    cache: str | None = None
    trust_remote_code: bool = False

    def prepare(self, corpus: Corpus) -> None:
        """Embed every document of the corpus."""
        self.embeddings = self.embed(self.load(), corpus)

    def load(self, seed: int = 0) -> TextEncoder:
        """The encoder as it is before any training."""
        trust = self.trust_remote_code
        return load_encoder(self.encoder, max_length=self.max_length, seed=seed, trust_remote_code=trust)

    def embed(self, model: TextEncoder, corpus: Corpus) -> Embeddings:
        """Unit vectors of every document, with hypothetical texts as `hyre` says."""
        plain = Embeddings.of_corpus(model, corpus, hyre=self.hyre is True, **self._options(model))
        if self.hyre != "average":
            return plain
        mixed = []
        for side in SIDES:
            frame = corpus.documents(side)
            hypotheses = frame.get(HYPOTHETICAL[side], pd.Series("", index=frame.index)).fillna("").astype(str)
            rows = np.flatnonzero(hypotheses != "")
            vectors = model.encode(hypotheses.iloc[rows].tolist(), **self._options(model))
            mixed.append(averaged(plain.of(side), rows, vectors))
        return Embeddings(*mixed)

    def _options(self, model: TextEncoder) -> dict[str, Any]:
        """Arguments of `encode`: a cache and a bar where encoding takes a while."""
        slow = not model.sparse_parameters  # a mean of token vectors is computed faster than it is read
        cache = Path(self.cache) / "embeddings" if self.cache and slow else None
        return {"cache": cache, "progress": slow and self.progress}


def averaged(vectors: Scores, rows: Rows, more: Scores) -> Scores:
    """Unit vectors of the mean of each row and of all that `more` holds for it (`rows[i]` for `more[i]`)."""
    sums = vectors.copy()
    np.add.at(sums, rows, more)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float32).tiny)


@dataclass(eq=False, repr=False)
class TwoTowers(RawEmbed):
    """An encoder, a prefix or both for each side, as E5 and DPR tell queries from passages; nothing is trained.

    `encoder` and `prefix` read resumes, the passages; `job_encoder` and `job_prefix` read jobs, which ask. `pooling`,
    and a prefix that is None, are each model's own. By default E5 with its two prefixes (ConFit puts "query: " on both
    sides: `RawEmbed`). DPR has two encoders, pools by "cls" and compares inner products; here vectors have unit length,
    as everywhere in the kit (our choice). Sources: Wang et al. 2022 (arXiv 2212.03533); Karpukhin et al. 2020.
    """

    name = "two towers"

    encoder: str = "intfloat/e5-base-v2"
    job_encoder: str = "intfloat/e5-base-v2"
    prefix: str | None = "passage: "
    job_prefix: str | None = "query: "
    pooling: Pooling | None = None

    def prepare(self, corpus: Corpus) -> None:
        """Embed every document with the encoder of its side; raises ValueError for towers of different widths."""
        vectors, towers = [], [(self.encoder, self.prefix), (self.job_encoder, self.job_prefix)]
        for side, (name, prefix) in zip(SIDES, towers, strict=True):
            tower = load_encoder(name, self.pooling, prefix, self.max_length, trust_remote_code=self.trust_remote_code)
            documents = texts(corpus, side, hyre=bool(self.hyre)).tolist()
            vectors.append(tower.encode(documents, **self._options(tower)))
        widths = [part.shape[1] for part in vectors]
        if widths[0] != widths[1]:
            names = f"{self.encoder!r} and {self.job_encoder!r}"
            raise ValueError(f"{names} give vectors of {widths} dimensions: choose encoders of one family")
        self.embeddings = Embeddings(*vectors)


@dataclass(eq=False, repr=False)
class OpenAIEmbed(VectorRanker):
    """Cosine of embeddings by an OpenAI model, recorded in a store and replayed from it.

    `store`: the file of recorded vectors; what it lacks is asked of the endpoint in the environment (`Client`).
    Indexing raises LookupError if some are missing and there is no endpoint.
    """

    name = "OpenAI embeddings"

    model: str = "text-embedding-3-large"
    store: str = "embeddings.jsonl"
    hyre: bool = True

    def prepare(self, corpus: Corpus) -> None:
        """Embed every document of the corpus."""
        client, documents = Client(self.store), [texts(corpus, side, hyre=self.hyre).tolist() for side in SIDES]
        self.embeddings = Embeddings(*(normalize(client.embed(part, model=self.model)) for part in documents))


@dataclass(eq=False, repr=False)
class Hypothesising(RawEmbed):
    """Base of untrained rankers that have documents written for those of the validation and test splits.

    `writer`, `n` and `seed`: who writes how many texts for a document, see `confitlib.augment.generate`.
    """

    task: ClassVar[str]
    writer: Generator = "auto"
    n: int = 8
    seed: int = 0
    hyre: HyRe = field(default=False, init=False)

    def prepare(self, corpus: Corpus) -> None:
        """Embed every document of the corpus, and what is written for the held-out ones."""
        # 1. the documents themselves
        model = self.load()
        self.embeddings = self.embed(model, corpus)
        # 2. what is written for those of validation and test, and the vector of each text
        self.reports: dict[Side, Any] = {}
        self.hypotheses: dict[Side, tuple[Rows, Scores]] = {}  # rows of documents, a unit vector of each text for them
        for side in SIDES:
            ids = TASKS[self.task].documents(corpus, side, self.seed)
            written = generate(self.task, corpus, side, ids, generator=self.writer, variants=self.n, seed=self.seed)
            self.reports[side] = written.report()
            flat = [(name, text) for name, options in written.texts.items() for text in options]
            vectors = model.encode([text for _, text in flat], **self._options(model))
            self.hypotheses[side] = corpus.positions(side, [name for name, _ in flat]), vectors


class HyDE(Hypothesising):
    """HyDE: the query vector is the mean of the query's and of `n` hypothetical documents' vectors.

    A job that ranks resumes asks for hypothetical resumes, a resume that ranks jobs for hypothetical jobs; no
    training. Source: Gao et al. 2022 (arXiv 2212.10496); texttron/hyde (n=8). Vectors have unit length, which is
    our choice.
    """

    name = "HyDE"
    task = "hyde"

    def vectors(self, target: Side) -> Embeddings:
        """The vectors of the target side, and of the side that asks their means with what was written for them."""
        asking = other(target)
        means = averaged(self.embeddings.of(asking), *self.hypotheses[asking])
        return replace(self.embeddings, **{f"{asking}s": means})


@dataclass(eq=False, repr=False)
class HyQE(Hypothesising):
    """HyQE: the top `first_n` candidates are re-scored by the hypothetical queries they would answer.

    `score + weight * max_j cos(hypothetical query j of the candidate, query)`, `n` of them a candidate. The other
    candidates get the smallest bonus of the top and so stay below it (our choice; the released code drops them); a
    candidate that nothing was written for gets none. `score_pairs` re-scores every pair.
    Source: Zhou et al. 2024 (arXiv 2410.15262); zwc662/hyqe (weight 0.5 for E5-large-v2, first_n 10 to 30, n=1).
    """

    name = "HyQE"
    task = "hyqe"

    n: int = 1
    weight: float = 0.5
    first_n: int = 30

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Re-scored cosine of every pair; each query's candidates are the target documents of this call."""
        rows = self.rows(resume_ids, job_ids)
        queries = self.embeddings.of(other(target))[rows[other(target)]]
        scores = self.embeddings.of(target)[rows[target]] @ queries.T  # [candidates, queries]
        scores = rescored(scores, self._bonus(target, rows[target], queries), self.first_n, self.weight)
        return np.asarray(scores if target == "resume" else scores.T, dtype=np.float32)

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """The formula for every given pair, as if all were among the first; resumes are the candidates."""
        resume_ids, job_ids = list(resume_ids), list(job_ids)
        rows, scores = self.rows(resume_ids, job_ids), super().score_pairs(resume_ids, job_ids)
        for job in np.unique(rows["job"]):
            pairs = np.flatnonzero(rows["job"] == job)
            bonus = self._bonus("resume", rows["resume"][pairs], self.embeddings.jobs[[job]])
            scores[pairs] += self.weight * bonus[:, 0]
        return scores

    def _bonus(self, target: Side, candidates: Rows, queries: Scores) -> Scores:
        """The best match of each candidate's hypothetical queries with each query, `[candidates, queries]`."""
        documents, vectors = self.hypotheses[target]
        best = np.full((len(self.corpus.documents(target)), len(queries)), -np.inf, dtype=np.float32)
        wanted = np.isin(documents, candidates)
        np.maximum.at(best, documents[wanted], vectors[wanted] @ queries.T)
        return np.where(np.isneginf(best[candidates]), np.float32(0), best[candidates])


def rescored(scores: Scores, bonus: Scores, first_n: int, weight: float) -> Scores:
    """Scores `[candidates, queries]` plus weighted bonus for the `first_n` best of each query, the rest below them."""
    top = np.argsort(-scores, axis=0, kind="stable")[:first_n]  # [first_n, queries]
    bonus_of_top = np.take_along_axis(bonus, top, axis=0)
    changed = scores + weight * (bonus_of_top.min(axis=0) if len(top) else 0)
    np.put_along_axis(changed, top, np.take_along_axis(scores, top, axis=0) + weight * bonus_of_top, axis=0)
    return changed


@checked
@dataclass(eq=False, repr=False)
class InBatch(RawEmbed):
    """The dual encoder trained with in-batch negatives only: ConFit v2 before runner-up mining.

    With `hyre="average"` training and mining read plain documents; hypothetical texts join when documents are indexed.
    `negatives`: what was mined, by target side; `result`: the trained encoder; `history`: its log, one row a logged
    step; `saved_seconds`: what `learn` would have taken in addition without its cache.

    >>> from confitlib import InBatch, TrainingConfig, compose
    >>> corpus = compose("tiny").corpus
    >>> ranker = InBatch("static", TrainingConfig(epochs=1, batch_size=16))
    >>> ranker.progress = False
    >>> ranker.fit(corpus).score(corpus.pool("resume", "test"), corpus.pool("job", "test")).shape
    (120, 60)
    """

    name = "in-batch"
    encoder: str = "static"
    config: TrainingConfig = TrainingConfig()
    refreshed: Refresh | None = field(default=None, init=False)  # whether and when hard negatives are mined again

    def learn(self, corpus: Corpus) -> Self:
        """Train the encoder on the accepted training pairs, with this ranker's hard negatives."""
        corpus = corpus if self.hyre is True else corpus.without_hypothetical()
        self.saved_seconds = 0.0
        self.negatives = self.hard_negatives(corpus)
        self.result = self.train(corpus, self.negatives)
        self.history, self.n_parameters = self.result.history, trained_weights(self.result.encoder)
        return self

    def hard_negatives(self, corpus: Corpus) -> dict[Side, Negatives]:
        """Hard negatives by target side to train with; none here."""
        return {}

    def train(self, corpus: Corpus, negatives: Mapping[Side, Negatives]) -> TrainingResult:
        """Train from the untrained encoder; without negatives, take the same training from the cache."""
        encoder = self.load(self.config.seed)
        if self.cache and not negatives:
            options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code, "progress": self.progress}
            result = train_once(encoder, corpus, self.config, cache=self.cache, **options)
            self.saved_seconds += result.seconds if result.reused else 0.0
            return result
        refresh = self.refreshed if negatives else None
        cache = Path(self.cache) / "embeddings" if self.cache else None
        return train(encoder, corpus, self.config, negatives, refresh=refresh, cache=cache, progress=self.progress)

    def prepare(self, corpus: Corpus) -> None:
        """Embed every document of the corpus with the trained encoder."""
        self.embeddings = self.embed(self.result.encoder, corpus)


@dataclass(eq=False, repr=False)
class Mined(InBatch):
    """Two stages: in-batch training, mining with its encoder by any strategy, training afresh with both.

    `strategy`: one of `confitlib.mining.STRATEGIES`; `parameters`: what `mine` takes for it, such as `n`, or `lo`
    and `hi` of a band; `refresh`: mine again every so many epochs of the second stage (ANCE), 0 for never.
    Source of the two stages: ConFit v2, README and hard_negative_mining.py.
    """

    name = "mined"

    strategy: str = "band"
    parameters: Mapping[str, Any] | None = None
    refresh: int = 0

    def hard_negatives(self, corpus: Corpus) -> dict[Side, Negatives]:
        """Mined by the strategy with an encoder that was trained without hard negatives: the first stage."""
        # 1. what mining would refuse is refused before anything is trained
        parameters = self.parameters or {}
        check_mining(self.strategy, **parameters)
        self.refreshed = Refresh(self.strategy, parameters, self.refresh) if self.refresh else None
        # 2. in-batch training, then mining with its encoder
        embeddings = self.embed(self.train(corpus, {}).encoder, corpus)
        ask: dict[str, Any] = {"embeddings": embeddings, "seed": self.config.seed, **parameters}
        return {side: mine(self.strategy, corpus, target=side, **ask) for side in SIDES}


@checked
@dataclass(eq=False, repr=False)
class ConFitV2(Mined):
    """The two stages of ConFit v2: in-batch training, runner-up mining with its encoder, training with both.

    `band`: percentiles `[lo, hi)` of the negatives (paper: 3-4 %). HyRe texts are used when the corpus
    has them and `hyre` is true. Source: arXiv 2502.12361; hard_negative_mining.py.

    >>> from confitlib import ConFitV2, TrainingConfig, compose
    >>> corpus = compose("tiny").corpus
    >>> ranker = ConFitV2("static", TrainingConfig(epochs=1, batch_size=16))
    >>> ranker.progress = False
    >>> ranker.fit(corpus).score(corpus.pool("resume", "test"), corpus.pool("job", "test")).shape
    (120, 60)
    >>> sorted(ranker.negatives)
    ['job', 'resume']
    """

    name = "ConFit v2"

    band: tuple[float, float] = (0.03, 0.04)
    strategy: str = field(default="band", init=False)
    parameters: Mapping[str, Any] | None = field(default=None, init=False)
    refresh: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.parameters = {"lo": self.band[0], "hi": self.band[1]}
