"""The strategies that a run could take, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf_lightning.planning.duration import iteration_seconds
from rlhf_lightning.planning.processes import Strategy, memory_of
from rlhf_lightning.planning.run import PlannedRun
from rlhf_lightning.planning.stages import MemoryPlan
from rlhf_lightning.planning.traffic import bytes_moved

FURTHER = 3
"""How often the devices are doubled, to see what more of them would give."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """A run under a strategy on a number of devices.

    Args:
        strategy, processes: what would be set.
        memory: of one device.
        fits: whether the tensors of its largest phase do.
        moved: bytes that a device sends in an iteration, by phase.
        seconds: of an iteration, arithmetic and messages; ``None`` where no rates are given.
        refused: why the combination cannot work; ``None`` where it can.
    """

    strategy: Strategy
    processes: int
    memory: MemoryPlan
    fits: bool
    moved: Mapping[str, float]
    seconds: tuple[float, float] | None = None
    refused: str | None = None

    @property
    def sent(self) -> float:
        """Bytes that a device sends in an iteration."""
        return sum(self.moved.values())


def options_of(
    run: PlannedRun,
    *,
    processes: int,
    device_memory: float,
    refused: Mapping[str, str],
    rates: tuple[float, float] | None = None,
) -> list[Option]:
    """One device; all n replicated and sharded; and sharded over 2n, 4n and 8n, as far as a minibatch can be shared.

    Args:
        run: the stage.
        processes: n.
        device_memory: bytes.
        refused: strategies that cannot work with this run, and why.
        rates: ``(flops, bandwidth)`` of a device.

    Raises:
        UserError: batches that n devices cannot share; a rate that is not positive.
    """
    run.check_shares(processes)
    choices: list[tuple[Strategy, int]] = [("auto", 1)]
    choices += [("ddp", processes), ("fsdp2", processes)] if processes > 1 else []
    more = [processes * 2**power for power in range(1, FURTHER + 1)]
    choices += [("fsdp2", count) for count in more if run.minibatch_size % count == 0]
    found = []
    for strategy, count in choices:
        memory = memory_of(run, strategy, count)
        found.append(
            Option(
                strategy=strategy,
                processes=count,
                memory=memory,
                fits=memory.peak <= device_memory,
                moved=bytes_moved(run, strategy, count),
                seconds=rates and iteration_seconds(run, strategy, count, flops=rates[0], bandwidth=rates[1]),
                refused=refused.get(strategy),
            )
        )
    return found


def cheapest(options: Sequence[Option], processes: int) -> Option | None:
    """Of the options on n devices that fit and are not refused, the one that sends the fewest bytes."""
    possible = [one for one in options if one.processes == processes and one.fits and one.refused is None]
    return min(possible, key=lambda one: one.sent, default=None)
