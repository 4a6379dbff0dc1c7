"""The processes that train together: what each needs of the others' data, counts and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn

Part = TypeVar("Part")
Value = TypeVar("Value")

_BUCKET = 2**25  # numbers in one message of gradients


class World(NamedTuple):
    """This process's place among all that train one model. Alone, every method gives back what it is given.

    Every rank must call every method in the same order: each is a collective.

    Args:
        rank: 0 to ``size`` − 1.
        size: number of processes, over all nodes.
        sharded: weights are sharded, so that forward and backward passes are collectives too and every rank must make
            equally many of them.
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @classmethod
    def of(cls, trainer: Any) -> World:
        """That of a Lightning trainer whose processes are connected."""
        return cls(trainer.global_rank, trainer.world_size, isinstance(trainer.strategy, ModelParallelStrategy))

    def totals(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the ranks of scalars by name; in one message."""
        if self.size == 1 or not values:
            return dict(values)
        together = torch.stack([value.detach().double() for value in values.values()])
        dist.all_reduce(together)
        return {name: part.to(value.dtype) for part, (name, value) in zip(together, values.items(), strict=True)}

    def total(self, value: Tensor) -> Tensor:
        """Sum over the ranks of a scalar."""
        return self.totals({"value": value})["value"]

    def first(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor; on every rank it has the same shape and type."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)
        return tensor

    def objects(self, value: Value) -> list[Value]:
        """Every rank's value, in order of rank; anything that can be pickled."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def rows(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All rows of all ranks, in order of rank; shorter rows are padded with 0 (``False``) at their end.

        Shapes:
            tensors: [b, ...] with ranks' own b. Results: [Σ b, ...], each dimension the longest of any rank.
        """
        if self.size == 1:
            return dict(tensors)
        shapes = self.objects({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return {name: self._gather(tensor, [shape[name] for shape in shapes]) for name, tensor in tensors.items()}

    def _gather(self, tensor: Tensor, shapes: list[tuple[int, ...]]) -> Tensor:
        widest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        kind = torch.uint8 if tensor.dtype == torch.bool else tensor.dtype
        padded = torch.zeros(widest, dtype=kind, device=tensor.device)
        padded[tuple(slice(size) for size in tensor.shape)] = tensor.to(kind)
        parts = [torch.empty_like(padded) for _ in shapes]
        dist.all_gather(parts, padded)
        return torch.cat([part[: shape[0]] for part, shape in zip(parts, shapes, strict=True)]).to(tensor.dtype)

    def share(self, rows: Tensor) -> Tensor:
        """This rank's part of rows that all ranks know, as equal as can be."""
        return rows[len(rows) * self.rank // self.size : len(rows) * (self.rank + 1) // self.size]

    def in_step(self, parts: list[Part]) -> list[tuple[Part, bool]]:
        """The parts, each with whether it counts. Where passes are collectives, a rank with fewer parts than another
        repeats its last one, which does not count."""
        missing = max(self.objects(len(parts))) - len(parts) if self.sharded else 0  # asked before the first pass
        return [*((part, True) for part in parts), *[(parts[-1], False)] * missing]

    def backward(self, module: Any, loss: Tensor, *, counts: bool = True) -> None:
        """Add the gradient of ``loss``, a part of the sum over all ranks.

        Sharded weights reduce gradients in the backward pass itself and average over the ranks, hence the factor.
        Replicas keep theirs until :meth:`reduce_gradients`, so that an optimizer step costs one message however many
        passes it takes. That of a part that does not count is 0.
        """
        scale = float(self.size if self.sharded else 1) if counts else 0.0
        with _unreduced(module):
            module.manual_backward(loss if scale == 1.0 else scale * loss)

    def reduce_gradients(self, optimizer: Any) -> None:
        """Sum the replicas' gradients over the ranks. A parameter that no rank used keeps none."""
        if self.size == 1 or self.sharded:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        used = torch.tensor([parameter.grad is not None for parameter in parameters], device=parameters[0].device).int()
        dist.all_reduce(used)
        for bucket in _buckets([p for p, ranks in zip(parameters, used.tolist(), strict=True) if ranks]):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            together = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(together)
            parts = torch.split(together, [gradient.numel() for gradient in gradients])
            for parameter, gradient, part in zip(bucket, gradients, parts, strict=True):
                parameter.grad = gradient.copy_(part.view_as(gradient))


def _unreduced(module: Any) -> AbstractContextManager[Any]:
    """Within it ``DistributedDataParallel`` reduces nothing: its own rule, one reduction for each backward pass through
    all parameters, fits neither several passes nor several roles."""
    strategy = module.trainer.strategy
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one type, of about ``_BUCKET`` numbers together."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        full = sum(other.numel() for other in bucket) + parameter.numel() > _BUCKET
        if bucket and (full or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
