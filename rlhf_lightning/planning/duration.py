"""Seconds of an iteration from the arithmetic of a device and the connection between devices."""

from __future__ import annotations

from rlhf_lightning.errors import UserError
from rlhf_lightning.planning.model_size import ModelSize
from rlhf_lightning.planning.processes import Strategy
from rlhf_lightning.planning.run import PlannedRun
from rlhf_lightning.planning.traffic import bytes_moved, iteration_passes


def forward_operations(size: ModelSize, tokens: int) -> float:
    """A multiplication and an addition for each weight and token: ``2 · parameters · tokens`` (Kaplan et al. 2020,
    section 2.1). Attention between tokens, which adds little to wide models, is left out."""
    return 2.0 * size.parameters * tokens


def backward_operations(size: ModelSize, tokens: int) -> float:
    """The gradient of the activations through all weights, and that of the weights that train:
    ``2 · (parameters + trained) · tokens``, which is ``4 · parameters`` a token where all train; and one more forward
    pass with activation checkpointing."""
    again = size.parameters if size.checkpointing else 0
    return 2.0 * (size.parameters + size.trained + again) * tokens


def operations(run: PlannedRun, processes: int = 1) -> float:
    """Floating-point operations of one of n devices in an iteration."""
    found = 0.0
    for _, role, _, tokens, backward in iteration_passes(run, processes):
        size = run.read[role]
        found += forward_operations(size, tokens) + (backward_operations(size, tokens) if backward else 0.0)
    return found


def iteration_seconds(
    run: PlannedRun, strategy: Strategy, processes: int, *, flops: float, bandwidth: float
) -> tuple[float, float]:
    """Seconds of arithmetic, ``operations / flops``, and of messages, ``bytes / bandwidth``. One may hide the other: an
    iteration takes between the larger and their sum. Rates are those that are reached, not those of a data sheet;
    sampling, which reads all weights from memory for every token, reaches far less than training.

    Args:
        run: the stage.
        strategy: ``auto``, ``ddp`` or ``fsdp2``.
        processes: n.
        flops: operations per second of a device.
        bandwidth: bytes per second that a device sends.

    Raises:
        UserError: a rate that is not positive.
    """
    for name, rate in (("flops", flops), ("bandwidth", bandwidth)):
        if not rate > 0:
            raise UserError(f"{name}={rate} must be positive; give it per second, such as flops=150e12 bandwidth=50e9")
    moved = sum(bytes_moved(run, strategy, processes).values())
    return operations(run, processes) / flops, moved / bandwidth
