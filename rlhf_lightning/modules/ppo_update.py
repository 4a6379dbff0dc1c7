"""The updates of one PPO iteration: epochs over the rollout, minibatches, micro-batches."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_lightning.data import TokenBatch
from rlhf_lightning.modules.batching import micro_batches, token_rows
from rlhf_lightning.modules.optimization import clip_and_step
from rlhf_lightning.modules.ppo_checks import check_batch_sizes
from rlhf_lightning.modules.trajectory import Trajectory

if TYPE_CHECKING:
    from rlhf_lightning.modules.ppo import PPOModule


def update(module: PPOModule, trajectory: Trajectory, text: TokenBatch | None) -> dict[str, Tensor]:
    """``epochs`` passes over the episodes, one optimizer step a minibatch; mean statistics of the steps.

    Every pass shuffles the episodes and gives each minibatch its share of the pretraining text.
    """
    episodes, text_rows = len(trajectory.input_ids), None if text is None else len(text.lengths)
    check_batch_sizes(episodes=episodes, minibatch_size=module.minibatch_size, text_rows=text_rows)
    steps: list[dict[str, Tensor]] = []
    for _ in range(module.epochs):
        order = torch.randperm(episodes, generator=module.generator, device=module.device)
        minibatches = torch.split(order, module.minibatch_size)
        shares = torch.arange(text_rows or 0, device=module.device).chunk(len(minibatches))
        epoch = []
        for index, rows in enumerate(minibatches):
            share = None if text is None else token_rows(text, shares[index])
            epoch.append(minibatch_step(module, trajectory.rows(rows), share))
        steps.extend(epoch)
        statistics = mean_of(epoch)
        if "approx_kl" in statistics and module.should_stop_updates(statistics["approx_kl"]):
            break
    scheduler: Any = module.lr_schedulers()
    scheduler.step()
    return mean_of(steps)


def minibatch_step(module: PPOModule, trajectory: Trajectory, text: TokenBatch | None) -> dict[str, Tensor]:
    """Gradients of the PPO losses and of γ_ptx times the pretraining loss, summed over micro-batches, and one
    optimizer step. Denominators are those of the whole minibatch, so sums of losses are its losses."""
    sums: dict[str, Tensor] = {}

    def add(**statistics: Tensor) -> None:
        for name, value in statistics.items():
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()

    tokens = trajectory.mask.sum()
    for rows in micro_batches(trajectory.lengths, module.micro_batch_size):
        part = trajectory.rows(rows)
        policy_loss, statistics = module.policy_loss(part, tokens)
        module.manual_backward(policy_loss)
        add(policy_loss=policy_loss, **statistics)
        if module.value is not None:
            # A user's own value model has no adapter to switch on.
            with getattr(module.value, "active", nullcontext)():
                value_loss = module.value_loss(part, tokens)
                module.manual_backward(module.value_coef * value_loss)
            add(value_loss=value_loss)
    if text is not None:
        labels = text.loss_mask.sum()
        for rows in micro_batches(text.lengths, module.micro_batch_size):
            ptx_loss = module.ptx_loss(token_rows(text, rows), labels)
            module.manual_backward(module.ptx_coef * ptx_loss)
            add(ptx_loss=ptx_loss)
    sums["grad_norm"] = clip_and_step(module.optimizers(), module.max_grad_norm)
    return sums


def mean_of(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each statistic over optimizer steps."""
    return {name: torch.stack([step[name] for step in steps]).mean() for name in steps[0]}
