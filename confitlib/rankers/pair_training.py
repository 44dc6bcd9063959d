"""What all pair models share: documents as token ids, labelled pairs with sampled negatives, and one training loop."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal, Self, TypeVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn, optim
from tqdm.auto import tqdm

from confitlib.corpus import HYRE, SIDES, Corpus, Side, Split, known_positive_mask
from confitlib.encoder import TextEncoder, load_encoder
from confitlib.mining.strategies import codes_at
from confitlib.rankers.base import Ranker, Rows, Scores, trained_weights
from confitlib.text import sentences, texts
from confitlib.util import check_range

Unit = Literal["lines", "fields", "document"]
Encoded = tuple[Tensor, ...]  # what a network knows of documents: tensors whose first dimension is theirs
Batch = TypeVar("Batch")
Batches = Callable[[np.random.Generator], Iterable[Batch]]  # an epoch, from its random generator
PAD = 0  # the tokenizer's id of [PAD]
MAX_GRAD_NORM = 10.0  # as in the code of InEXIT and in ConFit's port of MV-CoN
ENCODED_AT_ONCE = SCORED_AT_ONCE = 256  # documents


@cache
def static_encoder() -> TextEncoder:
    """The offline token vectors with their tokenizer, loaded once and never trained."""
    return load_encoder("static", device="cpu").requires_grad_(False)


def device() -> torch.device:
    """CUDA if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def at(encoded: Encoded, rows: Rows) -> Encoded:
    """The documents in these rows, on the device."""
    return tuple(tensor[torch.from_numpy(rows).to(tensor.device)].to(device()) for tensor in encoded)


@dataclass(frozen=True)
class PairTraining:
    """How a pair model is trained and what it reads; each matcher names its own defaults.

    `rejections`: learn from labelled rejections; `sampled`: negatives made for each accepted pair of a batch.
    `patience`: epochs without a better validation loss before training stops; the best epoch is kept.
    `max_pieces`, `max_tokens`: how much is read of a document (`token_ids`); `hyre`: read hypothetical
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
        if not self.rejections and not self.sampled:
            raise ValueError("rejections=False and sampled=0 leave no negative: sample at least one")


def token_ids(corpus: Corpus, side: Side, unit: Unit, config: PairTraining) -> tuple[Tensor, list[str]]:
    """Token ids of every document of a side, cut into pieces, `[documents, pieces, tokens]`, 0 where none is.

    A piece is a line or sentence ("lines"), a field ("fields", in column order, empty ones included) or all the text
    ("document"). Of a document `max_pieces` are read and of a piece `max_tokens`, except that a longer line goes on in
    the next piece. `hyre` adds the hypothetical resume of a job. Returns the ids and the columns that were read.
    """
    # 1. the texts of all pieces, document by document
    frame, longest = corpus.documents(side), config.max_tokens
    columns = [*corpus.fields(side), *([HYRE] if config.hyre and HYRE in frame.columns else [])]
    if unit == "document":
        pieces = [[text] for text in texts(corpus, side, config.hyre)]
    else:
        pieces = frame[columns].astype("str").fillna("").to_numpy().tolist()
    if unit == "lines":
        pieces = [[line for value in values for line in sentences(value)] for values in pieces]
    # 2. their token ids; the encoder remembers those of texts that recur
    documents = []
    for document in pieces:
        ids = static_encoder().tokenize(document)
        if unit == "lines":
            ids = [line[start : start + longest] for line in ids for start in range(0, len(line), longest)]
        documents.append([piece[:longest] for piece in ids[: config.max_pieces]])
    # 3. one array, no larger than the longest document and piece need
    width = max((len(piece) for document in documents for piece in document), default=1)
    padded = np.full((len(documents), max(map(len, documents), default=1) or 1, width or 1), PAD, dtype=np.int32)
    for row, document in enumerate(documents):
        for place, piece in enumerate(document):
            padded[row, place, : len(piece)] = piece
    return torch.from_numpy(padded), columns


def judged_pairs(corpus: Corpus, split: Split, label: int | None = None) -> pd.DataFrame:
    """The labelled pairs of a split: row numbers of their documents, `resume` and `job`, and `label` (1 or 0).

    Raises ValueError unless some pairs of the split are accepted.
    """
    if corpus.labelled(split, 1).empty:
        raise ValueError(f"corpus {corpus.name!r} has no accepted pair in split {split!r}: nothing to learn from")
    table = corpus.labelled(split, label)
    rows = {side: corpus.positions(side, table[f"{side}_id"]) for side in SIDES}
    return pd.DataFrame(rows).assign(label=table["label"].to_numpy(np.float32))


def redraw(
    pairs: pd.DataFrame, side: Side, pool: Rows, count: int, known: csr_array, rng: np.random.Generator
) -> pd.DataFrame:
    """`count` copies of each pair, with a document drawn from a pool on one side.

    `known`: `known_positive_mask` of the jobs; pairs that it marks get label 1 and all others 0.
    """
    drawn = pairs.iloc[np.repeat(np.arange(len(pairs)), count)].reset_index(drop=True)
    drawn[side] = pool[rng.integers(0, len(pool), len(drawn))]
    positive = codes_at(known, drawn["resume"].to_numpy(), drawn["job"].to_numpy()) > 0
    return drawn.assign(label=positive.astype(np.float32))


def sample_negatives(
    pairs: pd.DataFrame, pools: dict[Side, Rows], count: int, known: csr_array, rng: np.random.Generator
) -> pd.DataFrame:
    """Up to `count` negatives of each pair: a fair coin says which of its documents is redrawn from its pool.

    Known positives, with their copies and duplicates, are left out.
    """
    resumes, jobs = (redraw(pairs, side, pools[side], count, known, rng) for side in SIDES)
    takes_job = rng.random(len(jobs)) < 0.5
    drawn = pd.concat([resumes[~takes_job], jobs[takes_job]]).sort_index()
    return drawn[drawn["label"] == 0]


def sampled_pairs(corpus: Corpus, split: Split, random: int = 7, hard: int = 1, seed: int = 0) -> pd.DataFrame:
    """Every accepted pair of a split with `random` made negatives and `hard` labelled rejections of its own.

    A made negative draws its other document from the split. A rejection shares the job of its pair, or else the
    resume; pairs without one have none. 7 and 1 are those of ConFit v1's tree ablation (README of jasonyux/ConFit).
    Raises ValueError for a split without accepted pairs or for sampling that leaves no negative.
    """
    # 1. accepted pairs, and negatives made from each
    rng = np.random.default_rng((seed, 0))
    accepted, rejected = (judged_pairs(corpus, split, label) for label in (1, 0))
    pools = {side: corpus.positions(side, corpus.pool(side, split)) for side in SIDES}
    made = sample_negatives(accepted, pools, random, known_positive_mask(corpus, "job"), rng)
    # 2. rejections of its own for each, by the job or else by the resume
    by_job, by_resume = (rejected.groupby(side).indices for side in ("job", "resume"))
    own = [by_job.get(pair.job, by_resume.get(pair.resume, [])) for pair in accepted.itertuples()]
    drawn = [place for places in own for place in rng.choice(places, min(hard, len(places)), replace=False)]
    pairs = pd.concat([accepted, made, rejected.iloc[drawn]], ignore_index=True)
    if pairs["label"].all():
        raise ValueError(f"corpus {corpus.name!r} has no negative pair in split {split!r}: sample more negatives")
    return pairs


def pair_batches(corpus: Corpus, split: Split, config: PairTraining) -> Batches[pd.DataFrame]:
    """The judged pairs of a split in batches that keep the pairs of a job together, so that few jobs are encoded.

    For each accepted pair, `sampled` times another pair of the batch lends its resume or its job to make a negative.
    Raises ValueError for a split without what this needs.
    """
    pairs, known = judged_pairs(corpus, split, None if config.rejections else 1), known_positive_mask(corpus, "job")
    if config.rejections and pairs["label"].all():
        remedy = "set rejections=False in PairTraining to learn from accepted pairs and sampled negatives"
        raise ValueError(f"corpus {corpus.name!r} has no rejected pair in split {split!r}: {remedy}")

    def epoch(rng: np.random.Generator) -> Iterator[pd.DataFrame]:
        """All batches in random order of the jobs and of each job's pairs."""
        # 1. the jobs in random order, and each one's pairs in random order
        job_order = rng.permutation(known.shape[1])[pairs["job"]]
        order = np.lexsort((rng.random(len(pairs)), job_order))
        # 2. cut into batches; negatives are made within a batch
        for start in range(0, len(order), config.batch_size):
            batch = pairs.iloc[order[start : start + config.batch_size]]
            pools = {side: batch[side].to_numpy() for side in SIDES}
            made = sample_negatives(batch[batch["label"] == 1], pools, config.sampled, known, rng)
            yield pd.concat([batch, made], ignore_index=True)

    return epoch


def train_epoch(
    network: nn.Module, optimizer: optim.Optimizer, batches: Iterable[Batch], loss: Callable[[Batch], Tensor]
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
    optimizer: optim.Optimizer | None = None,
) -> pd.DataFrame:
    """Train with AdamW and keep the epoch with the lowest validation loss, the last one without validation.

    `training`, `validation`: the batches of an epoch from a generator, which for validation is always the same.
    `optimizer`: takes the place of AdamW.
    Returns one row an epoch: `epoch, loss, valid_loss`.
    """
    optimizer = optimizer or optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
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
    """A network in two steps: `encode` reads every document once, `forward` judges pairs of encoded documents.

    `encode(side, token_ids, …)` gives tensors `[documents, …]` of one side. `forward(resumes, jobs)` gives the logits
    `[n]` of n pairs: the first resume with the first job, the second with the second, …
    """

    encode: Callable[..., Encoded]
    compare: nn.Module  # logits of two vectors

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits of pairs; here of documents that are a vector each."""
        return self.compare(resumes[0], jobs[0])

    def loss(self, resumes: Encoded, jobs: Encoded, labels: Tensor) -> Tensor:
        """Binary cross-entropy of encoded pairs."""
        return F.binary_cross_entropy_with_logits(self(resumes, jobs), labels)


@dataclass(eq=False, repr=False, kw_only=True)
class PairMatcher(Ranker):
    """Base of the neural matchers, each of which is a network (`architecture`) and a few declarations.

    `unit`: the pieces of a document that the network reads. `history`: one row an epoch with
    `epoch, loss, valid_loss`. Scores are logits, the same for both targets.
    """

    config: PairTraining = PairTraining()
    architecture: ClassVar[type[Matcher]]
    unit: ClassVar[Unit] = "lines"

    def build(self) -> Matcher:
        """A new network; called under the seed."""
        return self.architecture()

    def inputs(self, corpus: Corpus, side: Side) -> Encoded:
        """What the network reads of every document of a side."""
        return token_ids(corpus, side, self.unit, self.config)[:1]

    def learn(self, corpus: Corpus) -> Self:
        """Train on the pairs of the training split; the last epoch is kept if there are no validation pairs."""
        # 1. the pairs, and what is read of every document
        training, validation = pair_batches(corpus, "train", self.config), None
        try:
            validation = pair_batches(corpus, "valid", self.config)
        except ValueError as error:
            warnings.warn(f"the last epoch is kept, because {error}", stacklevel=3)
        self._read = corpus, {side: self.inputs(corpus, side) for side in SIDES}
        # 2. the network; initial weights and dropout come from the seed, and nobody else's draws change
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            self.network = self.build().to(device())
            self.history = fit_network(self.network, self.config, self.loss, training, validation, self.name)
        self.n_parameters = trained_weights(self.network)
        return self

    def loss(self, batch: pd.DataFrame) -> Tensor:
        """The training loss of one batch."""
        return self.network.loss(*self.encode_pairs(batch))

    def encode_pairs(self, pairs: pd.DataFrame) -> tuple[Encoded, Encoded, Tensor]:
        """Encoded resumes and jobs of pairs and their labels, aligned; each document is encoded once."""
        encoded = []
        for side in SIDES:
            documents, places = np.unique(pairs[side], return_inverse=True)
            encoded.append(at(self.network.encode(side, *at(self._read[1][side], documents)), places))
        return encoded[0], encoded[1], torch.from_numpy(pairs["label"].to_numpy(copy=True)).to(device())

    def prepare(self, corpus: Corpus) -> None:
        """Encode every document once."""
        self._encoded = {}
        self._last: dict[tuple[bytes, bytes], Scores] = {}
        learnt_from, read = self.__dict__.pop("_read", (None, {}))  # `fit` need not read the corpus twice
        # a block of documents at a time
        for side in SIDES:
            inputs = read[side] if learnt_from is corpus else self.inputs(corpus, side)
            blocks = list(zip(*(tensor.split(ENCODED_AT_ONCE) for tensor in inputs), strict=True))
            bar = tqdm(blocks, desc=f"{self.name}: encode {side}s", unit="block", delay=2)
            with torch.inference_mode():
                parts = [self.network.encode(side, *(part.to(device()) for part in block)) for block in bar]
            self._encoded[side] = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    @torch.inference_mode()
    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Logits of every pair; the last matrix is kept, for both targets ask for the same one."""
        rows = self.rows(resume_ids, job_ids)
        key = (rows["resume"].tobytes(), rows["job"].tobytes())
        if key not in self._last:
            scores = np.empty((len(rows["resume"]), len(rows["job"])), dtype=np.float32)
            # a block of resumes at a time, beside each job in turn
            starts = range(0, len(scores), SCORED_AT_ONCE)
            for start in tqdm(starts, desc=f"{self.name}: score", unit="block", delay=2):
                block = slice(start, start + SCORED_AT_ONCE)
                resumes = at(self._encoded["resume"], rows["resume"][block])
                for column, row in enumerate(rows["job"]):  # expanded, a job is a view beside all resumes, not a copy
                    jobs = tuple(one[row].expand(len(resumes[0]), *one.shape[1:]) for one in self._encoded["job"])
                    scores[block, column] = self.network(resumes, jobs).cpu().numpy()
            self._last = {key: scores}
        return self._last[key].copy()
