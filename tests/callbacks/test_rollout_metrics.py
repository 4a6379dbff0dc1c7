from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from rlhf_lightning.callbacks import (
    AdaptiveKLController,
    CollapseAlarm,
    KLEarlyStop,
    RolloutMetrics,
    SampleTable,
    rollout_metrics,
)
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import Rollout, SFTModule, Trajectory

NAN = float("nan")


def example(*, learned: tuple[bool, bool, bool] = (True, True, True)) -> tuple[Rollout, Trajectory]:
    """Three episodes of 2, 3 and 1 tokens; whatever is past their ends is NaN."""
    tokens = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])

    def padded(rows: list[list[float]]) -> Tensor:
        return torch.tensor([row + [NAN] * (3 - len(row)) for row in rows])

    rollout = Rollout(
        prompts=["a", "b", "c"],
        responses=["x", "y z", "x"],
        finished=torch.tensor([True, False, True]),
        scores=torch.tensor([1.0, 2.0, 3.0]),
        kl=torch.tensor([0.5, 1.0, 0.0]),
    )
    trajectory = Trajectory(
        input_ids=torch.zeros(3, 5, dtype=torch.long),
        prompt_lengths=torch.tensor([2, 2, 2]),
        response_lengths=torch.tensor([2, 3, 1]),
        mask=tokens & torch.tensor(learned).unsqueeze(1),
        logprobs=padded([[0.0] * 2, [0.0] * 3, [0.0]]),
        ref_logprobs=padded([[0.0] * 2, [0.0] * 3, [0.0]]),
        entropy=padded([[1.0, 2.0], [3.0, 0.0, 4.0], [2.0]]),
        values=padded([[1.0, 1.0], [2.0, 2.0, 2.0], [5.0]]),
        rewards=padded([[-0.25, 1.0], [0.0, -0.5, 2.0], [3.0]]),
        advantages=padded([[0.0] * 2, [0.0] * 3, [0.0]]),
        returns=padded([[1.0, 3.0], [2.0, 2.0, 2.0], [4.0]]),
    )
    return rollout, trajectory


def test_metrics_of_a_literal_rollout() -> None:
    metrics = {name: value.item() for name, value in rollout_metrics(*example()).items()}
    assert metrics == pytest.approx(
        {
            "rollout/reward": (0.75 + 1.5 + 3.0) / 3,
            "rollout/entropy": 12 / 6,
            "rollout/eos_rate": 2 / 3,
            "rollout/response_length": 2.0,
            "rollout/unique": 2 / 3,
            # returns 1 3 2 2 2 4: variance (1.777+0.444+0.111*3+2.777)/6 = 8/9; errors 0 2 0 0 0 -1: 5/6 - 1/36
            "train/explained_variance": 1 - (5 / 6 - 1 / 36) / (8 / 9),
        },
        abs=1e-5,
    )


def test_episodes_that_are_left_out_of_the_loss_are_left_out_of_reward_alone() -> None:
    metrics = rollout_metrics(*example(learned=(True, False, True)))
    assert metrics["rollout/reward"].item() == pytest.approx((0.75 + 3.0) / 2)
    assert metrics["rollout/entropy"].item() == pytest.approx(2.0)
    assert metrics["rollout/eos_rate"].item() == pytest.approx(2 / 3)


def test_returns_that_do_not_vary_explain_nothing() -> None:
    rollout, trajectory = example()
    constant = trajectory._replace(returns=torch.full_like(trajectory.returns, 2.0))
    assert rollout_metrics(rollout, constant)["train/explained_variance"].isnan()


def test_logged_values_are_those_of_the_run(
    make_ppo: Any, make_data: Any, make_trainer: Any, memory_logger: Any, recorder: Any
) -> None:
    make_trainer(callbacks=[RolloutMetrics(), recorder], logger=memory_logger).fit(make_ppo(), make_data())
    for step, outputs in enumerate(recorder.outputs):
        rollout, trajectory = outputs["rollout"], outputs["trajectory"]
        at, logged = memory_logger.rows[step]
        assert at == step
        assert logged["rollout/score"] == pytest.approx(rollout.scores.mean().item())
        assert logged["rollout/kl"] == pytest.approx(rollout.kl.mean().item())
        # The reward is score minus β·KL: apart in the log, together here (β = 0.02, the module's default).
        together = (rollout.scores - 0.02 * rollout.kl).mean().item()
        assert logged["rollout/reward"] == pytest.approx(together, abs=1e-5)
        assert logged["rollout/eos_rate"] == pytest.approx(sum(rollout.finished.tolist()) / 8)
        assert logged["rollout/response_length"] == pytest.approx(sum(trajectory.response_lengths.tolist()) / 8)
        assert logged["rollout/unique"] == pytest.approx(len(set(rollout.responses)) / 8)
        assert {"rollout/entropy", "train/explained_variance", "train/clip_fraction", "train/ratio"} <= logged.keys()


@pytest.mark.parametrize(
    "callback",
    [
        RolloutMetrics(),
        SampleTable(),
        CollapseAlarm(),
        KLEarlyStop(max_kl=1.0),
        AdaptiveKLController(target=1.0, horizon=1),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_stage_without_episodes_is_refused(callback: L.Callback, make_causal_lm: Any, make_trainer: Any) -> None:
    name = type(callback).__name__
    with pytest.raises(UserError, match=f"^{name} reads the episodes of PPO and SFTModule has none; leave "):
        make_trainer(callbacks=[callback], max_steps=1).fit(SFTModule(policy=make_causal_lm), [torch.zeros(1)])


def test_overridden_step_that_returns_no_episodes_is_refused(make_ppo: Any, make_data: Any, make_trainer: Any) -> None:
    module = make_ppo()
    module.training_step = lambda batch, batch_idx: None
    with pytest.raises(UserError, match=r"^training_step returned no 'rollout' and 'trajectory'; "):
        make_trainer(callbacks=[RolloutMetrics()]).fit(module, make_data())
