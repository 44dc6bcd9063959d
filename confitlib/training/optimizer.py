"""Adam for parameters of which a step touches few rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class RowAdam(torch.optim.Optimizer):
    """Adam on the rows of a sparse gradient alone: the updates of `torch.optim.SparseAdam` at half its cost.

    Moments and bias correction are SparseAdam's; rows are read and written by index, where SparseAdam adds whole
    sparse tensors. Every parameter needs a sparse gradient.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["betas"], group["eps"])

    def _update(self, parameter: Tensor, lr: float, betas: tuple[float, float], eps: float) -> None:
        beta1, beta2 = betas
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
        state["step"] += 1
        gradient = parameter.grad.coalesce()  # type: ignore[union-attr]
        rows, values = gradient.indices()[0], gradient.values()
        mean = state["mean"].index_select(0, rows).lerp_(values, 1 - beta1)
        square = state["square"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["mean"].index_copy_(0, rows, mean)
        state["square"].index_copy_(0, rows, square)
        size = lr * (1 - beta2 ** state["step"]) ** 0.5 / (1 - beta1 ** state["step"])
        parameter.index_add_(0, rows, mean.div_(square.sqrt_().add_(eps)), alpha=-size)
