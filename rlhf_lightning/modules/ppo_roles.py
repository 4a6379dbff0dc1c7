"""Policy, reference and value: models of their own, or adapters on one base."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    ADAPTER,
    AdaptedScalar,
    SharedReward,
    TokenLogprobs,
    adapter_active,
    adapter_modules,
    base_fingerprint,
    from_first,
    has_adapters,
    keep_base_fingerprints,
    loaded_by_first,
    shard,
    trainable,
)
from rlhf_lightning.modules.adapter_checkpoints import check_precision
from rlhf_lightning.modules.ppo_state import frozen_copy, reference_fingerprint, reward_fingerprint

Sharing = Literal["separate", "shared"]


class Roles(NamedTuple):
    """The models of a PPO run; ``reference`` is None where it is the policy's base without its adapter."""

    policy: Any
    reference: Any
    value: Any
    reference_logprobs: TokenLogprobs
    reference_fingerprint: str
    reward_fingerprint: str | None


def make_roles(
    sharing: Sharing,
    *,
    policy: Callable[[], nn.Module],
    reference: Callable[[], nn.Module] | None,
    value: Callable[[], nn.Module] | None,
    reward: Any,
    temperature: float,
    mesh: DeviceMesh | None = None,
    frozen_dtype: str | None = None,
) -> Roles:
    """Make every role once; with a ``mesh``, share its weights among the processes.

    ``separate``: each is a model; the reference is a frozen copy of the first policy. ``shared``: the policy is an
    adapter on a frozen base, which without it is the reference; with a :class:`~rlhf_lightning.models.SharedReward`
    reward and value are adapters on that base, too, and with any other reward they are what they are. A reference that
    is a model of its own is kept in ``frozen_dtype``.

    Raises:
        UserError: shared roles without an adapter, or one that belongs to another base.
    """
    cut = mesh is not None
    with loaded_by_first(cut):
        own = trainable(policy(), role="policy")
    together = isinstance(reward, SharedReward)
    if sharing == "separate" and together:
        raise UserError("module.reward shares the policy's base, which module.roles=separate does not offer")
    if sharing == "shared" and not has_adapters(own):
        raise UserError("module.roles=shared trains an adapter on a frozen base: set model/lora=default")
    if cut:
        keep_base_fingerprints(own)  # which a shared reward's adapter is compared with
    made: Any = reward.bind(own) if together else None
    if value is None:
        made = None
    elif together:
        made = made.shard(mesh)
    else:
        with loaded_by_first(cut):
            made = shard(trainable(value(), role="value model"), mesh)
    judged_by = from_first(cut, lambda: reward_fingerprint(reward))  # before its weights are sharded
    if cut and hasattr(reward, "shard"):
        reward.shard(mesh)
    if sharing == "shared" and reference is None:
        without = functools.partial(adapter_active, own, None)
        logprobs = TokenLogprobs(own, temperature=temperature, within=without)
        return Roles(shard(own, mesh), None, made, logprobs, base_fingerprint(own), judged_by)
    with loaded_by_first(cut):
        frozen = frozen_copy(own if reference is None else reference(), frozen_dtype)
    fingerprint = from_first(cut, lambda: reference_fingerprint(frozen))
    logprobs = TokenLogprobs(shard(frozen, mesh), temperature=temperature)
    return Roles(shard(own, mesh), frozen, made, logprobs, fingerprint, judged_by)


def trained_parts(policy: nn.Module, value: nn.Module | None) -> dict[str, nn.Module]:
    """What of each role trains, as modules that have no parameter in common."""
    if not isinstance(value, AdaptedScalar):
        return {"policy": policy} | ({} if value is None else {"value": value})
    return {
        "policy": adapter_modules(policy, ADAPTER),
        "value": nn.ModuleList([value.head, *adapter_modules(policy, value.adapter)]),
    }


def check_trainable(module: nn.Module, parts: dict[str, nn.Module]) -> None:
    """What trains must be what the roles say, no more and no less, and in the precision that it was made in.

    Raises:
        UserError: a parameter that trains and belongs to no role, an adapter that is frozen, or one in half precision.
    """
    check_precision(module)
    claimed = {id(parameter) for part in parts.values() for parameter in part.parameters() if parameter.requires_grad}
    for name, parameter in module.named_parameters():
        ours = name.startswith(("policy.", "value.", "reference."))  # what else a module has is its own matter
        if ours and parameter.requires_grad and id(parameter) not in claimed:
            raise UserError(
                f"{name} would train and belongs to none of the roles {', '.join(parts)}: freeze it "
                "(requires_grad_(False)) in the function that makes the model"
            )
    for role, part in parts.items():
        if isinstance(part, nn.ModuleList):
            frozen = next((name for name, parameter in part.named_parameters() if not parameter.requires_grad), None)
            if frozen is not None:
                raise UserError(f"part {frozen} of the {role}'s adapter is frozen: nothing would be learned there")
