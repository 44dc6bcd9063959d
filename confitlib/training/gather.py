"""One batch out of those of several processes: documents gathered with their gradients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def process() -> tuple[int, int]:
    """Rank of this process and number of all, as `torchrun` and `accelerate launch` announce them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def part_sizes(parts: Sequence[Tensor]) -> list[list[int]]:
    """The length of every part in every process, one list a process."""
    own = torch.tensor([len(part) for part in parts], device=parts[0].device)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return torch.stack(found).tolist()


def gather_parts(parts: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Each part `[n, ...]` of all processes in one tensor, in the order of their ranks; n may differ by process.

    `sizes` is `part_sizes(parts)`. Every process is to compute the same loss from what it gets. The gradient of
    its own rows is then complete, and is multiplied by the number of processes: data-parallel wrappers divide the
    sum over processes by that number.
    """
    blocks = _Gather.apply(torch.cat(list(parts)), [sum(own) for own in sizes])
    by_process = [block.split(list(own)) for block, own in zip(blocks, sizes, strict=True)]
    return [torch.cat(part) for part in zip(*by_process, strict=True)]


class _Gather(torch.autograd.Function):
    """Blocks `[n, ...]` of all processes; only the own one passes a gradient back."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, lengths: list[int]) -> tuple[Tensor, ...]:
        """Pad the own block to the longest, exchange, and cut every block back to its length."""
        padded = own.new_zeros(max(lengths), *own.shape[1:])
        padded[: len(own)] = own
        blocks = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(blocks, padded)
        return tuple(block[:length] for block, length in zip(blocks, lengths, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient of the own block, times the number of processes."""
        return gradients[dist.get_rank()] * dist.get_world_size(), None
