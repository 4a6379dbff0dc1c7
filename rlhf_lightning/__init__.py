"""Reinforcement learning from human feedback as Lightning components: SFT, reward model, PPO-ptx.

The public names are those of ``__all__`` here, in ``rlhf_lightning.functional`` and in ``rlhf_lightning.callbacks``,
and the configs ``pkg://rlhf_lightning.conf``; GUIDE.md says what each is for. Everything else may change.
"""

from rlhf_lightning import functional
from rlhf_lightning.data import (
    ComparisonBatch,
    ComparisonDataModule,
    DemonstrationDataModule,
    Encoder,
    Prompt,
    PromptBatch,
    PromptDataModule,
    PromptHygiene,
    TextDataModule,
    TokenBatch,
)
from rlhf_lightning.errors import CheckpointError, UserError
from rlhf_lightning.models import (
    Generation,
    Lora,
    NativeEngine,
    Policy,
    Quantization,
    RewardModelScorer,
    RolloutEngine,
    ScalarModel,
    SharedReward,
    TokenLogprobs,
    WeightedSum,
    generate,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
)
from rlhf_lightning.modules import Muon, PPOModule, RewardModule, Rollout, SFTModule, Trajectory, fsdp2_strategy

__all__ = [
    "CheckpointError",
    "ComparisonBatch",
    "ComparisonDataModule",
    "DemonstrationDataModule",
    "Encoder",
    "Generation",
    "Lora",
    "Muon",
    "NativeEngine",
    "PPOModule",
    "Policy",
    "Prompt",
    "PromptBatch",
    "PromptDataModule",
    "PromptHygiene",
    "Quantization",
    "RewardModelScorer",
    "RewardModule",
    "Rollout",
    "RolloutEngine",
    "SFTModule",
    "ScalarModel",
    "SharedReward",
    "TextDataModule",
    "TokenBatch",
    "TokenLogprobs",
    "Trajectory",
    "UserError",
    "WeightedSum",
    "fsdp2_strategy",
    "functional",
    "generate",
    "load_causal_lm",
    "load_scalar_model",
    "save_model_folder",
]
