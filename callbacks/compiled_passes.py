"""Training and scoring under ``torch.compile``."""

from __future__ import annotations

import lightning as L
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import backbones, check_compiler, compile_passes, is_quantized, is_sharded


class CompiledPasses(L.Callback):
    """Compiles the forward passes, and with them the backward passes, of every transformers model in a module: policy,
    reference, value and reward model. Elementwise work is fused, which small models on a CPU spend half of their time
    on; the first passes take a minute longer.

    Results differ in rounding, so a run that is resumed goes on with the setting that it began with. Sampling is left
    as it is (``rollout.engine.compile=true`` compiles it).

    Raises:
        UserError: no compiler, no transformers model, one in shards or in few bits, or ``rollout.async=true``.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compile at the first passes."""
        if getattr(getattr(pl_module, "async_rollouts", None), "enabled", False):
            raise UserError(
                "CompiledPasses leaves sampling uncompiled, which torch switches for all threads at once: with "
                "rollout.async=true the updates beside it would be uncompiled, too; set rollout.async=false or leave "
                "compiled_passes out of callbacks"
            )
        found = backbones(pl_module, getattr(pl_module, "reward", None))
        if not found:
            raise UserError(
                f"CompiledPasses: {type(pl_module).__name__} has no model of transformers; compile your own with "
                "torch.nn.Module.compile, or leave compiled_passes out of callbacks"
            )
        for backbone in found:
            stored = "in shards" if is_sharded(backbone) else "in few bits" if is_quantized(backbone) else None
            if stored:
                raise UserError(
                    f"CompiledPasses cannot compile {type(backbone).__name__}, whose weights are kept {stored}: leave "
                    "compiled_passes out of callbacks"
                )
        check_compiler(
            torch.device(trainer.strategy.root_device),
            key="callbacks=[...,compiled_passes]",
            instead="leave compiled_passes out",
        )
        for backbone in found:
            compile_passes(backbone)
