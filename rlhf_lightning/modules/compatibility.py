"""Whether a checkpoint belongs to the model at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader

from rlhf_lightning.errors import CheckpointError
from rlhf_lightning.modules.adapter_checkpoints import check_bases

Shapes = Mapping[str, tuple[int, ...]]


def check_weights(module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Compare names and shapes before torch does, whose error lists every weight on a line of its own. Of a sharded
    checkpoint only the rest comes here; see :func:`check_shards`.

    Raises:
        CheckpointError: a weight that is missing, unknown or of another shape.
    """
    if "state_dict" in checkpoint:
        _compare(module, {name: tuple(weight.shape) for name, weight in checkpoint["state_dict"].items()})


def check_shards(module: nn.Module, path: Path) -> None:
    """Compare a sharded checkpoint with the model before any of it is read: torch would end every process with a
    traceback on the first weight that it misses, and leave out in silence what the model has no place for.

    Args:
        module: whose model is made.
        path: the checkpoint's folder.

    Raises:
        CheckpointError: as :func:`check_weights`, or an adapter of another base, or without one.
    """
    check_bases(module, torch.load(path / "meta.pt", map_location="cpu", weights_only=True))  # Lightning's name
    held = FileSystemReader(path).read_metadata().state_dict_metadata
    shapes = {name: tuple(getattr(weight, "size", ())) for name, weight in held.items()}
    prefix = "state_dict."
    _compare(module, {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)})


def _compare(module: nn.Module, weights: Shapes) -> None:
    own = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    for name in (*own, *weights):
        here, there = own.get(name), weights.get(name)
        if here != there:
            raise CheckpointError(
                f"the checkpoint is of another model: {name} has shape {there} there and {here} here; "
                "give the checkpoint of this model, or the model of this checkpoint"
            )
