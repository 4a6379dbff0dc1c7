"""A step of a pipeline: the reward stage over groups of labelers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlhf_lightning.evaluation import cross_validate_labelers
from rlhf_lightning.models import RewardModelScorer
from rlhf_lightning.train import train_stage


def cross_validate_stage(
    *,
    stage: DictConfig,
    comparisons: str,
    out: str | Path,
    groups: int = 5,
    validation_share: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """Train the reward stage once for each held-out group of labelers; see
    :func:`~rlhf_lightning.evaluation.cross_validate_labelers`.

    Args:
        stage: the config of the stage; its training file and folder are replaced.
        comparisons: what it trains on, with a ``labeler`` in each row.
        out: folder of the folds. A fold whose training was stopped goes on from its newest checkpoint.
        groups, validation_share, seed: of the folds.
    """

    def train(file: Path, folder: Path) -> RewardModelScorer:
        # Its paths were resolved when this function was called.
        one = OmegaConf.create(_moved(OmegaConf.to_container(stage, resolve=True), str(stage.run_dir), str(folder)))
        one.data.train, one.data.validation, one.resume = str(file), None, "auto"
        train_stage(one)
        return RewardModelScorer(name=str(folder / "model"))

    return cross_validate_labelers(
        comparisons, train, out=out, groups=groups, validation_share=validation_share, seed=seed
    )


def _moved(node: Any, old: str, new: str) -> Any:
    """The same with every path in the folder ``old`` in ``new`` instead."""
    if isinstance(node, dict):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    inside = isinstance(node, str) and (node == old or node.startswith(f"{old}/"))
    return new + node.removeprefix(old) if inside else node
