"""Checkpoints of models with adapters: what trains, and a fingerprint of the base that it belongs to."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rlhf_lightning.errors import CheckpointError, UserError
from rlhf_lightning.models import base_fingerprint, has_adapters

_TRAINED = "trained_beside_bases"


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


def keep_bases_apart(module: nn.Module) -> None:
    """Let the frozen weights of models with adapters be no part of a module's state, neither saved nor asked for,
    whether the state is a file or the shards of several processes."""
    # torch leaves both untyped
    module.register_state_dict_post_hook(_leave_out)  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(_fill_in)  # type: ignore[no-untyped-call]


def note_trained(module: nn.Module) -> None:
    """Remember what trains once the models are made: who freezes a module later still saves and loads all of it."""
    setattr(module, _TRAINED, _trained(module))


def note_bases(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Note in a checkpoint which bases its adapters belong to."""
    bases = _fingerprints(module)
    if bases:
        checkpoint["bases"] = bases


def check_bases(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint whose adapters belong to other bases than those at hand.

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


def _leave_out(module: nn.Module, weights: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in _frozen(module):
        weights.pop(f"{prefix}{name}", None)


def _fill_in(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, weight in _frozen(module).items():
        weights.setdefault(f"{prefix}{name}", weight)


def _frozen(module: nn.Module) -> dict[str, Tensor]:
    """What does not train in models with adapters, by its name in the state of ``module``."""
    trained = _trained(module) | getattr(module, _TRAINED, set())
    found: dict[str, Tensor] = {}
    for role, _ in _adapted(module):
        weights = module.get_submodule(role).state_dict(prefix=f"{role}.")
        found |= {name: weight for name, weight in weights.items() if name not in trained}
    return found


def _trained(module: nn.Module) -> set[str]:
    return {name for name, weight in module.named_parameters(remove_duplicate=False) if weight.requires_grad}


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
