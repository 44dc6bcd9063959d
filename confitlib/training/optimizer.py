"""Adam for parameters of which a step touches few rows."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float32]
Rows = NDArray[np.int64]


class RowAdam(torch.optim.Optimizer):
    """Adam on the rows of a sparse gradient alone: the updates of `torch.optim.SparseAdam` at a fraction of its cost.

    Moments and bias correction are SparseAdam's, which adds whole sparse tensors; here rows are read and written in
    place, in one pass. Every parameter must be on the CPU and needs a sparse gradient.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            (beta1, beta2), eps = group["betas"], group["eps"]
            for parameter in (one for one in group["params"] if one.grad is not None):
                state = self.state[parameter]
                if not state:
                    state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
                # 1. the size of the step, with the corrections of both moments for their start at 0
                state["step"] += 1
                size = group["lr"] * (1 - beta2 ** state["step"]) ** 0.5 / (1 - beta1 ** state["step"])
                # 2. the rows that the gradient touches
                gradient = parameter.grad.coalesce()
                tensors = (parameter, state["mean"], state["square"], gradient.indices()[0], gradient.values())
                factors = tuple(map(np.float32, (1 - beta1, 1 - beta2, size, eps)))
                _update_rows(*(one.numpy() for one in tensors), factors)


@njit(nogil=True, cache=True, error_model="numpy")  # checks for division by zero would keep the loop from vector code
def _update_rows(
    parameter: Numbers, mean: Numbers, square: Numbers, rows: Rows, gradient: Numbers, factors: tuple[np.float32, ...]
) -> None:
    """Move both moments of the given rows towards the gradient and its square, and the parameter by their ratio.

    `factors`: how far each moment moves, the size of the step, and epsilon.
    """
    step1, step2, size, eps = factors
    for place in range(len(rows)):
        row = rows[place]
        for column in range(parameter.shape[1]):
            slope = gradient[place, column]
            mean[row, column] += step1 * (slope - mean[row, column])
            square[row, column] += step2 * (slope * slope - square[row, column])
            parameter[row, column] -= size * mean[row, column] / (np.sqrt(square[row, column]) + eps)
