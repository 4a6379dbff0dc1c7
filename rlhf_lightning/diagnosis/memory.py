"""Whether a run fits into this machine."""

from __future__ import annotations

from pathlib import Path

import torch

from rlhf_lightning.diagnosis.finding import CheckFailed, NothingToCheck
from rlhf_lightning.planning import MemoryPlan, gigabytes

MEMINFO = Path("/proc/meminfo")


def memory_of(device: torch.device) -> float | None:
    """Bytes that are free on a device; on a CPU what Linux can give without swapping, elsewhere unknown."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if not MEMINFO.is_file():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="ascii").splitlines() if ":" in line)
    return float(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def fits(plan: MemoryPlan | None, available: float | None, device: torch.device) -> str:
    """The plan is within what is available.

    Args:
        plan: of the run.
        device: of the run.
        available: bytes, measured before any model was loaded; ``None`` where it is not known.
    """
    if plan is None:
        raise NothingToCheck("the size of these models is not known")
    needed = plan.resident if device.type == "cpu" else plan.peak
    need = f"{plan.stage} needs about {gigabytes(needed)} in its {plan.largest_phase}"
    if available is None:
        raise NothingToCheck(f"{need}; what this machine has is not known")
    found = f"{need}, {gigabytes(available)} are free"
    if needed > available:
        ways = ["model/lora=default"] if any(role.optimizer > 0.1 * plan.peak for role in plan.roles) else []
        ways += ["model/quantization=nf4", "module.roles=shared", "model.activation_checkpointing=true"]
        ways += ["a smaller module.micro_batch_size"]
        if plan.largest_phase == "rollout":
            ways = ["a smaller data.rollout_batch_size or module.max_new_tokens", *ways]
        raise CheckFailed(found, f"try {', '.join(ways)}")
    return found
