"""What of a model trains."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.heads import ScalarModel
from rlhf_lightning.models.lora import has_adapters
from rlhf_lightning.models.quantization import is_quantized

Model = TypeVar("Model", bound=nn.Module)


def as_factory(made: Any) -> Any:
    """What makes a model. A model itself may stand for it, as jsonargparse gives one where a config names a function;
    ``None`` stays."""
    return (lambda: made) if isinstance(made, nn.Module) else made


def trainable(model: Model, *, role: str) -> Model:
    """The model with everything trainable, or, if it has an adapter, as it is: its adapter and its head.

    Raises:
        UserError: a quantised model without an adapter.
    """
    plain = model.model if isinstance(model, ScalarModel) else model
    if has_adapters(plain):
        return model
    if is_quantized(plain):
        raise UserError(
            f"the {role} is quantised, so its weights cannot be trained: add model/lora=default, or train it in "
            "full with model/quantization=none"
        )
    return model.requires_grad_(True)
