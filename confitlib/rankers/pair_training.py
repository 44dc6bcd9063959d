"""What all pair models share: documents as token ids, labelled pairs with sampled negatives, and one training loop."""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Literal, Self, TypeVar, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from confitlib.corpus import HYRE, SIDES, Corpus, Side, Split, known_positive_mask
from confitlib.encoder import TextEncoder, TokenAverage, load_encoder
from confitlib.mining.strategies import codes_at
from confitlib.rankers.base import Ranker, Scores, trained_weights
from confitlib.text import sentences, texts
from confitlib.util import check_range

Rows = NDArray[np.intp]
Unit = Literal["lines", "fields", "document"]
Encoded = tuple[Tensor, ...]  # what is known of documents: tensors whose first dimension is theirs
Batch = TypeVar("Batch")
Batches = Callable[[np.random.Generator], Iterable[Batch]]
PADDING = 0  # the tokenizer's id of [PAD]
MAX_GRAD_NORM = 10.0  # as in the code of InEXIT and in ConFit's port of MV-CoN
ENCODED_AT_ONCE, SCORED_AT_ONCE = 256, 1024  # documents, pairs


@cache
def static_encoder() -> TextEncoder:
    """The offline token vectors with their tokenizer, loaded once and never trained."""
    return load_encoder("static", device="cpu").requires_grad_(False)


def token_table() -> Tensor:
    """The offline token vectors `[vocabulary, 384]`."""
    return cast(TokenAverage, static_encoder().backbone).token_vectors.detach()


def device() -> torch.device:
    """CUDA if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def at(encoded: Encoded, rows: Rows) -> Encoded:
    """The documents in these rows, on the device."""
    return tuple(tensor[torch.from_numpy(rows).to(tensor.device)].to(device()) for tensor in encoded)


class TokenizedDocuments:
    """Token ids of every document of a side, cut into pieces: `ids` `[documents, pieces, tokens]`, 0 where none is.

    A piece is a line or sentence ("lines"), a field ("fields", in column order, empty ones included; `names` holds
    the columns) or all the text ("document"). Of a document `max_pieces` are read and of a piece `max_tokens`, except
    that a longer line goes on in the next piece. `hyre` adds the hypothetical resume of a job.
    """

    def __init__(
        self, corpus: Corpus, side: Side, unit: Unit, *, max_pieces: int, max_tokens: int, hyre: bool = True
    ) -> None:
        # 1. the texts of all pieces, document by document
        frame = corpus.documents(side)
        self.names = [*corpus.fields(side), *([HYRE] if hyre and HYRE in frame.columns else [])]
        if unit == "document":
            pieces = [[text] for text in texts(corpus, side, hyre)]
        else:
            pieces = [list(values) for values in frame[self.names].astype("str").fillna("").itertuples(index=False)]
        if unit == "lines":
            pieces = [[line for value in values for line in sentences(value)] for values in pieces]
        # 2. their token ids; every distinct text is tokenized once
        distinct = list(dict.fromkeys(chain.from_iterable(pieces)))
        tokens = dict(zip(distinct, static_encoder().tokenize(distinct), strict=True))
        ids = [[tokens[text] for text in document] for document in pieces]
        if unit == "lines":
            ids = [[line[at : at + max_tokens] for line in document for at in range(0, len(line), max_tokens)]
                   for document in ids]  # fmt: skip
        # 3. one array, no larger than the longest document and piece need
        ids = [[piece[:max_tokens] for piece in document[:max_pieces]] for document in ids]
        longest = max((len(piece) for document in ids for piece in document), default=1)
        padded = np.full((len(ids), max(map(len, ids), default=1) or 1, longest or 1), PADDING, dtype=np.int32)
        for row, document in enumerate(ids):
            for place, piece in enumerate(document):
                padded[row, place, : len(piece)] = piece
        self.ids = torch.from_numpy(padded)


@dataclass(frozen=True)
class PairTraining:
    """How a pair model is trained and what it reads; each matcher names its own defaults.

    `rejections`: learn from labelled rejections; `sampled`: negatives made for each accepted pair of a batch.
    `patience`: epochs without a better validation loss before training stops; the best epoch is kept.
    `max_pieces`, `max_tokens`: how much is read of a document (`TokenizedDocuments`); `hyre`: read hypothetical
    resumes.
    """

    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    patience: int = 2
    rejections: bool = True
    sampled: int = 4
    max_pieces: int = 24
    max_tokens: int = 32
    hyre: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "epochs", "batch_size", "max_pieces", "max_tokens", least=1)
        check_range(self, "learning_rate", above=0)
        check_range(self, "weight_decay", "patience", "sampled", "seed")


@dataclass(frozen=True)
class JudgedPairs:
    """Row numbers of the documents of each pair `[n]`, and its label (1 or 0)."""

    rows: dict[Side, Rows]
    labels: NDArray[np.float32]

    @classmethod
    def of_corpus(cls, corpus: Corpus, split: Split, label: int | None = None) -> JudgedPairs:
        """The labelled pairs of a split; raises ValueError unless some are accepted."""
        if corpus.labelled(split, 1).empty:
            raise ValueError(f"corpus {corpus.name!r} has no accepted pair in split {split!r}: nothing to learn from")
        table = corpus.labelled(split, label)
        rows = {side: corpus.positions(side, table[f"{side}_id"]) for side in SIDES}
        return cls(rows, table["label"].to_numpy(np.float32))

    def take(self, places: NDArray[np.intp] | NDArray[np.bool_]) -> JudgedPairs:
        """The pairs at these places."""
        return JudgedPairs({side: self.rows[side][places] for side in SIDES}, self.labels[places])

    def __add__(self, more: JudgedPairs) -> JudgedPairs:
        rows = {side: np.concatenate([self.rows[side], more.rows[side]]) for side in SIDES}
        return JudgedPairs(rows, np.concatenate([self.labels, more.labels]))

    def __len__(self) -> int:
        return len(self.labels)


class NegativeSampler:
    """Makes negatives from pairs by drawing another document; known positives and their duplicates are left out."""

    def __init__(self, corpus: Corpus) -> None:
        self.known = known_positive_mask(corpus, "job")  # [resumes, jobs]

    def replace(
        self, pairs: JudgedPairs, side: Side, pool: Rows, count: int, rng: np.random.Generator
    ) -> tuple[JudgedPairs, NDArray[np.bool_]]:
        """`count` copies of each pair with a document of the pool in place of its own, and which are not positive."""
        rows = {one: np.repeat(pairs.rows[one], count) for one in SIDES}
        rows[side] = pool[rng.integers(0, len(pool), len(rows[side]))]
        unknown = codes_at(self.known, rows["resume"], rows["job"]) == 0
        return JudgedPairs(rows, np.zeros(len(unknown), dtype=np.float32)), unknown

    def sample(self, pairs: JudgedPairs, pools: dict[Side, Rows], count: int, rng: np.random.Generator) -> JudgedPairs:
        """Up to `count` negatives of each pair: a fair coin says which of its documents is replaced from its pool."""
        (resumes, free_resumes), (jobs, free_jobs) = (
            self.replace(pairs, side, pools[side], count, rng) for side in SIDES
        )
        takes_job = rng.random(len(jobs)) < 0.5
        drawn = {side: np.where(takes_job, jobs.rows[side], resumes.rows[side]) for side in SIDES}
        return JudgedPairs(drawn, jobs.labels).take(np.where(takes_job, free_jobs, free_resumes))


def sampled_pairs(corpus: Corpus, split: Split, *, random: int = 7, hard: int = 1, seed: int = 0) -> JudgedPairs:
    """Every accepted pair of a split with `random` made negatives and `hard` labelled rejections of its own.

    A made negative draws its other document from the split. A rejection shares the job of its pair, or else the
    resume; pairs without one have none. 7 and 1 are those of ConFit v1's tree ablation (README of jasonyux/ConFit).
    Raises ValueError for a split without accepted pairs or for sampling that leaves no negative.
    """
    rng = np.random.default_rng((seed, 0))
    accepted, rejected = (JudgedPairs.of_corpus(corpus, split, label) for label in (1, 0))
    pools = {side: corpus.positions(side, corpus.pool(side, split)) for side in SIDES}
    made = NegativeSampler(corpus).sample(accepted, pools, random, rng)
    by_job, by_resume = (pd.Series(0, rejected.rows[side]).groupby(level=0).indices for side in ("job", "resume"))
    places = [np.empty(0, dtype=np.intp)]
    for resume, job in zip(accepted.rows["resume"], accepted.rows["job"], strict=True):
        of_pair = by_job.get(job, by_resume.get(resume, places[0]))
        places.append(rng.choice(of_pair, min(hard, len(of_pair)), replace=False))
    pairs = accepted + made + rejected.take(np.concatenate(places))
    if pairs.labels.all():
        raise ValueError(f"corpus {corpus.name!r} has no negative pair in split {split!r}: sample more negatives")
    return pairs


class PairBatches:
    """The judged pairs of a split in batches that keep the pairs of a job together, so that few jobs are encoded.

    For each accepted pair, `sampled` times another pair of the batch lends its resume or its job to make a negative.
    Raises ValueError for a split without what this needs.
    """

    def __init__(self, corpus: Corpus, split: Split, config: PairTraining) -> None:
        if not config.rejections and not config.sampled:
            raise ValueError("rejections=False and sampled=0 leave no negative: sample at least one")
        self.pairs = JudgedPairs.of_corpus(corpus, split, None if config.rejections else 1)
        if config.rejections and self.pairs.labels.all():
            raise ValueError(
                f"corpus {corpus.name!r} has no rejected pair in split {split!r}: "
                "set rejections=False in PairTraining to learn from accepted pairs and sampled negatives"
            )
        self.sampler, self.size, self.sampled = NegativeSampler(corpus), config.batch_size, config.sampled

    def epoch(self, rng: np.random.Generator) -> Iterator[JudgedPairs]:
        """All batches in random order of the jobs and of each job's pairs."""
        job_order = rng.permutation(self.sampler.known.shape[1])[self.pairs.rows["job"]]
        order = np.lexsort((rng.random(len(self.pairs)), job_order))
        for start in range(0, len(order), self.size):
            batch = self.pairs.take(order[start : start + self.size])
            yield batch + self.sampler.sample(batch.take(batch.labels == 1), batch.rows, self.sampled, rng)


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    loss: Callable[[Batch], Tensor],
) -> list[float]:
    """One step a batch, its gradient clipped; returns the loss of every step."""
    network.train()
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        step = loss(batch)
        step.backward()
        nn.utils.clip_grad_norm_(network.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        losses.append(step.item())
    network.eval()
    return losses


def fit_network(
    network: nn.Module,
    config: PairTraining,
    loss: Callable[[Batch], Tensor],
    training: Batches[Batch],
    validation: Batches[Batch] | None = None,
    name: str = "",
    optimizer: torch.optim.Optimizer | None = None,
) -> pd.DataFrame:
    """Train with AdamW and keep the epoch with the lowest validation loss, the last one without validation.

    `training`, `validation`: the batches of an epoch from a generator, which for validation is always the same.
    `optimizer`: takes the place of AdamW.
    Returns one row an epoch: `epoch, loss, valid_loss`.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    rows, best, best_epoch = [], np.inf, 0
    for epoch in tqdm(range(config.epochs), desc=f"{name}: train", unit="epoch", delay=2):
        # 1. a pass over the training pairs, then the loss of the validation pairs
        losses = train_epoch(network, optimizer, training(np.random.default_rng((config.seed, epoch))), loss)
        valid_loss = np.nan
        if validation is not None:
            with torch.inference_mode():
                batches = validation(np.random.default_rng((config.seed,)))
                valid_loss = float(np.mean([loss(batch).item() for batch in batches]))
        rows.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), "valid_loss": valid_loss})
        # 2. the best epoch is kept; a loss of NaN is no better than any
        if validation is None or epoch == 0 or valid_loss < best:
            best, best_epoch, weights = np.fmin(best, valid_loss), epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= config.patience:
            break
    network.load_state_dict(weights)
    return pd.DataFrame(rows)


class Matcher(nn.Module):
    """A network that judges pairs of documents: `encode` reads each document once, `score` judges encoded pairs.

    `encode(side, token_ids, …)` gives tensors `[documents, …]` of documents of one side.
    """

    encode: Callable[..., Encoded]

    @abstractmethod
    def score(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits `[n]` of n pairs: the first resume with the first job, the second with the second, …"""

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits `[n]` of n pairs of inputs."""
        return self.score(self.encode("resume", *resumes), self.encode("job", *jobs))

    def loss(self, resumes: Encoded, jobs: Encoded, labels: Tensor) -> Tensor:
        """Binary cross-entropy of encoded pairs."""
        return F.binary_cross_entropy_with_logits(self.score(resumes, jobs), labels)


class PairMatcher(Ranker):
    """Base of the neural matchers, which say how to `build` the network and what its `inputs` are.

    `history`: one row an epoch with `epoch, loss, valid_loss`. Scores are logits, the same for both targets.
    """

    unit: Unit = "lines"
    config: PairTraining
    network: Matcher
    history: pd.DataFrame

    @abstractmethod
    def build(self) -> Matcher:
        """A new network; called under the seed."""

    def inputs(self, corpus: Corpus, side: Side) -> Encoded:
        """What the network reads of every document of a side."""
        return (self.documents(corpus, side).ids,)

    def documents(self, corpus: Corpus, side: Side) -> TokenizedDocuments:
        """Every document of a side, cut into this matcher's pieces."""
        limits = {"max_pieces": self.config.max_pieces, "max_tokens": self.config.max_tokens}
        return TokenizedDocuments(corpus, side, self.unit, hyre=self.config.hyre, **limits)

    def learn(self, corpus: Corpus) -> Self:
        """Train on the pairs of the training split; the last epoch is kept if there are no validation pairs."""
        training, validation = PairBatches(corpus, "train", self.config), None
        try:
            validation = PairBatches(corpus, "valid", self.config).epoch
        except ValueError as error:
            warnings.warn(f"the last epoch is kept, because {error}", stacklevel=3)
        loss = partial(self.loss, inputs={side: self.inputs(corpus, side) for side in SIDES})
        with torch.random.fork_rng():  # initial weights and dropout come from the seed, and nobody else's draws change
            torch.manual_seed(self.config.seed)
            self.network = self.build().to(device())
            self.history = fit_network(self.network, self.config, loss, training.epoch, validation, self.name)
        return self

    def loss(self, batch: JudgedPairs, inputs: dict[Side, Encoded]) -> Tensor:
        """The training loss of one batch."""
        resumes, jobs = self.encode_pairs(batch, inputs)
        return self.network.loss(resumes, jobs, torch.from_numpy(batch.labels).to(device()))

    def encode_pairs(self, pairs: JudgedPairs, inputs: dict[Side, Encoded]) -> list[Encoded]:
        """Encoded resumes and jobs of pairs, aligned; each document is encoded once."""
        encoded = []
        for side in SIDES:
            documents, places = np.unique(pairs.rows[side], return_inverse=True)
            encoded.append(at(self.network.encode(side, *at(inputs[side], documents)), places))
        return encoded

    def index(self, corpus: Corpus) -> Self:
        """Encode every document once."""
        self.corpus, self._encoded = corpus, {}
        self._last: tuple[tuple[bytes, bytes], Scores] | None = None
        for side in SIDES:
            inputs, rows = self.inputs(corpus, side), np.arange(len(corpus.documents(side)))
            blocks = np.split(rows, range(ENCODED_AT_ONCE, len(rows), ENCODED_AT_ONCE))
            bar = tqdm(blocks, desc=f"{self.name}: encode {side}s", unit="block", delay=2)
            with torch.inference_mode():
                parts = [self.network.encode(side, *at(inputs, block)) for block in bar]
            self._encoded[side] = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return self

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Logits of every pair; the last matrix is kept, for both targets ask for the same one."""
        resumes, jobs = self.corpus.positions("resume", resume_ids), self.corpus.positions("job", job_ids)
        key = (resumes.tobytes(), jobs.tobytes())
        if self._last is None or self._last[0] != key:
            scores = self._score(np.repeat(resumes, len(jobs)), np.tile(jobs, len(resumes)))
            self._last = (key, scores.reshape(len(resumes), len(jobs)))
        return self._last[1].copy()

    def score_pairs(self, resume_ids: Iterable[str], job_ids: Iterable[str]) -> Scores:
        """Logits of the given pairs."""
        return self._score(self.corpus.positions("resume", resume_ids), self.corpus.positions("job", job_ids))

    @torch.inference_mode()
    def _score(self, resumes: Rows, jobs: Rows) -> Scores:
        """Logits of aligned rows, block by block."""
        scores = np.empty(len(resumes), dtype=np.float32)
        for start in tqdm(range(0, len(scores), SCORED_AT_ONCE), desc=f"{self.name}: score", unit="block", delay=2):
            block = slice(start, start + SCORED_AT_ONCE)
            pairs = at(self._encoded["resume"], resumes[block]), at(self._encoded["job"], jobs[block])
            scores[block] = self.network.score(*pairs).cpu().numpy()
        return scores

    @property
    def n_parameters(self) -> int:
        """The trained weights of the network."""
        return trained_weights(self.network)
