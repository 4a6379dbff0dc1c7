"""Where the callbacks find an iteration's episodes and its number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L

from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import Rollout, Trajectory


def require_episodes(callback: L.Callback, pl_module: L.LightningModule) -> None:
    """Refuse a module that does not sample, before anything is trained.

    Raises:
        UserError: the module has no ``kl_coef``, so it is not one that trains on episodes.
    """
    if not hasattr(pl_module, "kl_coef"):
        raise UserError(
            f"{type(callback).__name__} reads the episodes of PPO and {type(pl_module).__name__} has none; "
            "leave the callback out of this stage"
        )


def episodes(outputs: Any) -> tuple[Rollout, Trajectory]:
    """Rollout and trajectory that ``training_step`` returned.

    Raises:
        UserError: a ``training_step`` that returns something else.
    """
    if not isinstance(outputs, Mapping) or not {"rollout", "trajectory"} <= outputs.keys():
        raise UserError(
            "training_step returned no 'rollout' and 'trajectory'; an overridden one must return those of "
            "PPOModule.training_step"
        )
    return outputs["rollout"], outputs["trajectory"]


def iterations_done(trainer: L.Trainer) -> int:
    """Training batches begun so far over all epochs: within ``on_train_batch_end`` the number, from 1, of the
    iteration that ends. Lightning's ``global_step`` counts optimizer steps, of which an iteration has several."""
    return int(trainer.fit_loop.total_batch_idx) + 1
