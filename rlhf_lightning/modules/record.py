"""What a module tells of its training, for the card of its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from rlhf_lightning.data import TextDataModule
from rlhf_lightning.models import RewardModelScorer, RunRecord, SharedReward
from rlhf_lightning.modules.ppo import PPOModule
from rlhf_lightning.modules.reward import RewardModule
from rlhf_lightning.modules.sft import SFTModule

# What of a data module's settings decides how a model trains.
DATA = (
    "batch_size",
    "rollout_batch_size",
    "responses_per_prompt",
    "ptx_ratio",
    "max_length",
    "max_prompt_length",
    "block_size",
    "text_block",
)
OF_TEXT = ("ptx_ratio", "text_block")  # settings of pretraining text, of which a run of PPO may have none
UNMEASURED = "Nothing here measures how truthful or harmless it is: evaluate it on your own prompts before it is used."


def run_record(
    module: L.LightningModule,
    *,
    data: Any,
    card: Mapping[str, Any],
    progress: Mapping[str, object],
    metrics: Mapping[str, float],
) -> RunRecord:
    """The record of a run of any module of this package, or of one's own.

    Args:
        module: that trained, or one with its settings.
        data: the data module; ``None``: there was none.
        card: what :func:`~rlhf_lightning.data.data_card` gives of it.
        progress: how far training went.
        metrics: the last value of each.
    """
    method, tags, notes, limits = _described(module, data)
    settings = {"module": type(module).__name__, **progress, **module.hparams}
    used = DATA if getattr(data, "text", None) is not None else [name for name in DATA if name not in OF_TEXT]
    settings |= {f"data.{name}": getattr(data, name) for name in used if getattr(data, name, None) is not None}
    factory = getattr(module, "_optimizer_factory", None)
    if factory is not None:
        factory = getattr(factory, "func", factory)
        settings["optimizer"] = getattr(factory, "__name__", type(factory).__name__)
    return RunRecord(
        method=method, tags=tags, settings=settings, data=card, metrics=metrics, notes=notes, limits=limits
    )


def _described(module: L.LightningModule, data: Any) -> tuple[str, list[str], list[str], list[str]]:
    """Method, tags, notes and limits."""
    if isinstance(module, PPOModule):
        mixed = getattr(data, "text", None) is not None and module.ptx_coef != 0
        method = "PPO with a pretraining mix (PPO-ptx)" if mixed else "PPO"
        notes = [f"It was optimised against {_reward(module.reward)}; the metrics below are of the last batch."]
        if module.kl_coef != module.hparams["kl_coef"]:
            notes.append(f"The KL coefficient was adapted, to {module.kl_coef:.4g} in the end.")
        limits = [
            "What the reward overlooks has not become better and may have become worse; the further the policy has "
            "moved from its reference (rollout/kl, in nats a response), the less the reward's score says.",
            UNMEASURED,
        ]
        return method, ["ppo", "ppo-ptx"] if mixed else ["ppo"], notes, limits
    if isinstance(module, RewardModule):
        notes = ["It scores a prompt with its response at the last token, which is the EOS of a finished response."]
        if module.center and getattr(data, "demonstrations", None) is not None:
            notes.append(
                "Demonstrations score 0 on average: the bias is part of the head's weight, so that nothing has to be "
                "added to a score."
            )
        limits = [
            "Scores rank responses to one prompt; scores of different prompts, or of other reward models, do not "
            "compare.",
            "A policy that is optimised against it finds what it gets wrong: watch the KL and read samples.",
        ]
        return "reward modelling on rankings", ["reward-model"], notes, limits
    if isinstance(module, SFTModule) and isinstance(data, TextDataModule):
        return (
            "next-token prediction on plain text",
            ["pretraining"],
            [],
            ["It continues text and follows no instructions.", UNMEASURED],
        )
    if isinstance(module, SFTModule):
        limits = ["It imitates its demonstrations, their mistakes included.", UNMEASURED]
        return "supervised fine-tuning (SFT)", ["sft"], [], limits
    return f"training with {type(module).__name__}", [], [], [UNMEASURED]


def _reward(reward: Any) -> str:
    name = reward.folder.parent if isinstance(reward, SharedReward) else None
    if isinstance(reward, RewardModelScorer):
        name = Path(str(reward.model.model.name_or_path))
    if name is not None:
        shown = name if not name.is_absolute() else Path(*name.parts[-2:])
        return f"the reward model `{shown}`"
    return f"the reward `{getattr(reward, '__name__', type(reward).__name__)}`"
