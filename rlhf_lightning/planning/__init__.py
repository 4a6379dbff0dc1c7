"""What a run will need and do, calculated from plain numbers: no model, no trainer, no tensor."""

from rlhf_lightning.planning.memory import (
    Optimizer,
    activation_bytes,
    cache_bytes,
    gradient_bytes,
    layer_bytes,
    logits_bytes,
    optimizer_bytes,
)
from rlhf_lightning.planning.model_size import ModelSize
from rlhf_lightning.planning.schedule import RunSchedule, ppo_schedule, supervised_schedule
from rlhf_lightning.planning.stages import MemoryPlan, RoleMemory, plan_ppo, plan_reward, plan_sft
from rlhf_lightning.planning.wording import gigabytes, memory_lines, peak_line, schedule_line

__all__ = [
    "MemoryPlan",
    "ModelSize",
    "Optimizer",
    "RoleMemory",
    "RunSchedule",
    "activation_bytes",
    "cache_bytes",
    "gigabytes",
    "gradient_bytes",
    "layer_bytes",
    "logits_bytes",
    "memory_lines",
    "optimizer_bytes",
    "peak_line",
    "plan_ppo",
    "plan_reward",
    "plan_sft",
    "ppo_schedule",
    "schedule_line",
    "supervised_schedule",
]
