"""One batch out of those of several processes: documents gathered with their gradients, and equal shares of pairs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

FILLER = -1  # stands for no pair, where the last batches of several processes have too few


def process() -> tuple[int, int]:
    """Rank of this process and number of all, as `torchrun` and `accelerate launch` announce them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class WholeBatches(torch.utils.data.Sampler[int]):
    """The order of another sampler, filled up with `FILLER` until every process has its share of the last batch."""

    def __init__(self, sampler: Any, multiple: int) -> None:
        self.sampler, self.multiple = sampler, multiple

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from [FILLER] * (len(self) - len(self.sampler))

    def set_epoch(self, epoch: int) -> None:
        """Hand the number of the epoch on to samplers that want it."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


def part_sizes(parts: Sequence[Tensor]) -> list[list[int]]:
    """The length of every part in every process, one list a process."""
    sizes = torch.tensor([len(part) for part in parts], device=parts[0].device)
    gathered = [torch.empty_like(sizes) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, sizes)
    return torch.stack(gathered).tolist()


def gather_parts(parts: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Each part `[n, ...]` of all processes in one tensor, in the order of their ranks; n may differ by process.

    `sizes` is `part_sizes(parts)`. Every process is to compute the same loss from what it gets. The gradient of
    its own rows is then complete, and is multiplied by the number of processes: data-parallel wrappers divide the
    sum over processes by that number.
    """
    blocks = _Gather.apply(torch.cat(list(parts)), [sum(lengths) for lengths in sizes])
    by_process = [block.split(list(lengths)) for block, lengths in zip(blocks, sizes, strict=True)]
    return [torch.cat(part) for part in zip(*by_process, strict=True)]


class _Gather(torch.autograd.Function):
    """Blocks `[n, ...]` of all processes; only the one of this process passes a gradient back."""

    @staticmethod
    def forward(ctx: Any, block: Tensor, lengths: list[int]) -> tuple[Tensor, ...]:
        """Pad the block to the longest, exchange, and cut every block back to its length."""
        padded = block.new_zeros(max(lengths), *block.shape[1:])
        padded[: len(block)] = block
        blocks = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(blocks, padded)
        return tuple(one[:length] for one, length in zip(blocks, lengths, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient of this process's block, times the number of processes."""
        return gradients[dist.get_rank()] * dist.get_world_size(), None
