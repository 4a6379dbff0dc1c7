"""End a trial of Optuna early that others have left behind."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from rlhf_lightning.callbacks.episodes import iterations_done
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    import optuna

VARIABLE = "RLHF_OPTUNA_TRIAL"
PRUNED_AT = "pruned_at"


class OptunaPruning(L.Callback):
    """Reports a metric to a trial of Optuna and stops the run once the study's pruner calls it hopeless.

    The metric is reported at the end of each training batch (of PPO: of each iteration), one of validation (``val/``)
    at the end of each validation. The stop is an ordinary end of training, with its checkpoint and export; the metric
    ``pruned_at`` then holds the iteration, by which ``rlhf-train`` knows. Needs the extra ``optuna``.

    Args:
        monitor: the metric, that which the study optimizes.
        pruner: of Optuna; ``None`` for its default, which compares with the median of other trials at the same step.
        trial: whose number and study these are; ``None`` for the one that ``rlhf-train -m`` with
            ``hydra/sweeper=optuna`` runs, and for no pruning where there is none.
    """

    def __init__(
        self,
        *,
        monitor: str | None,
        pruner: optuna.pruners.BasePruner | None = None,
        trial: optuna.Trial | None = None,
    ) -> None:
        if not isinstance(monitor, str):
            raise UserError(f"callbacks.optuna_pruning.monitor={monitor}: one metric can be monitored; name it")
        self.monitor = monitor
        self.pruner = pruner
        self.trial = trial

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the trial; the first process speaks with the study."""
        if self.trial is None and trainer.is_global_zero and VARIABLE in os.environ:
            self.trial = _running(**json.loads(os.environ[VARIABLE]), pruner=self.pruner)
        if self.trial is not None and len(self.trial.study.directions) > 1:
            raise UserError("callbacks.optuna_pruning: Optuna does not prune where several metrics are optimized")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report a metric of training."""
        if not self.monitor.startswith("val/"):
            self._report(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report a metric of validation."""
        if self.monitor.startswith("val/") and not trainer.sanity_checking:
            self._report(trainer, pl_module)

    def _report(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.trial is None:
            return
        if self.monitor not in trainer.callback_metrics:
            raise UserError(
                f"callbacks.optuna_pruning.monitor={self.monitor}: there is no such metric; there are "
                f"{', '.join(sorted(trainer.callback_metrics))}"
            )
        step = iterations_done(trainer)
        # A run that goes on from a checkpoint may have told of this step already.
        if step not in self.trial.storage.get_trial(self.trial._trial_id).intermediate_values:
            self.trial.report(float(trainer.callback_metrics[self.monitor]), step)
        if self.trial.should_prune():
            trainer.should_stop = True
            pl_module.log(PRUNED_AT, float(step), rank_zero_only=True)
            rank_zero_info(f"OptunaPruning: trial {self.trial.number} is hopeless after iteration {step} and ends here")


def _running(*, storage: str, study: str, number: int, pruner: optuna.pruners.BasePruner | None) -> optuna.Trial:
    import optuna

    loaded = optuna.load_study(study_name=study, storage=storage, pruner=pruner)
    (stored,) = [trial for trial in loaded.get_trials(deepcopy=False) if trial.number == number]
    # Optuna has no public way from a trial's number to the trial.
    return optuna.Trial(loaded, stored._trial_id)
