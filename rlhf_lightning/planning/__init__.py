"""What a run will need and do, calculated from plain numbers: no model, no trainer, no tensor."""

from rlhf_lightning.planning.duration import backward_operations, forward_operations, iteration_seconds, operations
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
from rlhf_lightning.planning.options import Option, cheapest, options_of
from rlhf_lightning.planning.processes import Strategy, gathered_bytes, memory_of, sharded
from rlhf_lightning.planning.run import PlannedRun, Stage
from rlhf_lightning.planning.schedule import RunSchedule, ppo_schedule, supervised_schedule
from rlhf_lightning.planning.stages import MemoryPlan, RoleMemory, plan_ppo, plan_reward, plan_sft
from rlhf_lightning.planning.traffic import (
    Passes,
    all_gather_bytes,
    all_reduce_bytes,
    bytes_moved,
    iteration_passes,
    optimizer_steps,
)
from rlhf_lightning.planning.units import parse_bytes
from rlhf_lightning.planning.wording import gigabytes, memory_lines, peak_line, schedule_line

__all__ = [
    "MemoryPlan",
    "ModelSize",
    "Optimizer",
    "Option",
    "Passes",
    "PlannedRun",
    "RoleMemory",
    "RunSchedule",
    "Stage",
    "Strategy",
    "activation_bytes",
    "all_gather_bytes",
    "all_reduce_bytes",
    "backward_operations",
    "bytes_moved",
    "cache_bytes",
    "cheapest",
    "forward_operations",
    "gathered_bytes",
    "gigabytes",
    "gradient_bytes",
    "iteration_passes",
    "iteration_seconds",
    "layer_bytes",
    "logits_bytes",
    "memory_lines",
    "memory_of",
    "operations",
    "optimizer_bytes",
    "optimizer_steps",
    "options_of",
    "parse_bytes",
    "peak_line",
    "plan_ppo",
    "plan_reward",
    "plan_sft",
    "ppo_schedule",
    "schedule_line",
    "sharded",
    "supervised_schedule",
]
