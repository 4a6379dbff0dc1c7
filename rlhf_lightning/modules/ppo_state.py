"""What a PPO checkpoint holds beyond weights and optimizer, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rlhf_lightning.errors import CheckpointError
from rlhf_lightning.models import base_fingerprint, has_adapters, is_quantized, torch_dtype, weights_fingerprint
from rlhf_lightning.modules.adapter_checkpoints import check_bases, keep_bases_apart, note_bases
from rlhf_lightning.modules.compatibility import check_weights
from rlhf_lightning.modules.randomness import rank_seed

if TYPE_CHECKING:
    from rlhf_lightning.modules.ppo import PPOModule

FROZEN = ("reference.", "reward.")


def frozen_copy(model: nn.Module, dtype: str | None = None) -> nn.Module:
    """A copy of the model that never trains, its weights in ``dtype``; those of 8 and 4 bits stay as they are."""
    frozen = copy.deepcopy(model)
    if dtype is not None and not is_quantized(frozen):
        wanted = torch_dtype(dtype, "module.frozen_dtype")
        for parameter in frozen.parameters():  # not the buffers: rotary positions want their precision
            parameter.data = parameter.data.to(wanted)
    frozen.requires_grad_(False)
    return frozen.eval()


def save_state(module: PPOModule, checkpoint: dict[str, Any]) -> None:
    """Add counters, KL coefficient and the state of randomness. Frozen roles are left out: the factories make them
    again, and a fingerprint tells whether they made the same."""
    note_bases(module, checkpoint)
    states = module.saved_random_states
    if module.generator is not None:
        states = [state.cpu() for state in module.world.objects(module.generator.get_state())]
    checkpoint["ppo"] = {
        "iterations": module.iterations,
        "kl_coef": float(module.kl_coef),
        "generators": states,  # one for each rank
        "reference": module.reference_fingerprint,
        "reward": module.reward_fingerprint,
        "rollouts": module.world.objects(module.async_rollouts.state()),  # sampled ahead, of each rank
    }


def restore_state(module: PPOModule, checkpoint: dict[str, Any]) -> None:
    """Take back what :func:`save_state` saved.

    Raises:
        CheckpointError: the checkpoint is not of a PPO run, or of one with another reference, reward or architecture.
    """
    state = checkpoint.get("ppo")
    if state is None:
        raise CheckpointError("the checkpoint holds no PPO state; give one that a PPO run wrote")
    mine = module.reference_fingerprint
    if state["reference"] != mine:
        raise CheckpointError(
            f"the checkpoint was trained against reference {state['reference']}, this run's is {mine}: "
            "start from the same SFT model, or begin a new run"
        )
    known, reward = state.get("reward"), module.reward_fingerprint
    if known is not None and reward is not None and known != reward:
        raise CheckpointError(
            f"the checkpoint was trained on reward {known}, this run's is {reward}: give the same module.reward with "
            "the same dtype and quantisation, or begin a new run"
        )
    module.iterations = state["iterations"]
    module.kl_coef = state["kl_coef"]
    module.saved_random_states = [saved.cpu() for saved in state["generators"]]
    module.async_rollouts.saved = state.get("rollouts", [])
    if module.generator is not None:  # sharded weights are taken back after the fit has begun
        module.generator = random_stream(module)
    check_bases(module, checkpoint)
    check_weights(module, checkpoint)


def keep_frozen_apart(module: nn.Module) -> None:
    """Let frozen roles, and the frozen bases of adapters, be no part of a module's state, neither saved nor asked
    for."""
    keep_bases_apart(module)
    # torch leaves both untyped
    module.register_state_dict_post_hook(_leave_out)  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(_fill_in)  # type: ignore[no-untyped-call]


def _leave_out(module: nn.Module, weights: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in weights if name.removeprefix(prefix).startswith(FROZEN)]:
        del weights[name]


def _fill_in(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    for role, child in module.named_children():
        if f"{role}." in FROZEN:
            weights.update(child.state_dict(prefix=f"{prefix}{role}."))


def random_stream(module: PPOModule) -> torch.Generator:
    """The source of randomness of this rank, where the checkpoint that a run goes on from left it. A rank that was not
    there then begins anew."""
    generator = torch.Generator(module.device).manual_seed(rank_seed(module.seed, module.world.rank))
    if module.world.rank < len(module.saved_random_states):
        generator.set_state(module.saved_random_states[module.world.rank])
    return generator


def reference_fingerprint(reference: nn.Module) -> str:
    """A fingerprint of a reference of its own. An adapter that has learned nothing yet is no part of it: its first
    factor is random."""
    if not has_adapters(reference):
        return weights_fingerprint(reference)
    learned = any(weight.any() for name, weight in reference.named_parameters() if "lora_B" in name)
    return weights_fingerprint(reference) if learned else base_fingerprint(reference)


def reward_fingerprint(reward: Any) -> str | None:
    """A fingerprint of a reward that keeps its weights to itself. A function has none that could be compared; the
    weights of a module are part of the checkpoint, which brings them back, and may have changed since the start."""
    own = getattr(reward, "fingerprint", None)
    return str(own()) if callable(own) and not isinstance(reward, nn.Module) else None
