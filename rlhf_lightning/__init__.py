"""Reinforcement learning from human feedback as Lightning components: SFT, reward model, PPO-ptx."""

from rlhf_lightning.data import (
    ComparisonDataModule,
    DemonstrationDataModule,
    Encoder,
    PromptDataModule,
    TextDataModule,
)
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    RewardModelScorer,
    ScalarModel,
    WeightedSum,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
)
from rlhf_lightning.modules import PPOModule, RewardModule, Rollout, SFTModule, Trajectory

__all__ = [
    "ComparisonDataModule",
    "DemonstrationDataModule",
    "Encoder",
    "PPOModule",
    "PromptDataModule",
    "RewardModelScorer",
    "RewardModule",
    "Rollout",
    "SFTModule",
    "ScalarModel",
    "TextDataModule",
    "Trajectory",
    "UserError",
    "WeightedSum",
    "load_causal_lm",
    "load_scalar_model",
    "save_model_folder",
]
