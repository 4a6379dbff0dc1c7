from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from rlhf_lightning.callbacks import CollapseAlarm
from rlhf_lightning.callbacks.collapse_alarm import collapsed
from rlhf_lightning.errors import UserError


def collapsing(module: Any, at: int) -> Any:
    """The module, whose policy says one thing with certainty and never ends from iteration ``at`` on."""
    step = module.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        outputs = step(batch, batch_idx)
        rollout, trajectory = outputs["rollout"], outputs["trajectory"]
        if batch_idx + 1 < at:
            return outputs
        same = rollout._replace(responses=["yes"] * 8, finished=torch.zeros(8, dtype=torch.bool))
        certain = trajectory._replace(entropy=torch.full_like(trajectory.entropy, 0.001))
        return outputs | {"rollout": same, "trajectory": certain}

    module.training_step = training_step
    return module


def alarms(caught: list[warnings.WarningMessage]) -> list[str]:
    return sorted(str(entry.message) for entry in caught if "CollapseAlarm" in str(entry.message))


def test_each_kind_warns_once(make_ppo: Any, make_data: Any, make_trainer: Any) -> None:
    module = collapsing(make_ppo(), at=2)
    alarm = CollapseAlarm(min_entropy=0.1, min_unique=0.25, min_eos_rate=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(callbacks=[alarm]).fit(module, make_data())
    assert alarms(caught) == [
        "CollapseAlarm: iteration 2: rollout/entropy is 0.001, below 0.1: the policy has become almost certain; raise "
        "module.kl_coef or lower module.learning_rate",
        "CollapseAlarm: iteration 2: rollout/unique is 0.125, below 0.25: the policy gives the same responses over and "
        "over; raise module.kl_coef, and read the samples for what the reward likes about them",
    ]
    assert module.iterations == 3


def test_stop_ends_the_run(make_ppo: Any, make_data: Any, make_trainer: Any) -> None:
    module = collapsing(make_ppo(), at=2)
    alarm = CollapseAlarm(min_entropy=None, min_unique=None, min_eos_rate=0.01, action="stop")
    with pytest.warns(UserWarning, match=r"iteration 2: rollout/eos_rate is 0, below 0.01: .*; training stops here"):
        make_trainer(callbacks=[alarm]).fit(module, make_data())
    assert module.iterations == 2


def test_only_what_is_below_its_limit_is_reported() -> None:
    metrics = {"a": 0.5, "b": 0.5, "c": 0.5, "d": float("nan")}
    found = collapsed(metrics, {"a": 0.5, "b": 0.6, "c": None, "d": 0.1})
    assert list(found) == ["b", "d"]
    assert found["b"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_entropy": -1.0}, "min_entropy=-1.0 must be at least 0 nats, or null"),
        ({"min_unique": 1.5}, "min_unique=1.5 is a share: between 0 and 1, or null"),
        ({"min_eos_rate": -0.1}, "min_eos_rate=-0.1 is a share"),
        ({"action": "shout"}, "action='shout' is neither 'warn' nor 'stop'"),
    ],
)
def test_values_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CollapseAlarm(**arguments)
