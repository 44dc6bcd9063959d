"""Training runs: their settings, a Trainer that resumes, and what comes out."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from confitlib.cache import code_hash, content_key
from confitlib.corpus import SIDES, Corpus, Side
from confitlib.encoder import StaticBackbone, TextEncoder, load_encoder
from confitlib.mining import Negatives
from confitlib.training.batches import DocumentStore, LengthGroupedSampler, PairCollator, PositivePairs, WholeBatches
from confitlib.training.gather import gather_parts, part_sizes, process
from confitlib.training.loss import contrastive_loss
from confitlib.training.optimizer import RowAdam
from confitlib.training.refresh import Refresh, RefreshCallback

MASKS = ("masked_jobs", "masked_resumes")
DECIDES = ("corpus", "text", "encoder", "mining", "training")  # the modules that decide a training's outcome
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
    `chunk`: documents embedded at a time. Activations of one chunk alone are kept, whatever the batch, at the price
    of a second forward pass; the gradients stay those of the whole batch (Gao et al. 2021, gradient caching).
    `group_by_length`: batches of pairs of similar length. `gradient_checkpointing`: a transformer keeps the inputs
    of its layers alone and computes the rest again. `compile`: fuse a transformer's operations with
    `torch.compile`, which takes a minute at first and needs a C++ compiler.
    With several processes, `batch_size` and `negatives_per_batch` count those of each (docs/training.md).
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
    chunk: int | None = None
    group_by_length: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk={self.chunk} must be at least 1, or None to embed a batch at once")


class DualEncoder(nn.Module):
    """One shared encoder applied to both sides of a batch, in one forward call.

    Documents are embedded part by part. With `again`, no activations are kept: the backward pass embeds each part
    again, with the same dropout, and back-propagates it before the next.
    """

    def __init__(self, encoder: TextEncoder, again: bool = False, compiled: bool = False) -> None:
        super().__init__()
        self.encoder, self.again = encoder, again
        self.compiled = torch.compile(encoder.forward, dynamic=True) if compiled else None

    def forward(self, resumes: dict[str, Any], jobs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Embeddings of both sides' documents, un-normalised."""
        return self._embed(resumes), self._embed(jobs)

    def _embed(self, features: dict[str, Any]) -> Tensor:
        embed = self.compiled or self.encoder
        if self.again:
            embed = partial(checkpoint, embed, use_reentrant=False)
        return torch.cat([embed(part) for part in features["parts"]])[features["places"]]


class ContrastiveTrainer(Trainer):
    """`transformers.Trainer` with the two-sided loss, sparse updates and an optional ranking validator."""

    def __init__(self, *args: Any, config: TrainingConfig, validator: Validator | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config, self.validator = config, validator
        self.can_return_loss = True  # evaluation has no label column: the batch itself defines the loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The contrastive loss of one batch, in training that of all processes together."""
        resumes, jobs = model(inputs["resumes"], inputs["jobs"])
        parts, masks = self._parts(inputs, resumes, jobs), {name: inputs[name] for name in MASKS}
        if self.args.world_size > 1 and model.training:
            parts, masks = self._gathered(inputs, parts)
        loss = contrastive_loss(
            *parts,
            **masks,
            temperature=self.config.temperature,
            lambda_=self.config.lambda_,
            normalized=self.config.normalize,
            official=self.config.official,
        )
        return (loss, {"resumes": resumes, "jobs": jobs}) if return_outputs else loss

    @staticmethod
    def _parts(inputs: dict[str, Any], resumes: Tensor, jobs: Tensor) -> list[Tensor]:
        """Resumes and jobs of the pairs, hard negative resumes and jobs."""
        pairs, n_resumes, n_jobs = (len(inputs[name]) for name in ("masked_jobs", "resume_rows", "job_rows"))
        return [resumes[:pairs], jobs[:pairs], resumes[pairs:n_resumes], jobs[pairs:n_jobs]]

    def _gathered(self, inputs: dict[str, Any], parts: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The parts of all processes, and the masks of the batch that they make together."""
        sizes = part_sizes(parts)
        rows = gather_parts(self._parts(inputs, inputs["resume_rows"], inputs["job_rows"]), sizes)
        resumes, jobs, hard_resumes, hard_jobs = (part.cpu().numpy() for part in rows)
        masks = self.data_collator.masks(
            np.concatenate([resumes, hard_resumes]), np.concatenate([jobs, hard_jobs]), len(resumes)
        )
        return gather_parts(parts, sizes), self._prepare_input(masks)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        pairs, stores, processes = self.train_dataset, self.data_collator.stores, self.args.world_size
        batch = self.config.batch_size * processes
        if self.config.group_by_length:
            lengths = np.sum([stores[side].lengths[pairs.rows[side]] for side in SIDES], axis=0)
            sampler: Any = LengthGroupedSampler(pairs, lengths, batch)
        elif processes > 1:
            sampler = SeedableRandomSampler(pairs, data_seed=self.args.data_seed)  # the order of a single process
        else:
            return super()._get_train_sampler(train_dataset)
        return WholeBatches(sampler, batch) if processes > 1 else sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        sampler, processes = SequentialSampler(eval_dataset), self.args.world_size
        return WholeBatches(sampler, self.args.eval_batch_size * processes) if processes > 1 else sampler

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """The validation loss of one batch; embeddings are not kept."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        """RowAdam where only the tokens of a batch change, else the Trainer's AdamW."""
        if not self._sparse:
            return super().create_optimizer(*args)
        trained = [parameter for parameter in self.model.encoder.backbone.parameters() if parameter.requires_grad]
        self.optimizer: torch.optim.Optimizer = RowAdam(trained, lr=self.args.learning_rate)
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
    """A trained encoder, its training log (one row a logged step) and the wall time of the training in seconds.

    `reused`: whether `train_once` found it, so that the seconds were spent before.
    """

    encoder: TextEncoder
    history: pd.DataFrame
    seconds: float
    config: TrainingConfig = field(repr=False)
    reused: bool = False

    def save(self, folder: Path) -> None:
        """Write the encoder (Sentence-Transformers layout) and, last, the log beside it."""
        self.encoder.save(folder)
        self.history.to_json(folder / "history.jsonl", orient="records", lines=True)
        (folder / "training.json").write_text(json.dumps({"seconds": self.seconds, "config": asdict(self.config)}))

    @classmethod
    def load(cls, folder: Path) -> TrainingResult:
        """Read what `save` wrote, with the same weights frozen."""
        saved = json.loads((folder / "training.json").read_text())
        history = pd.read_json(folder / "history.jsonl", lines=True)
        encoder, config = load_encoder(str(folder)), TrainingConfig(**saved["config"])
        _set_trainable(encoder, config.mode)
        return cls(encoder, history, saved["seconds"], config)


def train(
    encoder: TextEncoder,
    corpus: Corpus,
    config: TrainingConfig = TrainingConfig(),
    negatives: Mapping[Side, Negatives] | None = None,
    *,
    refresh: Refresh | None = None,
    output_dir: Path | None = None,
    cache: Path | None = None,
    validator: Validator | None = None,
    progress: bool = True,
) -> TrainingResult:
    """Train `encoder` in place on the accepted training pairs and return it at its best validation epoch.

    `negatives`: hard negatives by target side: mined (ConFit v2) or labelled rejections (ConFit v1);
    None trains with in-batch negatives only. `refresh`: mine them again as the encoder learns (ANCE). With
    `output_dir`, checkpoints are kept there and a rerun resumes from the last one, ending in the same weights as
    an uninterrupted run; raises ValueError if they are another run's. `cache` keeps the embeddings that an adapter
    is trained on. Under `torchrun` or `accelerate launch` all processes train one encoder together; they need an
    `output_dir` that all of them see.
    """
    rank, processes = process()
    if output_dir is None and processes > 1:
        raise ValueError("several processes need output_dir: they meet at the checkpoints in it")
    if output_dir is not None and rank == 0:
        _claim_folder(output_dir, _run_key(encoder, corpus, config, negatives, refresh))
    _set_trainable(encoder, config.mode)
    _check_options(encoder, config, processes)
    adapter = config.mode == "adapter"
    stores = {side: DocumentStore(encoder, corpus, side, adapter, cache, config.chunk) for side in SIDES}
    pairs = PositivePairs(corpus, "train", negatives, config.negatives_per_pair, config.seed)
    valid = _validation_pairs(corpus)
    with tempfile.TemporaryDirectory() as scratch:
        folder = output_dir or Path(scratch)
        trainer = ContrastiveTrainer(
            DualEncoder(encoder, config.chunk is not None, config.compile),
            _arguments(
                output_dir=str(folder),
                save_only_model=output_dir is None,
                disable_tqdm=not progress or rank > 0,
                **_schedule(config, len(pairs), processes),
                **_selection(config, valid is not None),
                **_hardware(config, encoder),
            ),
            config=config,
            validator=validator,
            train_dataset=pairs,
            eval_dataset=valid,
            data_collator=PairCollator(stores, corpus, config.negatives_per_batch),
            callbacks=[_EpochCallback(pairs)],
        )
        if refresh is not None:
            trainer.add_callback(RefreshCallback(refresh, encoder, corpus, pairs, folder, config.seed))
        trainer.remove_callback(PrinterCallback)  # the log is in the result; without a bar it would be printed
        limit = 1 if encoder.sparse_parameters or adapter else None
        with _threads(limit), _checkpointing(encoder, config.gradient_checkpointing):
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
    refresh: Refresh | None = None,
    max_length: int | None = None,
    **options: Any,
) -> TrainingResult:
    """`train`, unless the same run (weights, data, settings, negatives and code) is already in the cache."""
    encoder = load_encoder(encoder_name, max_length=max_length, seed=config.seed)
    folder = cache / _run_key(encoder, corpus, config, negatives, refresh)
    reused = folder.exists()
    if not reused:
        result = train(encoder, corpus, config, negatives, refresh=refresh, cache=cache / "embeddings", **options)
        _save_at_once(result, folder)
    return replace(TrainingResult.load(folder), reused=reused)


def _run_key(
    encoder: TextEncoder,
    corpus: Corpus,
    config: TrainingConfig,
    negatives: Mapping[Side, Negatives] | None,
    refresh: Refresh | None,
) -> str:
    """A hash of everything that decides a run: weights, data, settings, negatives and code."""
    mined = {side: table.fingerprint() for side, table in (negatives or {}).items()}
    parts: dict[str, Any] = {"weights": encoder.weight_hash(), "data": corpus.fingerprint(), "config": asdict(config)}
    parts |= {"refresh": {} if refresh is None else asdict(refresh), "processes": process()[1]}
    return content_key(**parts, negatives=mined, code=code_hash(*DECIDES))


def _save_at_once(result: TrainingResult, folder: Path) -> None:
    """Write a folder that others see complete or not at all; of two processes, the first one's stays."""
    draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    result.save(draft)
    try:
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft)


def _claim_folder(folder: Path, key: str) -> None:
    """Mark a folder of checkpoints as those of one run; raises ValueError if it holds those of another."""
    mark = folder / "run.txt"
    if mark.exists() and mark.read_text() != key:
        raise ValueError(
            f"{folder} holds checkpoints of another run (data, settings, weights or code differ): empty it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(key)


@contextmanager
def _threads(limit: int | None) -> Iterator[None]:
    """Run on so many threads: small matrices gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(limit or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _checkpointing(encoder: TextEncoder, wanted: bool) -> Iterator[None]:
    """Let a transformer compute the activations of its layers twice for a while."""
    if not wanted:
        yield
        return
    model: Any = encoder.backbone.model
    model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.activation_checkpointing_disable()


def _set_trainable(encoder: TextEncoder, mode: Literal["full", "adapter"] | int) -> None:
    if mode == "adapter" and encoder.adapter is None:
        encoder.add_adapter()
    encoder.freeze("all" if mode == "full" else mode)
    if mode == "full" and encoder.adapter is not None and encoder.sparse_parameters:
        raise ValueError("a static encoder with an adapter mixes sparse and dense gradients: use mode='adapter'")


def _check_options(encoder: TextEncoder, config: TrainingConfig, processes: int) -> None:
    """Raise ValueError for what does not work: FSDP, and what a static encoder cannot do."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise ValueError("FSDP leaves a part of the weights to each process: train without it (docs/training.md)")
    if not isinstance(encoder.backbone, StaticBackbone):
        return
    for option in ("gradient_checkpointing", "compile"):
        if getattr(config, option):
            raise ValueError(f"{option} needs a transformer: the static encoder has no layers")
    if processes > 1 and encoder.sparse_parameters:
        raise ValueError(
            "the static encoder has sparse gradients, which several processes cannot sum: train it in one process, "
            "where it takes a minute, or with mode='adapter'"
        )


def _validation_pairs(corpus: Corpus) -> PositivePairs | None:
    if corpus.labelled("valid", 1).empty:
        warnings.warn(f"corpus {corpus.name!r} has no accepted validation pair: the last epoch is kept", stacklevel=3)
        return None
    return PositivePairs(corpus, "valid")


def _arguments(**settings: Any) -> TrainingArguments:
    """The Trainer's arguments; a process uses one card, however many there are."""
    arguments = TrainingArguments(**settings)
    arguments._n_gpu = min(1, arguments.n_gpu)  # else the Trainer would split batches that cannot be split
    return arguments


def _schedule(config: TrainingConfig, n_pairs: int, processes: int) -> dict[str, Any]:
    """How long and how fast to learn; the shape is the official one: linear warm-up, then linear decay."""
    steps = max(1, n_pairs // (config.batch_size * processes * config.gradient_accumulation)) * config.epochs
    return {
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": 32,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.learning_rate,
        "warmup_steps": int(config.warmup * steps),
        "weight_decay": config.weight_decay,
        "logging_steps": max(1, steps // 100),
        "seed": config.seed,
        "data_seed": config.seed,
    }


def _selection(config: TrainingConfig, validated: bool) -> dict[str, Any]:
    """Which checkpoint to keep: the best validation epoch, or the last without validation pairs."""
    return {
        "eval_strategy": "epoch" if validated else "no",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": validated,
        "metric_for_best_model": config.best_metric if validated else None,
        "greater_is_better": config.best_metric != "loss" if validated else None,
    }


def _hardware(config: TrainingConfig, encoder: TextEncoder) -> dict[str, Any]:
    """Device and precision; nothing is reported to outside services."""
    on_gpu = encoder.device.type == "cuda"
    return {
        "bf16": on_gpu,
        "use_cpu": encoder.device.type == "cpu",
        "dataloader_pin_memory": on_gpu,
        "ddp_find_unused_parameters": False,
        "max_grad_norm": 0.0 if encoder.sparse_parameters else config.max_grad_norm,
        "remove_unused_columns": False,
        "report_to": "none",
        "log_level": "error",
    }


def _history(trainer: Trainer) -> pd.DataFrame:
    """The training log: step, epoch, loss, validation values and learning rate."""
    log = pd.DataFrame(trainer.state.log_history)
    return log.drop(columns=[column for column in log.columns if column.startswith("train_")])
