"""Say so when a policy collapses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from rlhf_lightning.callbacks.episodes import episodes, iterations_done, require_episodes
from rlhf_lightning.callbacks.rollout_metrics import rollout_metrics
from rlhf_lightning.errors import UserError

WAYS_OUT = {
    "rollout/entropy": "the policy has become almost certain; raise module.kl_coef or lower module.learning_rate",
    "rollout/unique": "the policy gives the same responses over and over; raise module.kl_coef, and read the samples "
    "for what the reward likes about them",
    "rollout/eos_rate": "responses do not end; raise module.missing_eos_penalty or module.max_new_tokens",
}


def collapsed(metrics: Mapping[str, Tensor | float], limits: Mapping[str, float | None]) -> dict[str, float]:
    """The metrics that lie below their limit (NaN does, ``None`` limits nothing), with their values."""
    values = {name: float(metrics[name]) for name, limit in limits.items() if limit is not None}
    # `values` has only the names of limits that are not None.
    return {name: value for name, value in values.items() if not value >= limits[name]}  # type: ignore[operator]


class CollapseAlarm(L.Callback):
    """Warns, once per kind, or stops the run, when an iteration's entropy, share of different responses or share of
    responses that end falls below its limit.

    Args:
        min_entropy: of the policy, in nats per token; ``None`` is no limit, here and below.
        min_unique: share of different responses of an iteration.
        min_eos_rate: share of responses that end by themselves.
        action: ``warn``, or ``stop`` to end training as well (an ordinary end: what was trained stays).
    """

    def __init__(
        self,
        *,
        min_entropy: float | None = 0.01,
        min_unique: float | None = 0.05,
        min_eos_rate: float | None = 0.1,
        action: Literal["warn", "stop"] = "warn",
    ) -> None:
        if min_entropy is not None and not min_entropy >= 0:
            raise UserError(f"callbacks.collapse_alarm.min_entropy={min_entropy} must be at least 0 nats, or null")
        for name, share in (("min_unique", min_unique), ("min_eos_rate", min_eos_rate)):
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"callbacks.collapse_alarm.{name}={share} is a share: between 0 and 1, or null")
        if action not in ("warn", "stop"):
            raise UserError(f"callbacks.collapse_alarm.action={action!r} is neither 'warn' nor 'stop'")
        self.limits = {
            "rollout/entropy": min_entropy,
            "rollout/unique": min_unique,
            "rollout/eos_rate": min_eos_rate,
        }
        self.action = action
        self._warned: set[str] = set()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Only for modules that sample; a new fit warns anew."""
        require_episodes(self, pl_module)
        self._warned = set()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare the iteration with the limits."""
        found = collapsed(rollout_metrics(*episodes(outputs)), self.limits)
        for name in found.keys() - self._warned:
            rank_zero_warn(
                f"CollapseAlarm: iteration {iterations_done(trainer)}: {name} is {found[name]:.4g}, below "
                f"{self.limits[name]:g}: {WAYS_OUT[name]}" + ("; training stops here" if self.action == "stop" else "")
            )
        self._warned |= found.keys()
        if found and self.action == "stop":
            trainer.should_stop = True
