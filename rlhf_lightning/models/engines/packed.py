"""Linear layers whose weights lie as oneDNN multiplies them, for a loop of many small passes on a CPU."""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Callable, Iterator
from typing import TypeGuard

import torch
from torch import Tensor, nn

from rlhf_lightning.functional.processor import multiplies_bf16
from rlhf_lightning.models.cpu_matmul import in_full_precision, linear_by_onednn, missing_onednn
from rlhf_lightning.models.dtypes import computed_in
from rlhf_lightning.models.sharding import is_sharded

_LEAST = 2**15  # numbers of a weight; with fewer, the call of oneDNN costs more than it saves


@contextlib.contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """Within it the linear layers of a model on a CPU read copies of their weights in oneDNN's own order, which with
    few rows is up to twice as fast: torch would put each weight in order in every pass. Under autocast the copies are
    in its dtype. They are made here, as the weights are now, and are gone behind it; passes with gradients read the
    weights themselves.

    What is small, not on a CPU, sharded or quantised, and layers of other kinds, are left as they are.
    """
    packed: list[nn.Module] = []
    try:
        if _can_pack(model):
            for layer in model.modules():
                if _suits(layer):
                    layer.forward = functools.partial(_linear, layer.forward, *_copies(layer))  # type: ignore[method-assign]
                    packed.append(layer)
        yield
    finally:
        for layer in packed:
            del layer.forward  # the instance's; that of its class is there again


def _can_pack(model: nn.Module) -> bool:
    measured = platform.machine().lower() in ("x86_64", "amd64")
    # Not part of torch's promises, as the product over them.
    offered = missing_onednn() is None and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return measured and offered and bool(torch.backends.mkldnn.enabled) and not is_sharded(model)


def _suits(layer: nn.Module) -> TypeGuard[nn.Linear]:
    # One with a forward of its own is another's, accelerate's for one.
    if type(layer) is not nn.Linear or "forward" in vars(layer) or type(layer.weight) is not nn.Parameter:
        return False
    if layer.weight.device.type != "cpu" or layer.weight.numel() < _LEAST:
        return False
    dtype = computed_in(layer.weight)
    return (dtype == torch.float32 and in_full_precision()) or (dtype == torch.bfloat16 and multiplies_bf16())


def _copies(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    weight, bias, dtype = layer.weight.detach(), layer.bias, computed_in(layer.weight)
    ordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), None)
    return ordered, None if bias is None else bias.detach().to(dtype)


def _linear(own: Callable[[Tensor], Tensor], weight: Tensor, bias: Tensor | None, input: Tensor) -> Tensor:
    # Autocast may be off in a part of the model.
    if torch.is_grad_enabled() or not input.numel() or computed_in(input) != weight.dtype:
        return own(input)
    return linear_by_onednn(input.to(weight.dtype), weight, bias)
