"""The settings of a training run, and the arguments of transformers' Trainer that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from transformers import TrainingArguments

from confitlib.encoder import TextEncoder
from confitlib.util import check_range


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
    `weight_decay` and `max_grad_norm` leave the static encoder's own vectors alone.
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
        check_range(self, "epochs", "batch_size", "gradient_accumulation", "chunk", least=1)
        check_range(self, "learning_rate", "temperature", above=0)
        check_range(self, "warmup", "lambda_", most=1)
        check_range(self, "weight_decay", "max_grad_norm", "negatives_per_pair", "negatives_per_batch", "seed")


def trainer_arguments(
    config: TrainingConfig, encoder: TextEncoder, n_pairs: int, validated: bool, processes: int, **others: Any
) -> TrainingArguments:
    """Arguments of a run over `n_pairs` pairs; a process uses one card, however many there are."""
    settings = _schedule(config, n_pairs, processes) | _selection(config, validated) | _hardware(config, encoder)
    arguments = TrainingArguments(**settings, **others)
    arguments._n_gpu = min(1, arguments.n_gpu)  # else the Trainer would split batches that cannot be split
    return arguments


def _schedule(config: TrainingConfig, n_pairs: int, processes: int) -> dict[str, Any]:
    """How long and how fast to learn; the shape is the official one: linear warm-up, then linear decay."""
    batches = math.ceil(n_pairs / (config.batch_size * processes))
    steps = math.ceil(batches / config.gradient_accumulation) * config.epochs  # as the Trainer counts them
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
