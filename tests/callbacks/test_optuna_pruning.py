"""Hopeless trials end early: what is reported, when the run stops, and that nothing happens without a study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch.utils.data import DataLoader

from rlhf_lightning.callbacks import OptunaPruning
from rlhf_lightning.errors import UserError


class Constant(L.LightningModule):
    """Logs the same value at each of six batches, and that plus 10 at each validation."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.log("score", self.value)
        return self.weight.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/score", self.value + 10)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.zeros(6))  # type: ignore[arg-type]  # rows of a tensor are its items

    def val_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.zeros(2))  # type: ignore[arg-type]  # likewise


# Optuna prunes from this step on, not only behind it.
PRUNER = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=3)
Make = Callable[..., L.Trainer]


def study_with(values: list[float], storage: str | None = None) -> optuna.Study:
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize", pruner=PRUNER)
    for value in values:
        trial = study.ask()
        for step in range(1, 7):
            trial.report(value, step)
        study.tell(trial, value)
    return study


@pytest.mark.parametrize(("value", "last"), [(0.5, 3), (5.0, 6)])
def test_a_trial_below_the_median_ends_after_the_warm_up(make_trainer: Make, value: float, last: int) -> None:
    trial = study_with([1.0, 2.0, 3.0]).ask()
    trainer = make_trainer(callbacks=[OptunaPruning(monitor="score", trial=trial)])
    trainer.fit(Constant(value))
    assert trial.study.trials[-1].intermediate_values == dict.fromkeys(range(1, last + 1), value)
    assert trainer.global_step == last
    pruned = trainer.callback_metrics.get("pruned_at")
    assert (None if last == 6 else float(last)) == (None if pruned is None else float(pruned))


def test_a_metric_of_validation_is_reported_once_a_validation(make_trainer: Make) -> None:
    trial = study_with([]).ask()
    trainer = make_trainer(callbacks=[OptunaPruning(monitor="val/score", trial=trial)], val_check_interval=3)
    trainer.fit(Constant(1.0))
    assert trial.study.trials[-1].intermediate_values == {3: 11.0, 6: 11.0}


def test_the_trial_is_found_by_what_the_sweep_leaves_in_the_environment(
    make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a job of a sweep, where a run that goes on has told of its first steps already."""
    storage = f"sqlite:///{tmp_path}/study.db"
    study = study_with([1.0, 2.0, 3.0], storage)
    trial = study.ask()
    trial.report(0.25, 1)
    monkeypatch.setenv("RLHF_OPTUNA_TRIAL", json.dumps({"storage": storage, "study": "s", "number": trial.number}))
    make_trainer(callbacks=[OptunaPruning(monitor="score", pruner=PRUNER)]).fit(Constant(0.5))
    stored = study.trials[-1]
    assert stored.intermediate_values == {1: 0.25, 2: 0.5, 3: 0.5}
    assert stored.state == TrialState.RUNNING  # the sweeper tells the end


def test_without_a_study_nothing_happens(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLHF_OPTUNA_TRIAL", raising=False)
    trainer = make_trainer(callbacks=[OptunaPruning(monitor="no such metric")])
    trainer.fit(Constant(0.5))
    assert trainer.global_step == 6


def test_mistakes_are_named(make_trainer: Make) -> None:
    with pytest.raises(UserError, match="one metric can be monitored"):
        OptunaPruning(monitor=None)
    trial = study_with([]).ask()
    with pytest.raises(UserError, match=r"monitor=scor: there is no such metric; there are .*score"):
        make_trainer(callbacks=[OptunaPruning(monitor="scor", trial=trial)]).fit(Constant(0.5))
    two = optuna.create_study(directions=["maximize", "minimize"]).ask()
    with pytest.raises(UserError, match="does not prune where several"):
        make_trainer(callbacks=[OptunaPruning(monitor="score", trial=two)]).fit(Constant(0.5))
