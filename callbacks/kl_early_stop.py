"""Stop a run that has left its reference too far behind."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from rlhf_lightning.callbacks.episodes import episodes, iterations_done, require_episodes
from rlhf_lightning.errors import UserError


class KLEarlyStop(L.Callback):
    """Stops the run once the mean KL of an iteration exceeds ``max_kl`` in ``patience`` iterations in a row.

    What was trained stays: the stop is an ordinary end of training, with its validation, checkpoint and export. A KL
    that is not a number counts as too large. The count is part of the checkpoint.

    Args:
        max_kl: limit in nats per response.
        patience: iterations in a row.
    """

    def __init__(self, *, max_kl: float, patience: int = 1) -> None:
        if not max_kl > 0:
            raise UserError(f"callbacks.kl_early_stop.max_kl={max_kl} must be a positive number of nats per response")
        if patience < 1:
            raise UserError(f"callbacks.kl_early_stop.patience={patience} must be at least 1 iteration")
        self.max_kl = max_kl
        self.patience = patience
        self.exceeded = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Only for modules that sample."""
        require_episodes(self, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and stop if it is enough."""
        rollout, _ = episodes(outputs)
        kl = float(rollout.kl.mean())
        # Written so that NaN is too large.
        self.exceeded = 0 if kl <= self.max_kl else self.exceeded + 1
        if self.exceeded >= self.patience:
            trainer.should_stop = True
            rank_zero_warn(
                f"KLEarlyStop: iteration {iterations_done(trainer)} has a KL of {kl:.4g} nats per response, above "
                f"{self.max_kl:g} for the {self.exceeded}. time in a row; training stops here. "
                "Raise module.kl_coef or lower module.learning_rate to stay closer to the reference"
            )

    def state_dict(self) -> dict[str, Any]:
        """The count so far."""
        return {"exceeded": self.exceeded}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.exceeded = int(state_dict["exceeded"])
