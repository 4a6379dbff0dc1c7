"""What a run is going to do, said before it does it."""

from __future__ import annotations

import logging

import lightning as L

from rlhf_lightning.modules.run_plan import plan_lines

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
        for line in plan_lines(pl_module, data, trainer):
            log.info(line)
