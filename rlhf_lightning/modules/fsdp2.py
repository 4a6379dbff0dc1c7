"""Lightning's strategy for FSDP2, told how many processes share the weights."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy


def fsdp2_strategy(
    *,
    accelerator: str = "auto",
    devices: Any = "auto",
    num_nodes: int = 1,
    process_group_backend: str | None = None,
) -> ModelParallelStrategy:
    """A ``ModelParallelStrategy`` whose data-parallel group is every process of a run.

    Lightning's own default makes a tensor-parallel group of each node, whose processes would all read the same data.
    Checkpoints are folders to which each process writes its shards.

    Args:
        accelerator, devices, num_nodes: of the trainer that it is for.
        process_group_backend: ``nccl`` or ``gloo``; by default the one for the device.
    """
    # Lightning resolves "auto", lists and -1; this trainer starts nothing.
    counted = L.Trainer(
        accelerator=accelerator, devices=devices, num_nodes=num_nodes, logger=False, enable_checkpointing=False
    )
    return ModelParallelStrategy(
        data_parallel_size=counted.num_devices * num_nodes,
        tensor_parallel_size=1,
        process_group_backend=process_group_backend,
    )
