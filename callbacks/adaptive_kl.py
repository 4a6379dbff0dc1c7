"""The KL coefficient follows a target KL."""

from __future__ import annotations

import math
from typing import Any

import lightning as L

from rlhf_lightning.callbacks.episodes import episodes, iterations_done, require_episodes
from rlhf_lightning.errors import UserError
from rlhf_lightning.functional.kl import adaptive_kl_coef


class AdaptiveKLController(L.Callback):
    """After each iteration ``β ← β·(1 + clip(KL/target − 1, −0.2, 0.2)·episodes/horizon)``, with the iteration's mean
    KL in nats per response.

    Logs ``rollout/kl_over_target`` = KL/target; the module logs the β that an iteration used as ``train/kl_coef`` and
    keeps β in its checkpoints.

    Source: Ziegler et al. 2019, section 2.2. InstructGPT holds β fixed.

    Args:
        target: KL to hold, in nats per response.
        horizon: episodes over which β changes by up to 20 %.
    """

    def __init__(self, *, target: float, horizon: int) -> None:
        if not (math.isfinite(target) and target > 0):
            raise UserError(f"callbacks.adaptive_kl.target={target} must be a positive number of nats per response")
        if horizon < 1:
            raise UserError(f"callbacks.adaptive_kl.horizon={horizon} must be at least 1 episode")
        self.target = target
        self.horizon = horizon

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Only for modules with a KL coefficient that can move."""
        require_episodes(self, pl_module)
        coefficient = getattr(pl_module, "kl_coef", None)
        if not isinstance(coefficient, int | float):
            raise UserError(
                f"AdaptiveKLController sets the KL coefficient and {type(pl_module).__name__} has no number kl_coef; "
                "give it the attribute and read it in every iteration, or leave the callback out"
            )
        if not coefficient > 0:
            raise UserError(
                f"AdaptiveKLController multiplies the KL coefficient, and module.kl_coef={coefficient} stays "
                "where it is; start above 0 or leave the callback out"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Set the coefficient of the next iteration."""
        rollout, _ = episodes(outputs)
        kl = float(rollout.kl.mean())
        if not math.isfinite(kl):
            raise UserError(
                f"iteration {iterations_done(trainer)}: the KL is {kl}, the policy has diverged; "
                "resume from an earlier checkpoint with a smaller module.learning_rate"
            )
        pl_module.log("rollout/kl_over_target", kl / self.target)
        module: Any = pl_module
        module.kl_coef = adaptive_kl_coef(
            float(module.kl_coef),
            kl,
            target=self.target,
            episodes=len(rollout.kl),
            horizon=self.horizon,
        )
