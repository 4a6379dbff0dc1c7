"""Checkpoints of models with adapters: what trains, and a fingerprint of the base that it belongs to."""

from __future__ import annotations

from typing import Any

from torch import nn

from rlhf_lightning.errors import CheckpointError, UserError
from rlhf_lightning.models import base_fingerprint, has_adapters


def check_precision(module: Any) -> None:
    """Refuse to convert a whole model with an adapter: the adapter would train in half precision, and the base would
    no longer be the one that was loaded.

    Raises:
        UserError: ``trainer.precision`` is ``bf16-true`` or ``16-true`` beside an adapter.
    """
    precision = str(module.trainer.precision)
    if precision in ("bf16-true", "16-true") and _adapted(module):
        dtype = "bfloat16" if precision == "bf16-true" else "float16"
        raise UserError(
            f"trainer.precision={precision} would convert the adapter's weights, too, which train in float32: set "
            f"model.dtype={dtype} for the frozen base and trainer.precision=32-true"
        )


def leave_out_base(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Take the frozen weights of models with adapters out of a checkpoint, and note which they were."""
    frozen = _frozen(module)
    if frozen:
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weight for name, weight in weights.items() if name not in frozen}
        checkpoint["bases"] = _fingerprints(module)


def put_back_base(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Fill in the frozen weights from the models at hand.

    Raises:
        CheckpointError: the checkpoint is of another base, or of a run without an adapter.
    """
    saved, mine = checkpoint.get("bases", {}), _fingerprints(module)
    if bool(saved) != bool(mine):
        has, wants = ("an adapter", "none") if saved else ("no adapter", "one")
        raise CheckpointError(f"the checkpoint holds {has} and this run trains {wants}: set model/lora as it was")
    for role, fingerprint in mine.items():
        if saved.get(role) != fingerprint:
            raise CheckpointError(
                f"the checkpoint's adapter of the {role} was trained on base {saved.get(role)}, this run's is "
                f"{fingerprint}: give the same model.name and model/quantization, or begin a new run"
            )
    frozen, own = _frozen(module), module.state_dict()
    if frozen:
        checkpoint["state_dict"] |= {name: own[name] for name in own if name in frozen}


def _frozen(module: nn.Module) -> set[str]:
    """Names, in the state of ``module``, of what does not train in models with adapters."""
    trained = {name for name, parameter in module.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    return {
        name
        for role, _ in _adapted(module)
        for name in module.state_dict()
        if name.startswith(f"{role}.") and name not in trained
    }


def _fingerprints(module: nn.Module) -> dict[str, str]:
    return {role: base_fingerprint(model) for role, model in _adapted(module)}


def _adapted(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The roles that carry an adapter, and the model that carries it."""
    found = []
    for role, child in module.named_children():
        carrier = next((part for part in child.modules() if has_adapters(part)), None)
        if carrier is not None:
            found.append((role, carrier))
    return found
