"""Forward passes under ``torch.compile``, and where they are left as they are."""

from __future__ import annotations

import contextlib
import inspect
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from rlhf_lightning.errors import UserError

_VARIANTS = 256  # of all models together, which torch counts as one: with and without gradients, adapters on and off
_compiled: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def compile_options(**options: Any) -> dict[str, Any]:
    """Options of ``torch.compile`` that allow for several models; torch's own limit of variants is 8."""
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        options["recompile_limit"] = _VARIANTS
    return options


def backbones(*parts: Any) -> list[nn.Module]:
    """The bodies, without heads, of all transformers models in modules and in rewards, which are no modules: the
    ``model`` of a scorer and those of the ``rewards`` of a sum. What has none gives none."""
    scorers = [*parts, *(scorer for part in parts for scorer in getattr(part, "rewards", ()))]
    found: dict[int, nn.Module] = {}
    for part in [*scorers, *(getattr(scorer, "model", None) for scorer in scorers)]:
        for model in part.modules() if isinstance(part, nn.Module) else ():
            if isinstance(model, PreTrainedModel):
                found[id(model.base_model)] = model.base_model
    return list(found.values())


def compile_passes(backbone: nn.Module) -> None:
    """Compile the passes of a module in place, once for all numbers of rows and columns; its weights, names and state
    stay what they are."""
    backbone.compile(**compile_options(dynamic=True))
    _compiled.add(backbone)


def is_compiled(model: nn.Module) -> bool:
    """Whether :func:`compile_passes` has compiled a part of it."""
    return bool(_compiled) and any(part in _compiled for part in model.modules())


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Within it, passes run as they are: a cache that grows with every step is a new shape in every step."""
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled yet, and torch's compiler takes a second to load
        yield
        return
    with torch.compiler.set_stance("force_eager"):  # made here, because it acts from when it is made
        yield


def check_compiler(device: torch.device, *, key: str, instead: str) -> None:
    """Try whether ``torch.compile`` works here.

    Args:
        device: to compile for.
        key: the option that wants it; instead: what to do without.

    Raises:
        UserError: it does not, and why.
    """
    try:
        torch.compile(torch.neg, dynamic=False)(torch.ones(3, device=device))
    except Exception as error:  # whatever the compiler behind it raises
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{key}: torch.compile does not work here ({reason}); it needs a C++ compiler (g++, or the one that CXX "
            f"names), on a GPU also Triton; or {instead}"
        ) from error
