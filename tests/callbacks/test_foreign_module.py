"""Callbacks of this package on a module that is none of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rlhf_lightning.callbacks import (
    AdaptiveKLController,
    CollapseAlarm,
    DataCard,
    IterationCheckpoint,
    KLEarlyStop,
    RolloutMetrics,
    RunPlan,
    SampleTable,
    TrainingProgressBar,
)
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import Rollout, Trajectory


class Bare(L.LightningModule):
    """Trains one number; has nothing that a callback of ours reads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.weight.square().sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Sampling(Bare):
    """Has episodes: two responses, of 1 and 2 tokens, with a KL of 3 nats each."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        mask = torch.tensor([[True, False], [True, True]])
        halves = torch.full((2, 2), 0.5)
        episodes = Trajectory(
            torch.zeros(2, 3, dtype=torch.long), torch.tensor([1, 1]), torch.tensor([1, 2]), mask, *[halves] * 7
        )
        scores = torch.tensor([1.0, 2.0])
        rollout = Rollout(["p", "q"], ["x", "y"], torch.tensor([True, False]), scores, torch.tensor([3.0, 3.0]))
        return {"loss": super().training_step(batch, batch_idx), "rollout": rollout, "trajectory": episodes}


BATCHES: Any = DataLoader(torch.zeros(3, 1))  # type: ignore[arg-type]  # a tensor has a length and rows


def test_what_reads_nothing_of_a_module_works_on_any(make_trainer: Any, tmp_path: Path) -> None:
    callbacks = [IterationCheckpoint(folder=tmp_path), DataCard(folder=tmp_path), RunPlan(), TrainingProgressBar()]
    make_trainer(callbacks=callbacks, enable_progress_bar=True).fit(Bare(), BATCHES)
    assert (tmp_path / "iteration-000003.ckpt").is_file()


def test_what_reads_episodes_works_on_a_step_that_returns_them(
    make_trainer: Any, memory_logger: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Sampling()
    module.kl_coef = 0.5
    callbacks = [RolloutMetrics(), SampleTable(), CollapseAlarm(), AdaptiveKLController(target=3.0, horizon=2)]
    trainer = make_trainer(
        callbacks=[*callbacks, KLEarlyStop(max_kl=2.0, patience=2)], logger=memory_logger, log_every_n_steps=1
    )
    with pytest.warns(UserWarning, match="iteration 2 has a KL of 3 nats"):
        trainer.fit(module, BATCHES)
    assert trainer.global_step == 2  # stopped
    assert memory_logger.series("rollout/eos_rate") == [0.5, 0.5]
    assert memory_logger.series("rollout/response_length") == [1.5, 1.5]
    assert memory_logger.series("rollout/kl_over_target") == [1.0, 1.0]
    assert "Samples of iteration 1" in capsys.readouterr().out


@pytest.mark.parametrize("callback", [RolloutMetrics(), SampleTable(), CollapseAlarm(), KLEarlyStop(max_kl=1.0)])
def test_a_step_without_episodes_is_an_error(callback: L.Callback, make_trainer: Any) -> None:
    with pytest.raises(UserError, match=r"return a rlhf_lightning\.Rollout and a rlhf_lightning\.Trajectory"):
        make_trainer(callbacks=[callback]).fit(Bare(), BATCHES)


def test_a_module_without_a_coefficient_is_an_error(make_trainer: Any) -> None:
    with pytest.raises(UserError, match="sets the KL coefficient and Sampling has no number kl_coef"):
        make_trainer(callbacks=[AdaptiveKLController(target=3.0, horizon=2)]).fit(Sampling(), BATCHES)
