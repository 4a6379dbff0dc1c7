"""Whether a checkpoint belongs to the model at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rlhf_lightning.errors import CheckpointError


def check_weights(module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Compare names and shapes before torch does, whose error lists every weight on a line of its own. A sharded
    checkpoint has been compared and taken back when the rest of it, which is what comes here, is read.

    Raises:
        CheckpointError: a weight that is missing, unknown or of another shape.
    """
    if "state_dict" not in checkpoint:
        return
    weights: Mapping[str, Tensor] = checkpoint["state_dict"]
    own = module.state_dict()
    for name in (*own, *weights):
        here = tuple(own[name].shape) if name in own else None
        there = tuple(weights[name].shape) if name in weights else None
        if here != there:
            raise CheckpointError(
                f"the checkpoint is of another model: {name} has shape {there} there and {here} here; "
                "give the checkpoint of this model, or the model of this checkpoint"
            )
