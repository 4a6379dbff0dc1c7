"""Plans in words."""

from __future__ import annotations

from rlhf_lightning.planning.schedule import RunSchedule
from rlhf_lightning.planning.stages import MemoryPlan, RoleMemory

GIB = 2**30


def gigabytes(number: float) -> str:
    """Bytes as GiB, or as MiB below a tenth of one."""
    return f"{number / GIB:.2f} GiB" if number >= GIB / 10 else f"{number / 2**20:.1f} MiB"


def schedule_line(schedule: RunSchedule) -> str:
    """The counts of a run on one line."""
    counts = {
        "iterations": schedule.iterations,
        "rows" if schedule.iterations is None else "episodes": schedule.rows,
        "optimizer steps": schedule.optimizer_steps,
        "learning-rate steps": schedule.learning_rate_steps,
        "pretraining tokens": schedule.pretraining_tokens or None,
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count is not None)


def memory_lines(plan: MemoryPlan) -> list[str]:
    """One line for each role, and one for the peak."""
    lines = [f"{role.role}: {_parts(role)}" for role in plan.roles]
    return [*lines, peak_line(plan)]


def peak_line(plan: MemoryPlan) -> str:
    """The largest phase in words."""
    return (
        f"at most {gigabytes(plan.peak)} of tensors at one time, in the {plan.largest_phase}; on a CPU about "
        f"{gigabytes(plan.resident)} of memory"
    )


def _parts(role: RoleMemory) -> str:
    parts = {
        "weights": role.weights,
        "gradients": role.gradients,
        "optimizer": role.optimizer,
        "activations": role.activations,
        "KV cache": role.cache,
    }
    return ", ".join(f"{name} {gigabytes(number)}" for name, number in parts.items() if number)
