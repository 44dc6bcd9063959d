"""FSDP: each process holds a share of the weights, of their gradients and of the optimizer's state."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from confitlib.encoder import TextEncoder

SETTINGS = {
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def sharded() -> bool:
    """Whether `accelerate launch --use_fsdp` started this process."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def check_settings() -> None:
    """Raise ValueError where accelerate was told to shard in another way than docs/fsdp.yaml does.

    Weights must be gathered once a step (NO_WRAP). Those of single layers would be gathered by all processes whenever
    one of them runs the layer, and each runs it as often as its own documents have parts: they would wait forever.
    """
    for name, wanted in SETTINGS.items():
        if os.environ.get(name) != wanted:
            raise ValueError(
                f"FSDP works with {name}={wanted}, not {os.environ.get(name)}: start the processes with "
                "`accelerate launch --config_file docs/fsdp.yaml`"
            )


class WholeWeights(TrainerCallback):
    """Copies sharded weights into a whole encoder, whenever something else than training may look at it."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.weights = encoder.state_dict()

    @torch.no_grad()
    def _gather(self, *_: Any, model: Any, **kwargs: Any) -> None:
        for name, weight in model.encoder.state_dict().items():
            self.weights[name].copy_(weight.full_tensor() if isinstance(weight, DTensor) else weight)

    on_train_begin = on_epoch_end = on_train_end = _gather
