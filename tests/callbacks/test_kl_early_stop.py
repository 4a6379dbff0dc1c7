from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from rlhf_lightning.callbacks import IterationCheckpoint, KLEarlyStop
from rlhf_lightning.errors import UserError


def with_kl(module: Any, kl: list[float]) -> Any:
    step = module.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        outputs = step(batch, batch_idx)
        rollout = outputs["rollout"]
        return outputs | {"rollout": rollout._replace(kl=torch.full_like(rollout.kl, kl[batch_idx]))}

    module.training_step = training_step
    return module


@pytest.mark.parametrize(
    ("kl", "patience", "iterations"),
    [
        ([1.0, 2.0, 2.1, 1.0, 9.0], 1, 3),  # the limit itself is allowed
        ([3.0, 1.0, 3.0, 3.0, 1.0], 2, 4),  # in a row
        ([3.0, 1.0, 3.0, 1.0, 3.0], 2, 5),
        ([1.0, float("nan"), 1.0, 1.0, 1.0], 1, 2),
    ],
)
def test_run_stops_after_enough_iterations_in_a_row(
    make_ppo: Any, make_data: Any, make_trainer: Any, kl: list[float], patience: int, iterations: int
) -> None:
    module = with_kl(make_ppo(), kl)
    make_trainer(callbacks=[KLEarlyStop(max_kl=2.0, patience=patience)]).fit(module, make_data(iterations=5))
    assert module.iterations == iterations


def test_stop_says_why_and_is_an_ordinary_end(make_ppo: Any, make_data: Any, make_trainer: Any, tmp_path: Any) -> None:
    trainer = make_trainer(callbacks=[KLEarlyStop(max_kl=2.0), IterationCheckpoint(folder=tmp_path / "c", every=9)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(with_kl(make_ppo(), [1.0, 2.5, 1.0]), make_data())
    said = [str(warning.message) for warning in caught if "KLEarlyStop" in str(warning.message)]
    assert said == [
        "KLEarlyStop: iteration 2 has a KL of 2.5 nats per response, above 2 for the 1. time in a row; training stops "
        "here. Raise module.kl_coef or lower module.learning_rate to stay closer to the reference"
    ]
    assert trainer.state.finished
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["iteration-000002.ckpt"]


def test_count_is_resumed() -> None:
    first, second = KLEarlyStop(max_kl=1.0, patience=3), KLEarlyStop(max_kl=1.0, patience=3)
    first.exceeded = 2
    second.load_state_dict(first.state_dict())
    assert second.exceeded == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_kl": 0.0}, "callbacks.kl_early_stop.max_kl=0.0 must be a positive number"),
        ({"max_kl": float("nan")}, "callbacks.kl_early_stop.max_kl=nan must be a positive number"),
        ({"max_kl": 1.0, "patience": 0}, "callbacks.kl_early_stop.patience=0 must be at least 1 iteration"),
    ],
)
def test_values_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        KLEarlyStop(**arguments)
