from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.modules.optimization import (
    adamw,
    check_trainer,
    clip_and_step,
    lr_scheduler,
    parameter_groups,
)
from rlhf_lightning.modules.world import World


def _two_roles() -> dict[str, nn.Module]:
    return {"policy": nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), "value": nn.Linear(3, 1)}


RATES = {"policy": 0.1, "value": 0.01}


def test_named_groups_by_role_and_kind() -> None:
    groups = parameter_groups(_two_roles(), RATES, 0.5)
    assert [(g["name"], g["role"], g["kind"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("policy/vector", "policy", "vector", 0.1, 0.0),
        ("policy/matrix", "policy", "matrix", 0.1, 0.5),
        ("value/embedding", "value", "embedding", 0.01, 0.5),  # a head with one output
        ("value/vector", "value", "vector", 0.01, 0.0),
    ]
    assert [[p.ndim for p in g["params"]] for g in groups] == [[1, 1, 1], [2], [2], [1]]


def test_frozen_parameters_are_left_out_and_a_frozen_role_is_refused() -> None:
    roles = _two_roles()
    roles["policy"][0].requires_grad_(False)
    kept = [g for g in parameter_groups(roles, RATES, 0.0) if g["role"] == "policy"]
    assert [len(g["params"]) for g in kept] == [2]
    roles["value"].requires_grad_(False)
    with pytest.raises(UserError, match="the value has no trainable parameter"):
        parameter_groups(roles, RATES, 0.0)


def _with_gradients(policy: list[float], value: list[float]) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    for parameter, gradient in zip(parameters, (policy, value), strict=True):
        parameter.grad = torch.tensor(gradient)
    groups = [{"params": [p], "role": role} for p, role in zip(parameters, ("policy", "value"), strict=True)]
    return torch.optim.SGD(groups, lr=1.0), parameters


def test_each_role_is_clipped_by_its_own_norm() -> None:
    optimizer, (policy, value) = _with_gradients([3.0, 4.0], [0.0, 0.5])
    norm = clip_and_step(optimizer, 1.0, World())
    assert norm.item() == pytest.approx((25 + 0.25) ** 0.5)  # of all roles, before clipping
    assert policy.tolist() == pytest.approx([-0.6, -0.8], abs=1e-5)  # 5 clipped to 1
    assert value.tolist() == [0.0, -0.5]  # small enough, whatever the policy's norm
    assert policy.grad is None or not policy.grad.any()


def test_without_a_limit_nothing_is_clipped() -> None:
    optimizer, (policy, _) = _with_gradients([30.0, 40.0], [0.0, 0.0])
    assert clip_and_step(optimizer, None, World()).item() == 50.0
    assert policy.tolist() == [-30.0, -40.0]


def test_adamw_has_the_papers_betas() -> None:
    optimizer = adamw(parameter_groups(_two_roles(), RATES, 0.0))
    assert {(g["betas"], g["eps"]) for g in optimizer.param_groups} == {((0.9, 0.95), 1e-5)}


def test_schedules() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = lr_scheduler(optimizer, schedule="constant", total=lambda: 0, warmup=2, floor=0.1)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.2, 1.1, 2.0, 2.0])
    with pytest.raises(UserError, match=r"module.schedule='linear'"):
        # Wrong on purpose.
        lr_scheduler(optimizer, schedule="linear", total=lambda: 1, warmup=0, floor=0.1)  # type: ignore[arg-type]


def test_fp16_is_refused() -> None:
    check_trainer(SimpleNamespace(precision="bf16-mixed"))
    with pytest.raises(UserError, match="bf16-mixed"):
        check_trainer(SimpleNamespace(precision="16-mixed"))


def _sharded(tensor_parallel: int, *, inference_mode: bool) -> SimpleNamespace:
    strategy = Mock(spec=ModelParallelStrategy)
    strategy.device_mesh = {"tensor_parallel": SimpleNamespace(size=lambda: tensor_parallel)}
    loop = SimpleNamespace(inference_mode=inference_mode)
    return SimpleNamespace(strategy=strategy, validate_loop=loop, world_size=4, precision="32-true")


def test_what_sharded_weights_need_of_a_trainer() -> None:
    check_trainer(_sharded(1, inference_mode=False))
    with pytest.raises(UserError, match=r"set trainer.inference_mode=false"):
        check_trainer(_sharded(1, inference_mode=True))
    with pytest.raises(UserError, match=r"set tensor_parallel_size=1 and data_parallel_size=4"):
        check_trainer(_sharded(2, inference_mode=False))
    with pytest.raises(UserError, match=r"strategy=fsdp is not possible"):
        check_trainer(SimpleNamespace(strategy=FSDPStrategy(), precision="32-true"))
