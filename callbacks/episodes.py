"""Where the callbacks find an iteration's episodes and its number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L

from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import RewardModule, Rollout, SFTModule, Trajectory


def require_episodes(callback: L.Callback, pl_module: L.LightningModule) -> None:
    """Refuse a stage that does not sample, before anything is trained. Of a module of one's own only its first batch
    tells (:func:`episodes`).

    Raises:
        UserError: the module is one of this package that has no episodes.
    """
    if isinstance(pl_module, SFTModule | RewardModule):
        raise UserError(
            f"{type(callback).__name__} reads the episodes of PPO and {type(pl_module).__name__} has none; "
            "leave the callback out of this stage"
        )


def episodes(outputs: Any) -> tuple[Rollout, Trajectory]:
    """Rollout and trajectory that ``training_step`` returned.

    Raises:
        UserError: a ``training_step`` that returns something else.
    """
    found = (outputs.get("rollout"), outputs.get("trajectory")) if isinstance(outputs, Mapping) else (None, None)
    if not isinstance(found[0], Rollout) or not isinstance(found[1], Trajectory):
        raise UserError(
            "training_step returned no 'rollout' and 'trajectory'; this callback reads what PPOModule.training_step "
            "returns by these names: return a rlhf_lightning.Rollout and a rlhf_lightning.Trajectory, or leave it out"
        )
    return found[0], found[1]


def iterations_done(trainer: L.Trainer) -> int:
    """Training batches begun so far over all epochs: within ``on_train_batch_end`` the number, from 1, of the
    iteration that ends. Lightning's ``global_step`` counts optimizer steps, of which an iteration has several."""
    return int(trainer.fit_loop.total_batch_idx) + 1
