"""What a PPO checkpoint holds beyond weights and optimizer, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from rlhf_lightning.errors import CheckpointError
from rlhf_lightning.models import base_fingerprint, has_adapters, weights_fingerprint
from rlhf_lightning.modules.adapter_checkpoints import leave_out_base, put_back_base
from rlhf_lightning.modules.compatibility import check_weights

if TYPE_CHECKING:
    from rlhf_lightning.modules.ppo import PPOModule

FROZEN = ("reference.", "reward.")


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of the model that never trains."""
    frozen = copy.deepcopy(model)
    frozen.requires_grad_(False)
    return frozen.eval()


def save_state(module: PPOModule, checkpoint: dict[str, Any]) -> None:
    """Add counters, KL coefficient and the state of randomness. Frozen roles are left out: the factories make them
    again, and a fingerprint tells whether they made the same."""
    weights = checkpoint["state_dict"]
    checkpoint["state_dict"] = {key: value for key, value in weights.items() if not key.startswith(FROZEN)}
    leave_out_base(module, checkpoint)
    checkpoint["ppo"] = {
        "iterations": module.iterations,
        "kl_coef": float(module.kl_coef),
        "generator": module.saved_random_state if module.generator is None else module.generator.get_state(),
        "reference": _reference(module),
        "reward": _reward(module.reward),
    }


def restore_state(module: PPOModule, checkpoint: dict[str, Any]) -> None:
    """Take back what :func:`save_state` saved.

    Raises:
        CheckpointError: the checkpoint is not of a PPO run, or of one with another reference, reward or architecture.
    """
    state = checkpoint.get("ppo")
    if state is None:
        raise CheckpointError("the checkpoint holds no PPO state; give one that a PPO run wrote")
    mine = _reference(module)
    if state["reference"] != mine:
        raise CheckpointError(
            f"the checkpoint was trained against reference {state['reference']}, this run's is {mine}: "
            "start from the same SFT model, or begin a new run"
        )
    known, reward = state.get("reward"), _reward(module.reward)
    if known is not None and reward is not None and known != reward:
        raise CheckpointError(
            f"the checkpoint was trained on reward {known}, this run's is {reward}: give the same module.reward with "
            "the same dtype and quantisation, or begin a new run"
        )
    module.iterations = state["iterations"]
    module.kl_coef = state["kl_coef"]
    module.saved_random_state = None if state["generator"] is None else state["generator"].cpu()
    put_back_base(module, checkpoint)
    own = module.state_dict()
    checkpoint["state_dict"] |= {key: value for key, value in own.items() if key.startswith(FROZEN)}
    check_weights(module, checkpoint["state_dict"])


def _reference(module: PPOModule) -> str:
    """A fingerprint of the reference, which with shared roles is the policy's base. An adapter that has learned nothing
    yet is no part of it: its first factor is random."""
    reference = module.policy if module.reference is None else module.reference
    if not has_adapters(reference):
        return weights_fingerprint(reference)
    learned = any(weight.any() for name, weight in reference.named_parameters() if "lora_B" in name)
    return weights_fingerprint(reference) if learned and module.reference is not None else base_fingerprint(reference)


def _reward(reward: Any) -> str | None:
    """A fingerprint of the reward, where it has weights; a function has none that could be compared."""
    if isinstance(reward, nn.Module):
        return weights_fingerprint(reward)
    own = getattr(reward, "fingerprint", None)
    return None if own is None else str(own())
