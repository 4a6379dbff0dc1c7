"""The updates of one PPO iteration: epochs over the rollout, minibatches, micro-batches."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_lightning.data import TokenBatch
from rlhf_lightning.modules.batching import micro_batches, token_rows, with_shapes_on_cpu
from rlhf_lightning.modules.optimization import clip_and_step
from rlhf_lightning.modules.ppo_checks import check_batch_sizes
from rlhf_lightning.modules.trajectory import Trajectory

if TYPE_CHECKING:
    from rlhf_lightning.modules.ppo import PPOModule


def update(module: PPOModule, trajectory: Trajectory, text: TokenBatch | None) -> dict[str, Tensor]:
    """``epochs`` passes over the episodes, one optimizer step a minibatch; mean statistics of the steps.

    Every pass shuffles the episodes and gives each minibatch its share of the pretraining text. Episodes and text are
    those of all ranks, in the same order on each; a rank computes its part of every minibatch.
    """
    episodes, text_rows = len(trajectory.input_ids), None if text is None else len(text.lengths)
    if text is not None:
        text = with_shapes_on_cpu(text)  # as those of the episodes
    check_batch_sizes(episodes=episodes, minibatch_size=module.minibatch_size, text_rows=text_rows)
    steps: list[dict[str, Tensor]] = []
    for _ in range(module.epochs):
        # The ranks' generators differ, and they must agree on the order.
        order = module.world.first(torch.randperm(episodes, generator=module.generator, device=module.device)).cpu()
        minibatches = torch.split(order, module.minibatch_size)
        shares = torch.arange(text_rows or 0).chunk(len(minibatches))
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
    optimizer step. Denominators are those of the whole minibatch, so sums of losses over micro-batches and ranks are
    its losses."""
    world = module.world
    sums: dict[str, Tensor] = {}

    def add(**statistics: Tensor) -> None:
        for name, value in statistics.items():
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()

    tokens = trajectory.mask.sum()
    for rows, counts in world.in_step(_own_micro_batches(module, trajectory.lengths)):
        part = trajectory.rows(rows)
        policy_loss, statistics = module.policy_loss(part, tokens)
        world.backward(module, policy_loss, counts=counts)
        if counts:
            add(policy_loss=policy_loss, **statistics)
        if module.value is not None:
            # A user's own value model has no adapter to switch on.
            with getattr(module.value, "active", nullcontext)():
                value_loss = module.value_loss(part, tokens)
                world.backward(module, module.value_coef * value_loss, counts=counts)
            if counts:
                add(value_loss=value_loss)
    if text is not None:
        labels = text.loss_mask.sum()
        for rows, counts in world.in_step(_own_micro_batches(module, text.lengths)):
            ptx_loss = module.ptx_loss(token_rows(text, rows), labels)
            world.backward(module, module.ptx_coef * ptx_loss, counts=counts)
            if counts:
                add(ptx_loss=ptx_loss)
    sums = world.totals(sums)
    sums["grad_norm"] = clip_and_step(module.optimizers(), module.max_grad_norm, world)
    return sums


def _own_micro_batches(module: PPOModule, lengths: Tensor) -> list[Tensor]:
    """This rank's rows of a minibatch, in micro-batches."""
    own = module.world.share(torch.arange(len(lengths)))
    limits = (module.micro_batch_size, module.micro_batch_tokens)
    return [own[rows] for rows in micro_batches(lengths[own], *limits, few_passes=_few_passes(module))]


def rollout_micro_batches(module: PPOModule, lengths: Tensor) -> list[Tensor]:
    """The rows of a rollout in micro-batches; without a limit, as many at a time as a rank has of a minibatch."""
    size = module.micro_batch_size
    if size is None and module.micro_batch_tokens is None:
        size = -(-module.minibatch_size // module.world.size)
    return micro_batches(lengths, size, module.micro_batch_tokens, few_passes=_few_passes(module))


def _few_passes(module: PPOModule) -> bool:
    """Whether padding costs less than passes do: those of sharded weights, and where there is no padding."""
    return module.world.sharded or module.padding_free


def mean_of(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each statistic over optimizer steps."""
    return {name: torch.stack([step[name] for step in steps]).mean() for name in steps[0]}
