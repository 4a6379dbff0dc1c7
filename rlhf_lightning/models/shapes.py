"""Few shapes where a new one is dear.

oneDNN, with which torch multiplies in half precision on a CPU, compiles a product anew for every shape that it meets.
At the sizes of small models that takes ten times as long as the product itself, and responses of every length would
bring new shapes in every pass. In float32 (``trainer.cpu_matmul``) it is quick, but memory stays taken
for each of them. There batches are filled up to few sizes, and so are those that compiled passes attend in.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rlhf_lightning.models.context import context_length
from rlhf_lightning.models.cpu_matmul import multiplies_by_onednn

COLUMNS = 16
ROWS = 4
STATES = 128


def few_shapes(tensor: Tensor, model: nn.Module) -> bool:
    """Whether oneDNN multiplies for the model: in half precision on a CPU, or where it was chosen."""
    if tensor.device.type != "cpu":
        return False
    return in_half_precision(model) or (multiplies_by_onednn() and _dtype(model) == torch.float32)


def in_half_precision(model: nn.Module) -> bool:
    """Whether a model on a CPU computes in half precision, by its own dtype or by autocast."""
    return torch.is_autocast_enabled("cpu") or _dtype(model) in (torch.bfloat16, torch.float16)


def _dtype(model: nn.Module) -> torch.dtype:
    floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(floating, torch.float32)


def filled(input_ids: Tensor, model: nn.Module) -> Tensor:
    """Right-padded token ids [b, s] with columns up to a multiple of ``COLUMNS``, within the model's context, and rows
    up to one of ``ROWS``; as they are where any shape is as good as another."""
    if not few_shapes(input_ids, model):
        return input_ids
    rows, width = input_ids.shape
    context = context_length(model)
    # Where the configuration names no context, none is known that more columns would stay within.
    wider = width if context is None else max(min(width + -width % COLUMNS, context), width)
    return pad(input_ids, (0, wider - width, 0, -rows % ROWS))


def missing_states(states: Tensor, model: nn.Module) -> int:
    """How many a row of n tokens or states [n, ...] lacks of a multiple of ``STATES``; 0 likewise."""
    return -len(states) % STATES if few_shapes(states, model) else 0


def filled_states(states: Tensor, model: nn.Module) -> Tensor:
    """Hidden states [n, d] with zeros in place of what :func:`missing_states` counts behind them."""
    more = missing_states(states, model)
    return pad(states, (0, 0, 0, more)) if more else states


def keep_compiled_products() -> None:
    """Have oneDNN keep more compiled products than the 1,024 that it does by itself, unless the environment says how
    many. It asks once, at its first product, so this is for the start of a run in half precision; those in float32
    are quick to make and large."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")
