"""Numbers that tell how sampling goes."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import Tensor

from rlhf_lightning.callbacks.episodes import episodes, require_episodes
from rlhf_lightning.functional.masking import explained_variance, masked_mean, masked_sum
from rlhf_lightning.modules import Rollout, Trajectory
from rlhf_lightning.modules.trajectory import response_mask


def rollout_metrics(rollout: Rollout, trajectory: Trajectory) -> dict[str, Tensor]:
    """Metrics of the episodes of one iteration, all scalars.

    - ``rollout/reward``: mean over the episodes that are learned from of the sum of their per-token rewards, score
      minus β times KL; the module logs ``rollout/score`` and ``rollout/kl`` apart;
    - ``rollout/entropy``: mean over response tokens of the policy's entropy, in nats;
    - ``rollout/eos_rate``: share of responses that ended by themselves;
    - ``rollout/response_length``: mean tokens of a response, EOS included;
    - ``rollout/unique``: share of different responses;
    - ``train/explained_variance``: of the returns by the values, ``1 − Var(R − V)/Var(R)``; NaN if returns are equal.

    Args:
        rollout: b responses.
        trajectory: the same b episodes; only tokens of responses are read, whatever stands in the padding.
    """
    tokens = response_mask(trajectory.response_lengths, trajectory.entropy.shape[1]).to(trajectory.entropy.device)
    learned = trajectory.mask.any(1)
    unique = trajectory.rewards.new_tensor(len(set(rollout.responses)) / max(len(rollout.responses), 1))
    return {
        "rollout/reward": masked_mean(masked_sum(trajectory.rewards, trajectory.mask, 1), learned),
        "rollout/entropy": masked_mean(trajectory.entropy, tokens),
        "rollout/eos_rate": rollout.finished.float().mean(),
        "rollout/response_length": trajectory.response_lengths.float().mean(),
        "rollout/unique": unique,
        "train/explained_variance": explained_variance(trajectory.values, trajectory.returns, trajectory.mask),
    }


class RolloutMetrics(L.Callback):
    """Logs :func:`rollout_metrics` of each iteration."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Only for modules that sample."""
        require_episodes(self, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the metrics of the iteration."""
        pl_module.log_dict(rollout_metrics(*episodes(outputs)))
