"""Reinforcement learning from human feedback as Lightning components: SFT, reward model, PPO-ptx.

The public names are those of ``__all__`` here, in ``rlhf_lightning.functional`` and in ``rlhf_lightning.callbacks``,
and the configs ``pkg://rlhf_lightning.conf``; GUIDE.md says what each is for. Everything else may change.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
else:

    def __getattr__(name: str) -> object:
        """Import a public name where it is first asked for: who wants one of them does not wait for all."""
        if name == "functional":
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _FOLDER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"{__name__}.{_FOLDER[name]}"), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


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

_FOLDERS = {
    "data": (
        "ComparisonBatch",
        "ComparisonDataModule",
        "DemonstrationDataModule",
        "Encoder",
        "Prompt",
        "PromptBatch",
        "PromptDataModule",
        "PromptHygiene",
        "TextDataModule",
        "TokenBatch",
    ),
    "errors": ("CheckpointError", "UserError"),
    "models": (
        "Generation",
        "Lora",
        "NativeEngine",
        "Policy",
        "Quantization",
        "RewardModelScorer",
        "RolloutEngine",
        "ScalarModel",
        "SharedReward",
        "TokenLogprobs",
        "WeightedSum",
        "generate",
        "load_causal_lm",
        "load_scalar_model",
        "save_model_folder",
    ),
    "modules": ("Muon", "PPOModule", "RewardModule", "Rollout", "SFTModule", "Trajectory", "fsdp2_strategy"),
}
_FOLDER = {name: folder for folder, names in _FOLDERS.items() for name in names}
