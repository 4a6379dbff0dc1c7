"""What the three modules share about optimizers: parameter groups, schedules, one clipped step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rlhf_lightning.errors import UserError
from rlhf_lightning.functional import constant_with_warmup, cosine_decay
from rlhf_lightning.models import trained_by_kind, whole
from rlhf_lightning.modules.capabilities import check_capabilities, strategy_name
from rlhf_lightning.modules.world import World

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
Schedule = Literal["cosine", "constant"]


def adamw(groups: list[dict[str, Any]]) -> Optimizer:
    """The default optimizer: AdamW with the paper's β = (0.9, 0.95); ε = 1e-5 is our choice, the paper gives none."""
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-5, fused=True)


def parameter_groups(
    roles: Mapping[str, nn.Module], learning_rates: Mapping[str, float], weight_decay: float
) -> list[dict[str, Any]]:
    """Named parameter groups, up to three for each role, that know their ``role`` and their ``kind``.

    ``embedding``: input and output embeddings and heads with one output, decayed; ``vector``: biases and norm weights,
    not decayed; ``matrix``: the hidden matrices, decayed, which some optimizers (Muon) treat in another way.

    Raises:
        UserError: a role without a trainable parameter.
    """
    groups: list[dict[str, Any]] = []
    for role, model in roles.items():
        kinds: dict[str, list[nn.Parameter]] = {"embedding": [], "vector": [], "matrix": []}
        for parameter, of_kind in trained_by_kind(model):
            kinds[of_kind].append(parameter)
        if not any(kinds.values()):
            raise UserError(f"the {role} has no trainable parameter; unfreeze it before training")
        for kind, parameters in kinds.items():
            decay = 0.0 if kind == "vector" else weight_decay
            group = {"params": parameters, "name": f"{role}/{kind}", "kind": kind, "role": role, "weight_decay": decay}
            groups.append(group | {"lr": learning_rates[role]})
    return [group for group in groups if group["params"]]


def lr_scheduler(
    optimizer: Optimizer, *, schedule: Schedule, total: Callable[[], float], warmup: int, floor: float
) -> LambdaLR:
    """``cosine`` to ``floor`` after a linear warm-up, or ``constant`` after a warm-up from ``floor``.

    ``total`` gives the steps of the run. It is asked after the first step only, before which the schedule does not
    depend on it: Lightning would make the data loaders to answer, and they must not be made before a resumed run has
    restored its position in them.
    """
    if schedule == "cosine":

        def multiplier(step: int) -> float:
            steps = 1 if step == 0 else int(total())
            return cosine_decay(step, total=steps, floor=floor, warmup=warmup)

        return LambdaLR(optimizer, multiplier)
    if schedule == "constant":
        return LambdaLR(optimizer, lambda step: constant_with_warmup(step, warmup=warmup, start=floor))
    raise UserError(f"module.schedule={schedule!r} is neither 'cosine' nor 'constant'")


def clip_and_step(optimizer: Any, max_grad_norm: float | None, world: World) -> Tensor:
    """Sum the gradients over the ranks, clip those of each role by their norm, take one step, clear them; returns the
    norm before clipping over all roles. Roles are clipped apart, so that a large value gradient does not slow the
    policy down."""
    world.reduce_gradients(optimizer)
    norms: list[Tensor] = []
    for parameters in _by_role(optimizer):
        limit = float("inf") if max_grad_norm is None else max_grad_norm
        norms.append(whole(nn.utils.clip_grad_norm_(parameters, limit)))
    optimizer.step()
    optimizer.zero_grad()
    total: Tensor = torch.stack(norms).norm()
    return total


def _by_role(optimizer: Any) -> Iterator[list[nn.Parameter]]:
    roles: dict[str, list[nn.Parameter]] = {}
    for group in optimizer.param_groups:
        roles.setdefault(group["role"], []).extend(group["params"])
    yield from roles.values()


def check_trainer(trainer: Any) -> None:
    """Refuse what would train wrongly: strategies that do not work, and fp16, before whose scale is removed a gradient
    norm is taken.

    Raises:
        UserError: such a strategy, tensor parallelism, sharded weights in inference mode, ``precision="16-mixed"``.
    """
    strategy = getattr(trainer, "strategy", None)
    check_capabilities(strategy=strategy_name(strategy))
    if isinstance(strategy, ModelParallelStrategy) and strategy.device_mesh["tensor_parallel"].size() > 1:
        raise UserError(
            f"tensor_parallel_size={strategy.device_mesh['tensor_parallel'].size()}: models are not cut within their "
            f"layers; set tensor_parallel_size=1 and data_parallel_size={trainer.world_size}"
        )
    if isinstance(strategy, ModelParallelStrategy) and trainer.validate_loop.inference_mode:
        raise UserError("sharded weights do not survive Lightning's inference mode: set trainer.inference_mode=false")
    if str(trainer.precision) == "16-mixed":
        raise UserError("trainer.precision=16-mixed is not supported; use bf16-mixed or 32-true")
