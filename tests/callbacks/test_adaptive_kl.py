from __future__ import annotations

from typing import Any

import pytest
import torch

from rlhf_lightning.callbacks import AdaptiveKLController
from rlhf_lightning.errors import UserError


def with_kl(module: Any, kl: list[float]) -> Any:
    """The module, with the mean KL of its iterations given."""
    step = module.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        outputs = step(batch, batch_idx)
        rollout = outputs["rollout"]
        return outputs | {"rollout": rollout._replace(kl=torch.full_like(rollout.kl, kl[batch_idx]))}

    module.training_step = training_step
    return module


def test_coefficient_follows_the_target(make_ppo: Any, make_data: Any, make_trainer: Any, memory_logger: Any) -> None:
    module = with_kl(make_ppo(kl_coef=0.5), [3.0, 0.0, 2.2])
    controller = AdaptiveKLController(target=2.0, horizon=16)  # half a horizon of 8 episodes an iteration
    make_trainer(callbacks=[controller], logger=memory_logger).fit(module, make_data())
    # 3/2 - 1 is clipped to 0.2: 0.5*1.1 = 0.55; 0/2 - 1 to -0.2: 0.55*0.9 = 0.495; 2.2/2 - 1 = 0.1: 0.495*1.05
    assert memory_logger.series("train/kl_coef") == pytest.approx([0.5, 0.55, 0.495])
    assert module.kl_coef == pytest.approx(0.519750)
    assert memory_logger.series("rollout/kl_over_target") == pytest.approx([1.5, 0.0, 1.1])


def test_kl_that_is_no_number_is_an_error(make_ppo: Any, make_data: Any, make_trainer: Any) -> None:
    module = with_kl(make_ppo(kl_coef=0.5), [2.0, float("nan")])
    with pytest.raises(UserError, match=r"^iteration 2: the KL is nan, the policy has diverged; "):
        make_trainer(callbacks=[AdaptiveKLController(target=2.0, horizon=16)]).fit(module, make_data())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 0.0, "horizon": 8}, "callbacks.adaptive_kl.target=0.0 must be a positive number"),
        ({"target": float("nan"), "horizon": 8}, "callbacks.adaptive_kl.target=nan must be a positive number"),
        ({"target": 6.0, "horizon": 0}, "callbacks.adaptive_kl.horizon=0 must be at least 1 episode"),
    ],
)
def test_values_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AdaptiveKLController(**arguments)


def test_coefficient_of_zero_cannot_move(make_ppo: Any, make_data: Any, make_trainer: Any) -> None:
    with pytest.raises(UserError, match=r"module.kl_coef=0.0 stays where it is"):
        make_trainer(callbacks=[AdaptiveKLController(target=6.0, horizon=8)]).fit(make_ppo(kl_coef=0.0), make_data())
