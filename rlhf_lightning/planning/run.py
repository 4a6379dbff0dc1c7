"""A run as the numbers that its memory, its messages and its time follow from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rlhf_lightning.errors import UserError
from rlhf_lightning.planning.memory import Optimizer
from rlhf_lightning.planning.model_size import ModelSize

Stage = Literal["sft", "reward", "ppo"]
TRAINED = ("policy", "value")
"""The roles of PPO that train."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A stage with the models of its roles. Batch sizes are of all processes together, but for ``micro_batch_size``.

    Args:
        stage: ``sft``, ``reward`` or ``ppo``.
        roles: what each role adds to memory: ``policy`` of SFT, ``reward`` of reward training, up to four of PPO.
        read: the model that a pass of each role reads; of a role that is an adapter on another's base, that base, too,
            with every adapter on it.
        optimizer: of the run.
        rollout_batch_size: episodes of an iteration of PPO.
        minibatch_size: episodes, rows or, in reward training, prompts of an optimizer step.
        micro_batch_size: of them, in a forward and backward pass of one process.
        epochs: of PPO, passes over a rollout.
        completions: of a prompt in reward training.
        prompt_tokens, new_tokens: longest prompt and longest response.
        ptx_ratio, text_block: pretraining rows for an episode, and their tokens; 0 without.
        reward_batch_size: sequences that the reward model of PPO reads at a time.
    """

    stage: Stage
    roles: Mapping[str, ModelSize]
    read: Mapping[str, ModelSize]
    optimizer: Optimizer = "adamw"
    rollout_batch_size: int = 512
    minibatch_size: int = 64
    micro_batch_size: int = 64
    epochs: int = 1
    completions: int = 4
    prompt_tokens: int = 512
    new_tokens: int = 256
    ptx_ratio: int = 0
    text_block: int = 0
    reward_batch_size: int = 64

    def __post_init__(self) -> None:
        needed = ("rollout_batch_size", "minibatch_size", "micro_batch_size", "epochs", "completions")
        for name in (*needed, "prompt_tokens", "new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"run.{name}={getattr(self, name)} must be at least 1")

    @property
    def tokens(self) -> int:
        """Of the longest row."""
        return self.prompt_tokens + self.new_tokens

    @property
    def text_rows(self) -> int:
        """Pretraining rows of an optimizer step."""
        return self.minibatch_size * self.ptx_ratio if self.stage == "ppo" and self.text_block else 0

    def trains(self, role: str) -> bool:
        """Whether a role has gradients."""
        return self.stage != "ppo" or role in TRAINED

    def check_shares(self, processes: int) -> None:
        """Refuse batch sizes that the stage itself would refuse.

        Raises:
            UserError: names both numbers.
        """
        if self.stage == "ppo" and self.rollout_batch_size % self.minibatch_size:
            raise UserError(
                f"run.rollout_batch_size={self.rollout_batch_size} is not divisible by "
                f"run.minibatch_size={self.minibatch_size}; set one to a multiple or a divisor of the other"
            )
        if self.minibatch_size % processes:
            raise UserError(
                f"run.minibatch_size={self.minibatch_size} cannot be shared by {processes} devices; set it to a "
                f"multiple of {processes}, or take fewer nodes or devices"
            )
