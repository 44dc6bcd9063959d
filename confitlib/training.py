"""Contrastive training of the dual encoder: the two-sided loss, its batches, and a Trainer that resumes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from confitlib.cache import code_hash, content_key
from confitlib.corpus import SIDES, Corpus, Side, Split, other
from confitlib.encoder import TextEncoder, load_encoder
from confitlib.mining import Negatives
from confitlib.text import texts

Validator = Callable[[TextEncoder], Mapping[str, float]]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a training run; the defaults suit the static encoder on the laptop market.

    `mode`: "full", "adapter" (a linear layer on cached embeddings), or k to train the top k layers.
    `negatives_per_pair`: hard negatives drawn anew each epoch for a pair, on each side.
    `negatives_per_batch`: cap of each side's hard negatives in a batch (official: 2), or None.
    `official`: the released loss, in which every other document of the batch is a negative
    (confit.py:667-696); otherwise known positives are masked.
    `best_metric`: validation value that picks the checkpoint: "loss", or a name the validator returns
    (higher is better).
    """

    mode: Literal["full", "adapter"] | int = "full"
    epochs: int = 4
    batch_size: int = 4
    gradient_accumulation: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 10.0
    temperature: float = 0.05
    lambda_: float = 0.5
    normalize: bool = True
    negatives_per_pair: int = 1
    negatives_per_batch: int | None = None
    official: bool = False
    best_metric: str = "loss"
    seed: int = 0


# --- loss ---------------------------------------------------------------------------------------------


def contrastive_loss(
    resumes: Tensor,
    jobs: Tensor,
    negative_resumes: Tensor | None = None,
    negative_jobs: Tensor | None = None,
    *,
    masked_jobs: Tensor | None = None,
    masked_resumes: Tensor | None = None,
    temperature: float = 0.05,
    lambda_: float = 0.5,
    normalized: bool = True,
    official: bool = False,
) -> Tensor:
    """The two-sided loss `lambda_ * L_r2j + (1 - lambda_) * L_j2r` over a batch of B matching pairs.

    `resumes`, `jobs`: `[B, d]`, row i of one matches row i of the other. `negative_resumes`,
    `negative_jobs`: `[H, d]` hard negatives shared by all anchors of the batch. `masked_jobs`
    `[B, B + H_jobs]` and `masked_resumes` `[B, B + H_resumes]` mark candidates that are known positives
    of the anchor and must not count as negatives; `official=True` ignores them and turns a NaN loss
    into zero. Source: ConFit v2 loss, confit.py:compute_coarsegrained_loss_dist.
    """
    job_candidates = jobs if negative_jobs is None else torch.cat([jobs, negative_jobs])
    resume_candidates = resumes if negative_resumes is None else torch.cat([resumes, negative_resumes])
    if normalized:
        job_candidates, resume_candidates = normalize(job_candidates, dim=-1), normalize(resume_candidates, dim=-1)
        resumes, jobs = resume_candidates[: len(resumes)], job_candidates[: len(jobs)]
    if official:
        masked_jobs = masked_resumes = None
    r2j = info_nce(resumes, job_candidates, temperature, masked_jobs)
    j2r = info_nce(jobs, resume_candidates, temperature, masked_resumes)
    loss = lambda_ * r2j + (1 - lambda_) * j2r
    return loss.nan_to_num() if official else loss


def info_nce(anchors: Tensor, candidates: Tensor, temperature: float, masked: Tensor | None = None) -> Tensor:
    """InfoNCE: anchor i `[B, d]` must pick candidate i among all candidates `[B + H, d]` it is not masked from."""
    scores = anchors @ candidates.T / temperature
    if masked is not None:
        scores = scores.masked_fill(masked, -torch.inf)
    return cross_entropy(scores, torch.arange(len(anchors), device=anchors.device))


# --- batches ------------------------------------------------------------------------------------------


class PositivePairs(torch.utils.data.Dataset):
    """The positive pairs of a split, each with hard negatives drawn by (seed, epoch, pair).

    Documents are row numbers of the corpus frames, so a draw does not depend on anything drawn before:
    an interrupted run continues with the same negatives.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: Split,
        negatives: Mapping[Side, Negatives] | None = None,
        per_pair: int = 1,
        seed: int = 0,
    ) -> None:
        labels = corpus.labelled(split, 1)
        if labels.empty:
            raise ValueError(f"corpus {corpus.name!r} has no accepted pair in split {split!r}: nothing to learn from")
        self.rows = {side: corpus.positions(side, labels[f"{side}_id"]) for side in SIDES}
        self.negatives = {side: _pools(corpus, side, (negatives or {}).get(side)) for side in SIDES}
        self.per_pair, self.seed, self.epoch = per_pair, seed, 0

    def __len__(self) -> int:
        return len(self.rows["resume"])

    def __getitem__(self, pair: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, self.epoch, pair))
        item: dict[str, Any] = {side: int(self.rows[side][pair]) for side in SIDES}
        for side in SIDES:
            pool = self.negatives[side].get(item[other(side)], _EMPTY)
            item[f"negative_{side}s"] = rng.choice(pool, min(self.per_pair, len(pool)), replace=False)
        return item


_EMPTY = np.empty(0, dtype=np.intp)


def _pools(corpus: Corpus, side: Side, negatives: Negatives | None) -> dict[int, NDArray[np.intp]]:
    """Hard negatives of a side by query row."""
    if negatives is None:
        return {}
    if negatives.target != side:
        raise ValueError(f"negatives for {side}s hold {negatives.target}s: pass them under {negatives.target!r}")
    table = negatives.table
    rows = corpus.positions(side, table["negative_id"])
    queries = corpus.positions(other(side), table["query_id"])
    order = np.argsort(queries, kind="stable")
    starts = np.flatnonzero(np.diff(queries[order], prepend=-1))
    return {
        int(queries[order[start]]): part for start, part in zip(starts, np.split(rows[order], starts[1:]), strict=True)
    }


class DocumentStore:
    """Model inputs of every document of a side, prepared once: token ids, or vectors in adapter mode."""

    def __init__(
        self, encoder: TextEncoder, corpus: Corpus, side: Side, frozen: bool, cache: Path | None = None
    ) -> None:
        self.encoder, documents = encoder, list(texts(corpus, side))
        if frozen:
            self.vectors: Tensor | None = torch.from_numpy(encoder.embed_frozen(documents, cache=cache))
        else:
            self.vectors, self.tokens = None, encoder.tokenize(documents)

    def features(self, rows: Sequence[int] | NDArray[np.intp]) -> dict[str, Tensor]:
        """Encoder inputs for the given documents, padded to the longest of them."""
        if self.vectors is not None:
            return {"vectors": self.vectors[torch.as_tensor(np.asarray(rows))]}
        return self.encoder.collate([self.tokens[row] for row in rows])


class PairCollator:
    """Turns positive pairs into one batch: both sides' documents, positives first, and the masks.

    A candidate is masked for an anchor when the pair is a known positive, or when it carries the same
    text as the anchor's own positive; the anchor's own positive never is.
    """

    def __init__(self, stores: Mapping[Side, DocumentStore], corpus: Corpus, negatives_per_batch: int | None) -> None:
        self.stores, self.cap = stores, negatives_per_batch
        self.same_text = {side: _first_with_text(texts(corpus, side)) for side in SIDES}
        known = corpus.known_positives().tocoo()
        self.n_jobs = len(corpus.jobs)
        self.known = np.unique(self._pair_keys(*(rows.astype(np.intp) for rows in known.coords)))

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        rows = {side: np.array([item[side] for item in items]) for side in SIDES}
        everything = {side: self._candidates(rows[side], items, side) for side in SIDES}
        return {
            "resumes": self.stores["resume"].features(everything["resume"]),
            "jobs": self.stores["job"].features(everything["job"]),
            "masked_jobs": self._mask("job", rows, everything["job"]),
            "masked_resumes": self._mask("resume", rows, everything["resume"]),
        }

    def _candidates(self, rows: NDArray[np.intp], items: list[dict[str, Any]], side: Side) -> NDArray[np.intp]:
        negatives = np.concatenate([item[f"negative_{side}s"] for item in items]).astype(np.intp)
        return np.concatenate([rows, negatives[: self.cap]])

    def _mask(self, side: Side, rows: Mapping[Side, NDArray[np.intp]], candidates: NDArray[np.intp]) -> Tensor:
        anchors = rows[other(side)][:, None]
        pairs = self._pair_keys(anchors, candidates) if side == "job" else self._pair_keys(candidates, anchors)
        same = self.same_text[side]
        masked = _contains(self.known, pairs) | (same[candidates] == same[rows[side]][:, None])
        np.fill_diagonal(masked, False)
        return torch.from_numpy(masked)

    def _pair_keys(self, resumes: NDArray[np.intp], jobs: NDArray[np.intp]) -> NDArray[np.int64]:
        resume_keys = self.same_text["resume"][resumes].astype(np.int64)
        return resume_keys * self.n_jobs + self.same_text["job"][jobs]


def _first_with_text(documents: pd.Series) -> NDArray[np.intp]:
    """For every row, the first row that carries the same text."""
    codes, _ = pd.factorize(documents.str.strip())
    first = np.unique(codes, return_index=True)[1]
    return first[codes]


def _contains(sorted_keys: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    if not len(sorted_keys):
        return np.zeros(keys.shape, dtype=bool)
    places = np.searchsorted(sorted_keys, keys).clip(max=len(sorted_keys) - 1)
    return sorted_keys[places] == keys


# --- training -----------------------------------------------------------------------------------------


class DualEncoder(nn.Module):
    """One shared encoder applied to both sides of a batch, in one forward call."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, resumes: dict[str, Tensor], jobs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings of both sides' documents, un-normalised."""
        return self.encoder(resumes), self.encoder(jobs)


class ContrastiveTrainer(Trainer):
    """`transformers.Trainer` with the two-sided loss, sparse updates and an optional ranking validator."""

    def __init__(self, *args: Any, config: TrainingConfig, validator: Validator | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config, self.validator = config, validator
        self.can_return_loss = True  # evaluation has no label column: the batch itself defines the loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The contrastive loss of one batch."""
        resumes, jobs = model(inputs["resumes"], inputs["jobs"])
        pairs = len(inputs["masked_jobs"])
        loss = contrastive_loss(
            resumes[:pairs],
            jobs[:pairs],
            resumes[pairs:],
            jobs[pairs:],
            masked_jobs=inputs["masked_jobs"],
            masked_resumes=inputs["masked_resumes"],
            temperature=self.config.temperature,
            lambda_=self.config.lambda_,
            normalized=self.config.normalize,
            official=self.config.official,
        )
        return (loss, {"resumes": resumes, "jobs": jobs}) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """The validation loss of one batch; embeddings are not kept."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        """SparseAdam where only the tokens of a batch change, else the Trainer's AdamW."""
        if not self._sparse:
            return super().create_optimizer(*args)
        trained = [parameter for parameter in self.model.encoder.backbone.parameters() if parameter.requires_grad]
        self.optimizer: torch.optim.Optimizer = torch.optim.SparseAdam(trained, lr=self.args.learning_rate)
        return self.optimizer

    @property
    def _sparse(self) -> bool:
        """Whether gradients are sparse: the static encoder's own parameters are being trained."""
        return bool(self.model.encoder.sparse_parameters)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # torch has no norm of sparse gradients, and the Trainer asks for one even when it does not clip
        return None if self._sparse else super()._get_grad_norm(model, grad_norm)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Validation loss and the validator's metrics, logged together."""
        metrics = super().evaluate(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.validator is not None:
            extra = {f"{metric_key_prefix}_{name}": value for name, value in self.validator(self.model.encoder).items()}
            metrics.update(extra)
            self.log(extra)
        return metrics


class _EpochCallback(TrainerCallback):
    """Tells the dataset which epoch it is, after a resume as well."""

    def __init__(self, pairs: PositivePairs) -> None:
        self.pairs = pairs

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.pairs.epoch = int(state.epoch or 0)


@dataclass(frozen=True)
class TrainingResult:
    """A trained encoder, its training log (one row a logged step) and the wall time in seconds."""

    encoder: TextEncoder
    history: pd.DataFrame
    seconds: float
    config: TrainingConfig = field(repr=False)

    def save(self, folder: Path) -> None:
        """Write the encoder (Sentence-Transformers layout) and, last, the log beside it."""
        self.encoder.save(folder)
        self.history.to_json(folder / "history.jsonl", orient="records", lines=True)
        (folder / "training.json").write_text(json.dumps({"seconds": self.seconds, "config": asdict(self.config)}))

    @classmethod
    def load(cls, folder: Path) -> TrainingResult:
        """Read what `save` wrote."""
        saved = json.loads((folder / "training.json").read_text())
        history = pd.read_json(folder / "history.jsonl", lines=True)
        return cls(load_encoder(str(folder)), history, saved["seconds"], TrainingConfig(**saved["config"]))


def train(
    encoder: TextEncoder,
    corpus: Corpus,
    config: TrainingConfig | None = None,
    negatives: Mapping[Side, Negatives] | None = None,
    *,
    output_dir: Path | None = None,
    cache: Path | None = None,
    validator: Validator | None = None,
    progress: bool = True,
) -> TrainingResult:
    """Train `encoder` in place on the accepted training pairs and return it at its best validation epoch.

    `negatives`: hard negatives by target side: mined (ConFit v2) or labelled rejections (ConFit v1);
    None trains with in-batch negatives only. With `output_dir`, checkpoints are kept there and a rerun
    resumes from the last one, ending in the same weights as an uninterrupted run. `cache` keeps the
    embeddings that an adapter is trained on.
    """
    config = config or TrainingConfig()
    _set_trainable(encoder, config.mode)
    stores = {side: DocumentStore(encoder, corpus, side, config.mode == "adapter", cache) for side in SIDES}
    pairs = PositivePairs(corpus, "train", negatives, config.negatives_per_pair, config.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = output_dir or Path(scratch)
        trainer = ContrastiveTrainer(
            DualEncoder(encoder),
            _arguments(config, encoder, folder, len(pairs), resumable=output_dir is not None, progress=progress),
            config=config,
            validator=validator,
            train_dataset=pairs,
            eval_dataset=PositivePairs(corpus, "valid"),
            data_collator=PairCollator(stores, corpus, config.negatives_per_batch),
            callbacks=[_EpochCallback(pairs)],
        )
        trainer.remove_callback(PrinterCallback)  # the log is in the result; without a bar it would be printed
        with _threads(1 if encoder.sparse_parameters or config.mode == "adapter" else None):
            outcome = trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")))
    encoder.eval()
    return TrainingResult(encoder, _history(trainer), outcome.metrics["train_runtime"], config)


def train_once(
    encoder_name: str,
    corpus: Corpus,
    config: TrainingConfig,
    negatives: Mapping[Side, Negatives] | None = None,
    *,
    cache: Path,
    max_length: int | None = None,
    **options: Any,
) -> TrainingResult:
    """`train`, unless the same run (weights, data, settings, negatives and code) is already in the cache."""
    encoder = load_encoder(encoder_name, max_length=max_length, seed=config.seed)
    mined = {side: negatives[side].fingerprint() for side in negatives} if negatives else {}
    parts = {"weights": encoder.weight_hash(), "data": corpus.fingerprint(), "config": asdict(config)}
    folder = cache / content_key(**parts, negatives=mined, code=code_hash())
    if not (folder / "training.json").exists():
        train(encoder, corpus, config, negatives, cache=cache / "embeddings", **options).save(folder)
    return TrainingResult.load(folder)


@contextmanager
def _threads(limit: int | None) -> Iterator[None]:
    """Run on so many threads: small matrices gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(limit or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _set_trainable(encoder: TextEncoder, mode: Literal["full", "adapter"] | int) -> None:
    if mode == "adapter" and encoder.adapter is None:
        encoder.add_adapter()
    encoder.freeze("all" if mode == "full" else mode)
    if mode == "full" and encoder.adapter is not None and encoder.sparse_parameters:
        raise ValueError("a static encoder with an adapter mixes sparse and dense gradients: use mode='adapter'")


def _arguments(
    config: TrainingConfig, encoder: TextEncoder, folder: Path, n_pairs: int, *, resumable: bool, progress: bool
) -> TrainingArguments:
    steps = max(1, n_pairs // (config.batch_size * config.gradient_accumulation)) * config.epochs
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=32,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        warmup_steps=int(config.warmup * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=0.0 if encoder.sparse_parameters else config.max_grad_norm,
        bf16=encoder.device.type == "cuda",
        use_cpu=encoder.device.type == "cpu",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        save_only_model=not resumable,
        load_best_model_at_end=True,
        metric_for_best_model=config.best_metric,
        greater_is_better=config.best_metric != "loss",
        logging_steps=max(1, steps // 100),
        remove_unused_columns=False,
        dataloader_pin_memory=encoder.device.type == "cuda",
        report_to="none",
        log_level="error",
        disable_tqdm=not progress,
        seed=config.seed,
        data_seed=config.seed,
    )


def _history(trainer: Trainer) -> pd.DataFrame:
    """The training log: step, epoch, loss, validation values and learning rate."""
    log = pd.DataFrame(trainer.state.log_history)
    return log.drop(columns=[column for column in log.columns if column.startswith("train_")])
