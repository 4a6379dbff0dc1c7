"""What a run is going to do and what memory it needs, known from its settings and data before weights are loaded."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import lightning as L

from rlhf_lightning.errors import one_line
from rlhf_lightning.models import SharedReward, adamw8bit, adapter_size, size_of_factory, torch_dtype
from rlhf_lightning.modules.context import longest
from rlhf_lightning.modules.muon import Muon
from rlhf_lightning.modules.ppo import PPOModule
from rlhf_lightning.modules.reward import RewardModule
from rlhf_lightning.modules.sft import SFTModule
from rlhf_lightning.planning import (
    MemoryPlan,
    ModelSize,
    Optimizer,
    RunSchedule,
    memory_lines,
    plan_ppo,
    plan_reward,
    plan_sft,
    ppo_schedule,
    schedule_line,
    supervised_schedule,
)

LOOKED_AT = 2000
"""Comparisons whose completions are counted."""


def plan_lines(module: L.LightningModule, data: Any, trainer: L.Trainer) -> list[str]:
    """What a run is going to do and to need, line by line; what is not known is left out.

    Args: as those of :func:`run_schedule`.
    """
    schedule = run_schedule(module, data, trainer)
    lines = [] if schedule is None else [f"plan: {schedule_line(schedule)}"]
    try:
        memory = memory_plan(module, data)
    except Exception as error:  # where the model cannot be loaded, loading it says so better
        return [*lines, f"memory: no estimate ({type(error).__name__}: {one_line(error)})"]
    if memory is None:
        return lines
    if trainer.world_size > 1:
        each = f"each of these {trainer.world_size} holds less"
        lines.append(f"memory: an estimate for one process alone; {each}")
    return [*lines, *(f"memory: {line}" for line in memory_lines(memory))]


def memory_plan(module: L.LightningModule, data: Any) -> MemoryPlan | None:
    """The memory that a module needs on one device; ``None`` if its models are made by functions whose result is not
    known without calling them, or if the data is not of this package.

    An optimizer that is not known is taken for AdamW, and ``share_prompt`` of reward training is not counted on. Under
    ``precision="bf16-mixed"`` activations take less than this, which counts them in the type of the weights.

    Args:
        module: of one of the three stages, not yet configured.
        data: its data module, set up.
    """
    if isinstance(module, PPOModule):
        return _ppo(module, data)
    if isinstance(module, RewardModule):
        size, rows, tokens = size_of_factory(module._reward_model_factory), _completions(data, module), _tokens(data)
        kind = optimizer_kind(module._optimizer_factory)
        if size is None or not rows or not tokens:
            return None
        return plan_reward(size, rows=rows, tokens=tokens, optimizer=kind)
    if isinstance(module, SFTModule):
        size, tokens = size_of_factory(module._policy_factory), _tokens(data)
        rows = _rows_at_once(module, module.micro_batch_size or int(getattr(data, "batch_size", 0)), tokens)
        stage = "pretrain" if hasattr(data, "block_size") else "sft"
        kind = optimizer_kind(module._optimizer_factory)
        if size is not None and rows and tokens:
            return plan_sft(size, rows=rows, tokens=tokens, optimizer=kind, stage=stage)
    return None


def run_schedule(module: L.LightningModule, data: Any, trainer: L.Trainer) -> RunSchedule | None:
    """Counts of the run; ``None`` where the length of the data is not known before it is read.

    Args:
        module: of one of the three stages.
        data: its data module, set up.
        trainer: sets limits.
    """
    limit = trainer.limit_train_batches
    batches = limit if isinstance(limit, int) else None  # a fraction is of what only the loaders know
    max_steps = trainer.max_steps if trainer.max_steps > 0 else None
    if isinstance(module, PPOModule):
        if getattr(data, "iterations", None) is None or data.rollout_batch_size < module.minibatch_size:
            return None  # the module refuses the latter itself
        with_text = getattr(data, "text", None) is not None
        return ppo_schedule(
            iterations=data.iterations if batches is None else min(data.iterations, batches),
            rollout_batch_size=data.rollout_batch_size,
            minibatch_size=module.minibatch_size,
            epochs=module.epochs,
            ptx_ratio=data.ptx_ratio if with_text else 0,
            text_block=data.text_block if with_text else 0,
            max_steps=max_steps,
        )
    rows: Any = getattr(data, "train_rows", None)
    epochs = trainer.max_epochs
    if epochs is None or epochs < 0:  # without end, but for the steps
        epochs = max_steps
    if not hasattr(rows, "__len__") or getattr(data, "batch_size", None) is None or epochs is None:
        return None
    return supervised_schedule(
        rows=len(rows),
        batch_size=data.batch_size,
        epochs=epochs,
        block=getattr(data, "block_size", 0),
        limit=batches,
        max_steps=max_steps,
    )


def optimizer_kind(factory: Any) -> Optimizer:
    """What of an optimizer decides its memory."""
    made = factory.func if isinstance(factory, functools.partial) else factory
    return "adamw8bit" if made is adamw8bit else "muon" if made is Muon else "adamw"


def frozen(size: ModelSize, dtype: str | None = None) -> ModelSize:
    """A copy of a model that does not train, its weights in ``dtype``."""
    kept = dataclasses.replace(size, trained=0, trained_bytes=0.0, matrices=0, largest_bytes=0.0)
    if dtype is None or size.weight_bytes < size.parameters * 2:  # stored in 8 or 4 bits
        return kept
    each = torch_dtype(dtype, "module.frozen_dtype").itemsize
    share = each / size.number_bytes
    return dataclasses.replace(
        kept,
        weight_bytes=float(size.parameters * each),
        number_bytes=each,
        kept_bytes=size.kept_bytes * share,
        block_bytes=size.block_bytes * share,
        rest_bytes=size.rest_bytes * share,
    )


def _ppo(module: PPOModule, data: Any) -> MemoryPlan | None:
    policy = size_of_factory(module._factories["policy"])
    prompt_tokens = _tokens(data)
    if policy is None or not prompt_tokens or getattr(data, "rollout_batch_size", None) is None:
        return None
    reference = module._factories["reference"]
    dtype = module.hparams["frozen_dtype"]
    copied = policy if reference is None else size_of_factory(reference)
    kept = None if copied is None or (module.roles == "shared" and reference is None) else frozen(copied, dtype)
    value: ModelSize | None
    reward: ModelSize | None
    if isinstance(module.reward, SharedReward):
        # Adapter and head on the policy's base, twice.
        value = reward = adapter_size(policy)
    else:
        value = size_of_factory(module._factories["value"])
        scorers = [getattr(one, "source", None) for one in (module.reward, *getattr(module.reward, "rewards", ()))]
        scored = [frozen(size) for size in map(size_of_factory, scorers) if size is not None]
        largest = max(scored, key=lambda size: size.parameters, default=None)
        reward = largest and dataclasses.replace(largest, weight_bytes=sum(size.weight_bytes for size in scored))
    minibatches = max(1, data.rollout_batch_size // module.minibatch_size)
    with_text = getattr(data, "text", None) is not None
    return plan_ppo(
        policy,
        reference=kept,
        value=None if module._factories["value"] is None else value,
        reward=reward,
        rollout_batch_size=data.rollout_batch_size,
        micro_batch_size=_rows_at_once(
            module, module.micro_batch_size or module.minibatch_size, prompt_tokens + module.max_new_tokens
        ),
        prompt_tokens=prompt_tokens,
        new_tokens=module.max_new_tokens,
        text_rows=data.rollout_batch_size * data.ptx_ratio // minibatches if with_text else 0,
        text_tokens=data.text_block if with_text else 0,
        reward_batch_size=getattr(module.reward, "batch_size", 64),
        optimizer=optimizer_kind(module._optimizer_factory),
        async_rollouts=module.async_rollouts.enabled,
    )


def _rows_at_once(module: Any, rows: int, tokens: int) -> int:
    """As many of the rows, each of so many tokens, as ``micro_batch_tokens`` admits."""
    limit = module.micro_batch_tokens
    return rows if limit is None or not tokens else min(rows, max(1, limit // tokens))


def _tokens(data: Any) -> int:
    """Tokens of the longest row, or of a row of text; 0 where it is not known."""
    fixed = getattr(data, "packing", None) or getattr(data, "block_size", None)
    if isinstance(fixed, int):
        return fixed
    found = longest(getattr(data, "train_rows", None))
    return 0 if found is None else found[1]


def _completions(data: Any, module: RewardModule) -> int:
    """Completions of the largest micro-batch that the first comparisons can make; 0 where they are not known."""
    rows: Any = getattr(data, "train_rows", None)
    if not hasattr(rows, "__getitems__") or not hasattr(data, "batch_size"):
        return 0
    first = rows.__getitems__(list(range(min(len(rows), LOOKED_AT))))
    counts = sorted((len(row["response_ids"]) for row in first), reverse=True)
    completions = sum(counts[: module.micro_batch_size or data.batch_size])
    # A prompt with all its completions is never cut.
    return max(counts[0], _rows_at_once(module, completions, _tokens(data)))
