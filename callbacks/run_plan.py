"""What a run is going to do, said before it does it."""

from __future__ import annotations

import logging

import lightning as L

from rlhf_lightning.errors import one_line
from rlhf_lightning.modules.run_plan import memory_plan, run_schedule
from rlhf_lightning.planning import memory_lines, schedule_line

log = logging.getLogger(__name__)


class RunPlan(L.Callback):
    """Log the run's counts and its memory by role, when the data is ready and before the policy's weights are loaded.

    What is not known is left out: the memory of models that are made by functions of the user's own, the steps of text
    that is streamed. A plan that cannot be made stops no run.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        data = getattr(trainer, "datamodule", None)  # set without a declaration, hence getattr
        schedule = run_schedule(pl_module, data, trainer)
        if schedule is not None:
            log.info("plan: %s", schedule_line(schedule))
        try:
            memory = memory_plan(pl_module, data)
        except Exception as error:  # where the model cannot be loaded, loading it says so better
            log.info("memory: no estimate (%s: %s)", type(error).__name__, one_line(error))
            return
        if memory is not None and trainer.world_size > 1:
            log.info("memory: an estimate for one process alone; each of these %d holds less", trainer.world_size)
        for line in [] if memory is None else memory_lines(memory):
            log.info("memory: %s", line)
