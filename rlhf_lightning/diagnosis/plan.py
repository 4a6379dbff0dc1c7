"""The memory plan of a run that is not composed yet."""

from __future__ import annotations

import functools
from typing import Any, Literal

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import adapter_size, load_scalar_model, size_of_factory
from rlhf_lightning.modules.run_plan import frozen, optimizer_kind
from rlhf_lightning.planning import MemoryPlan, plan_ppo, plan_reward, plan_sft

STAGES = ("sft", "reward", "ppo")


def plan_of(
    policy: Any,
    *,
    stage: str = "ppo",
    roles: Literal["separate", "shared"] = "separate",
    reward: str | None = None,
    optimizer: Any = None,
    rollout_batch_size: int = 512,
    micro_batch_size: int = 64,
    completions: int = 4,
    prompt_tokens: int = 512,
    new_tokens: int = 256,
    text_block: int = 0,
) -> MemoryPlan | None:
    """The memory of a stage; ``None`` if what makes the policy is not known.

    Args:
        policy: a ``functools.partial`` of :func:`~rlhf_lightning.models.load_causal_lm`.
        stage: ``sft``, ``reward`` or ``ppo``.
        roles: of PPO.
        reward: folder of the reward model, which the value model starts from; ``None``: one like the policy.
        optimizer: makes the optimizer.
        rollout_batch_size: episodes of an iteration.
        micro_batch_size: sequences of a forward and backward pass; in reward training prompts.
        completions: of a prompt in reward training.
        prompt_tokens, new_tokens: longest prompt and longest response.
        text_block: tokens of a row of pretraining text beside the prompts; 0 without.

    Raises:
        UserError: an unknown stage, unknown roles, shared roles without an adapter.
    """
    if stage not in STAGES:
        raise UserError(f"run.stage={stage!r} is none of {', '.join(STAGES)}")
    if roles not in ("separate", "shared"):
        raise UserError(f"run.roles={roles!r} is neither 'separate' nor 'shared'")
    size = size_of_factory(policy)
    if size is None:
        return None
    kind, tokens = optimizer_kind(optimizer), prompt_tokens + new_tokens
    if stage == "sft":
        return plan_sft(size, rows=micro_batch_size, tokens=tokens, optimizer=kind)
    settings = policy.keywords | ({} if reward is None else {"name": reward})
    scalar = size_of_factory(functools.partial(load_scalar_model, **settings))
    assert scalar is not None  # it is a partial of load_scalar_model
    if stage == "reward":
        return plan_reward(scalar, rows=micro_batch_size * completions, tokens=tokens, optimizer=kind)
    shared = roles == "shared"
    if shared and not policy.keywords.get("lora"):
        raise UserError("run.roles=shared trains an adapter on a frozen base: set model/lora=default")
    return plan_ppo(
        size,
        reference=None if shared else frozen(size),
        value=adapter_size(size) if shared else scalar,
        reward=adapter_size(size) if shared else frozen(scalar),
        rollout_batch_size=rollout_batch_size,
        micro_batch_size=micro_batch_size,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        text_rows=micro_batch_size if text_block else 0,
        text_tokens=text_block,
        optimizer=kind,
    )
