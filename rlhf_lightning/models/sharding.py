"""Weights sharded over processes with FSDP2, block by block."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.fingerprints import keep_base_fingerprints
from rlhf_lightning.models.policy import is_own
from rlhf_lightning.models.skeletons import from_first

Model = TypeVar("Model", bound=nn.Module)

_RUN = "run_sharded"


def shard(model: Model, mesh: DeviceMesh | None) -> Model:
    """Shard a model over ``mesh``; ``None``, where nothing is sharded, leaves it as it is.

    Every transformer block is a unit of its own, gathered while it is read and freed behind it; embeddings, norms and
    heads outside the blocks are the last unit. A backward pass averages gradients over the processes as it goes.

    All begin with the weights and buffers of the first process, which are sent unit by unit. The others may hold
    meta tensors until then (:func:`~rlhf_lightning.models.loaded_by_first`). Adapters are added before; their unit
    gathers frozen and trained weights together and scatters the gradients of those that have one.

    Args:
        model: of transformers, or a :class:`~rlhf_lightning.models.ScalarModel`; changed in place.
        mesh: of Lightning's ``ModelParallelStrategy``, which has it under ``LightningModule.device_mesh``.

    Raises:
        UserError: weights of two types that train in one unit, whose gradients are sent together; a model of one's own,
            whose passes would not gather what they read.
    """
    if mesh is None:
        return model
    # A scalar head of adapters is a linear layer alone.
    if not isinstance(model, nn.Linear) and all(is_own(part) for part in model.modules()):
        raise UserError(
            f"strategy=fsdp2 shards models of transformers, and {type(model).__name__} is none: use strategy=ddp"
        )
    mesh = mesh["data_parallel"]
    device = torch.device("cpu" if mesh.device_type == "cpu" else f"cuda:{torch.cuda.current_device()}")
    # Also behind the last unit: what a rollout left gathered would be stale after the next optimizer step.
    units: list[nn.Module] = [*blocks(model), model]
    keep_base_fingerprints(model)
    for unit in units:
        _send(unit, device)
        _check_types(unit)
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    setattr(model, _RUN, types.MethodType(_run, model))
    register_fsdp_forward_method(model, _RUN)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether a pass through the model is a collective."""
    return isinstance(model, FSDPModule)


def through(model: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` while the model's own weights can be read.

    Of a sharded model, a call of the model gathers them and a call of one of its parts does not: what reads parts, such
    as the head alone, stands in a function that runs through here. Within it, the model itself is not to be called.
    """
    run = getattr(model, _RUN, None)
    return function(*arguments) if run is None else run(function, *arguments)


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    found = torch.tensor(number, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any of the processes."""
    return largest(int(flag)) > 0


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, in full on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(weight: Tensor, tensor: Tensor) -> Tensor:
    """A tensor that every process has in full, sharded as ``weight`` is, if it is."""
    if not isinstance(weight, DTensor):
        return tensor
    return distribute_tensor(tensor, weight.device_mesh, weight.placements)


def whole_state(model: nn.Module) -> dict[str, Any]:
    """The state of a sharded model in full, on the CPU of the first process; the others' is empty. A collective. A
    weight that stands in two places is there once."""
    found = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    once = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return {name: weight for name, weight in found.items() if name in once}


def _run(model: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks: the entries of the module list that holds the most weights."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    largest = max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=None)
    return [] if largest is None else list(largest)


def _check_types(unit: nn.Module) -> None:
    first: dict[torch.dtype, str] = {}
    for name, weight in unit.named_parameters():
        if weight.requires_grad and not isinstance(weight, DTensor):
            first.setdefault(weight.dtype, name)
    if len(first) > 1:
        (one, place), (other, second), *_ = first.items()
        raise UserError(
            f"strategy=fsdp2: {place} trains in {str(one)[6:]} and {second} in {str(other)[6:]}, and their gradients "
            "are sent together: set model.dtype=float32, or strategy=ddp"
        )


def _send(unit: nn.Module, device: torch.device) -> None:
    """Put the first process's weights and buffers into everyone's unit, on ``device``; what is sharded already stays.
    A weight that stands in two places stays one."""
    places = [
        (module, name, weight)
        for module in unit.modules()
        for name, weight in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        if not isinstance(weight, DTensor)
    ]
    # peft gives an adapter on meta tensors another type than one on weights.
    types = from_first(True, lambda: [weight.dtype for *_, weight in places])
    sent: dict[int, Tensor] = {}
    for (module, name, old), dtype in zip(places, types, strict=True):
        if id(old) not in sent:
            like = torch.empty_like(old, device=device, dtype=dtype) if old.is_meta else old.detach().to(device)
            new = like.contiguous()
            dist.broadcast(new, src=0)
            sent[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        setattr(module, name, sent[id(old)])
