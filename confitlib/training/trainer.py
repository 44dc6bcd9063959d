"""`transformers.Trainer` for a dual encoder: the loss over a batch of pairs, shared by all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import SequentialSampler
from transformers import Trainer

from confitlib.corpus import SIDES
from confitlib.encoder import TextEncoder
from confitlib.training.batches import LengthGroupedSampler, WholeBatches
from confitlib.training.config import TrainingConfig
from confitlib.training.gather import gather_parts, part_sizes
from confitlib.training.loss import contrastive_loss
from confitlib.training.optimizer import RowAdam

MASKS = ("masked_jobs", "masked_resumes")
Validate = Callable[[], Mapping[str, float]]


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
    """`transformers.Trainer` with the two-sided loss, sparse updates and optional metrics of a validator."""

    def __init__(self, *args: Any, config: TrainingConfig, validate: Validate | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config, self.validate = config, validate
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

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights; sharded ones follow later, but transformers looks for their folder at once."""
        Path(output_dir or self.args.output_dir).mkdir(parents=True, exist_ok=True)
        super().save_model(output_dir, _internal_call)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Validation loss and the validator's metrics, logged together."""
        metrics = super().evaluate(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.validate is not None:
            extra = {f"{metric_key_prefix}_{name}": value for name, value in self.validate().items()}
            metrics.update(extra)
            self.log(extra)
        return metrics
