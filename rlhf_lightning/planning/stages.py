"""Peak memory of a stage: what is always there, and the phase that needs most beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlhf_lightning.errors import UserError
from rlhf_lightning.planning.memory import (
    Optimizer,
    activation_bytes,
    cache_bytes,
    gradient_bytes,
    layer_bytes,
    logits_bytes,
    optimizer_bytes,
)
from rlhf_lightning.planning.model_size import ModelSize

LIBRARIES = 0.2 * 2**30
RETAINED = 0.75


@dataclass(frozen=True, kw_only=True)
class RoleMemory:
    """Bytes of one role. ``activations`` and ``cache`` are of its largest phase: roles work one after the other, so
    these do not add up over roles as weights, gradients and optimizer do."""

    role: str
    weights: float
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    cache: float = 0.0

    @property
    def lasting(self) -> float:
        """What is there in every phase: weights and optimizer state. Gradients are freed after each step."""
        return self.weights + self.optimizer


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes of a stage on one device.

    Args:
        stage: its name.
        roles: what each of them takes.
        phases: all tensors that are there in each phase.
        kept: what the largest forward pass keeps for its backward pass, logits left out.
    """

    stage: str
    roles: tuple[RoleMemory, ...]
    phases: Mapping[str, float]
    kept: float

    @property
    def peak(self) -> float:
        """Tensors of the largest phase."""
        return max(self.phases.values())

    @property
    def resident(self) -> float:
        """What a process on a CPU grows by: its tensors; :data:`LIBRARIES`, which are loaded with the first model; and
        the freed blocks that the C library keeps, :data:`RETAINED` of the activations, whose blocks it does not give
        back. The last two were measured with glibc on a GPT-2 of 124M parameters, trained in full. With an adapter
        glibc can keep several times the activations, which no constant tells; the environment variable
        ``MALLOC_MMAP_THRESHOLD_=1000000`` has it give them back. Pages of a weight file that a quantised model was read
        from are resident, too, until the system needs them, and are not counted."""
        return self.peak + LIBRARIES + RETAINED * self.kept

    @property
    def largest_phase(self) -> str:
        """Its name."""
        return max(self.phases, key=lambda phase: self.phases[phase])


def plan_sft(
    policy: ModelSize, *, rows: int, tokens: int, optimizer: Optimizer = "adamw", stage: str = "sft"
) -> MemoryPlan:
    """Next-token prediction: ``update = weights + optimizer + gradients + activations(b, s) + logits(b · s)`` and the
    gradient of one weight (:func:`_update`).

    Args:
        policy: the model.
        rows, tokens: of a micro-batch.
        optimizer: of the run.
        stage: ``sft`` or ``pretrain``.
    """
    return _supervised(stage, "policy", policy, rows, tokens, logits_bytes(policy, rows * tokens), optimizer)


def plan_reward(reward: ModelSize, *, rows: int, tokens: int, optimizer: Optimizer = "adamw") -> MemoryPlan:
    """K-wise ranking: as :func:`plan_sft` without logits; ``rows`` are completions, K for each prompt of a
    micro-batch."""
    return _supervised("reward", "reward", reward, rows, tokens, 0.0, optimizer)


def plan_ppo(
    policy: ModelSize,
    *,
    reference: ModelSize | None,
    value: ModelSize | None,
    reward: ModelSize | None,
    rollout_batch_size: int,
    micro_batch_size: int,
    prompt_tokens: int,
    new_tokens: int,
    text_rows: int = 0,
    text_tokens: int = 0,
    reward_batch_size: int = 64,
    optimizer: Optimizer = "adamw",
    async_rollouts: bool = False,
) -> MemoryPlan:
    """A PPO iteration. In every phase there are the weights of all roles and the optimizer's state; beside them

    - ``rollout``: the cache of all episodes, one layer of the prompts and three times the logits of a token,
    - ``score``: one layer of the reward model,
    - ``evaluate``: one layer of a role and the logits of a micro-batch's responses,
    - ``update``: gradients, the activations and logits of one role's micro-batch, and the gradient of one weight
      (:func:`_update`). The roles' micro-batches come one after the other, and so does pretraining text.

    With ``async_rollouts`` a copy of the policy's trained weights samples beside the update: it is there in every
    phase, and what a rollout or the evaluation of its responses takes is part of the update.

    Args:
        policy, reference, value, reward: the roles; ``None`` takes no memory. With shared roles, the reference is
            ``None``, and value and reward have the weights of adapter and head alone.
        rollout_batch_size: episodes of an iteration, all of which are decoded together.
        micro_batch_size: episodes, or rows of text, of a forward and backward pass.
        prompt_tokens, new_tokens: longest prompt and longest response.
        text_rows, text_tokens: pretraining rows of an optimizer step, and their tokens; 0 without.
        reward_batch_size: sequences that the reward model reads at a time.
        optimizer: of the run.
        async_rollouts: whether responses are sampled an iteration early.
    """
    for name, number in (("rollout_batch_size", rollout_batch_size), ("micro_batch_size", micro_batch_size)):
        if number < 1:
            raise UserError(f"{name}={number} must be at least 1")
    tokens = prompt_tokens + new_tokens
    micro, scored = min(micro_batch_size, rollout_batch_size), min(reward_batch_size, rollout_batch_size)
    text = min(micro_batch_size, text_rows)
    response_logits = logits_bytes(policy, micro * new_tokens)
    decode = 3 * rollout_batch_size * policy.vocabulary * 4 + layer_bytes(policy, rollout_batch_size, prompt_tokens)
    passes = {
        "policy": max(
            activation_bytes(policy, micro, tokens) + response_logits,
            activation_bytes(policy, text, text_tokens) + logits_bytes(policy, text * text_tokens),
        ),
        "reference": 0.0 if reference is None else layer_bytes(reference, micro, tokens) + response_logits,
        "value": 0.0 if value is None else activation_bytes(value, micro, tokens),
        "reward": 0.0 if reward is None else layer_bytes(reward, scored, tokens),
    }
    cache = {"policy": cache_bytes(policy, rollout_batch_size, tokens)}
    sizes = {"policy": policy, "reference": reference, "value": value, "reward": reward}
    roles = tuple(
        RoleMemory(
            role=role,
            weights=size.weight_bytes,
            gradients=gradient_bytes(size) if role in ("policy", "value") else 0.0,
            optimizer=optimizer_bytes(size, optimizer) if role in ("policy", "value") else 0.0,
            activations=passes[role],
            cache=cache.get(role, 0.0),
        )
        for role, size in sizes.items()
        if size is not None
    )
    if async_rollouts:
        roles = (*roles, RoleMemory(role="sampling copy", weights=policy.trained_bytes))
    lasting = sum(role.lasting for role in roles)
    sampling = cache["policy"] + decode
    scoring = layer_bytes(policy, micro, tokens) + response_logits
    beside = max(sampling, scoring) if async_rollouts else 0.0
    trained = [size for size in (policy, value) if size is not None]
    phases = {
        "rollout": lasting + sampling,
        "score": lasting + passes["reward"],
        "evaluate": lasting + scoring,
        "update": lasting + _update(trained, max(passes["policy"], passes["value"])) + beside,
    }
    kept = max(
        activation_bytes(policy, micro, tokens),
        activation_bytes(policy, text, text_tokens),
        0.0 if value is None else activation_bytes(value, micro, tokens),
    )
    return MemoryPlan(stage="ppo", roles=roles, phases=phases, kept=kept)


def _supervised(
    stage: str, role: str, size: ModelSize, rows: int, tokens: int, logits: float, optimizer: Optimizer
) -> MemoryPlan:
    kept = activation_bytes(size, rows, tokens)
    activations = kept + logits
    one = RoleMemory(
        role=role,
        weights=size.weight_bytes,
        gradients=gradient_bytes(size),
        optimizer=optimizer_bytes(size, optimizer),
        activations=activations,
    )
    return MemoryPlan(
        stage=stage, roles=(one,), phases={"update": one.lasting + _update([size], activations)}, kept=kept
    )


def _update(trained: list[ModelSize], activations: float) -> float:
    """``Σ gradients + max(activations + g, 2g)`` with g the largest weight's gradient, which exists once more before it
    is added to what earlier micro-batches gave; an embedding that is also the output layer has one from each end."""
    gradient = max(size.largest_bytes for size in trained)
    return sum(gradient_bytes(size) for size in trained) + max(activations + gradient, 2 * gradient)
