"""Supervised fine-tuning, and pretraining: next-token prediction on the marked tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from rlhf_lightning.data import PackedBatch, TokenBatch
from rlhf_lightning.functional import cross_entropy
from rlhf_lightning.models import (
    PackedStates,
    TokenLogprobs,
    as_factory,
    check_own,
    check_vocabulary,
    loaded_by_first,
    shard,
    through,
    trainable,
)
from rlhf_lightning.modules.adapter_checkpoints import (
    check_bases,
    check_precision,
    keep_bases_apart,
    note_bases,
    note_trained,
)
from rlhf_lightning.modules.batching import check_micro_batch, micro_batches, token_rows, with_shapes_on_cpu
from rlhf_lightning.modules.compatibility import check_weights
from rlhf_lightning.modules.context import check_context
from rlhf_lightning.modules.optimization import (
    OptimizerFactory,
    Schedule,
    adamw,
    check_trainer,
    clip_and_step,
    lr_scheduler,
    parameter_groups,
)
from rlhf_lightning.modules.randomness import part_streams
from rlhf_lightning.modules.stopping import StopTogether
from rlhf_lightning.modules.world import World


class SFTModule(L.LightningModule):
    """Fine-tunes a policy on demonstrations: mean cross-entropy over response tokens, EOS included.

    ``loss = −Σ log π(y_t | x, y_<t) / number of response tokens of the whole batch`` (InstructGPT, section 3.5), so
    that the gradient does not depend on ``micro_batch_size``. With a data module of plain text the same loss over
    every token is pretraining.

    A batch of packs (``PackedBatch``) has the loss and the gradient of the same examples unpacked. Models and attention
    implementations that would let the examples of a pack see each other are refused before training.

    Args:
        policy: makes the causal language model, of transformers or one's own (:class:`~rlhf_lightning.models.Policy`);
            called once, in ``configure_model``.
        learning_rate: 9.65e-6 for the paper's 1.3B and 6B models.
        optimizer: makes the optimizer from parameter groups; AdamW with β = (0.9, 0.95) by default.
        weight_decay: of matrices; biases and norms are never decayed.
        schedule: ``cosine`` to ``schedule_floor`` over the run (the paper's), or ``constant``.
        warmup_steps: optimizer steps of linear warm-up (the paper: none).
        schedule_floor: last fraction of the learning rate (the paper: 0.1).
        max_grad_norm: gradient norm limit; ``None`` does not clip.
        micro_batch_size, micro_batch_tokens: most sequences (packs, where they are packed) and tokens, padding
            included, of a forward and backward pass; the whole batch by default.
    """

    def __init__(
        self,
        *,
        policy: Callable[[], nn.Module],
        learning_rate: float = 9.65e-6,
        optimizer: OptimizerFactory | None = None,
        weight_decay: float = 0.0,
        schedule: Schedule = "cosine",
        warmup_steps: int = 0,
        schedule_floor: float = 0.1,
        max_grad_norm: float | None = 1.0,
        micro_batch_size: int | None = None,
        micro_batch_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # one optimizer step sums several micro-batches of unequal token counts
        self.save_hyperparameters(ignore=["policy", "optimizer"])
        keep_bases_apart(self)
        check_micro_batch(micro_batch_size, micro_batch_tokens)
        self._policy_factory = as_factory(policy)
        self._optimizer_factory = optimizer or adamw
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule: Schedule = schedule
        self.warmup_steps = warmup_steps
        self.schedule_floor = schedule_floor
        self.max_grad_norm = max_grad_norm
        self.micro_batch_size, self.micro_batch_tokens = micro_batch_size, micro_batch_tokens
        self.world = World()
        self.policy: Any = None

    def configure_model(self) -> None:
        """Make the policy, once."""
        if self.policy is None:
            with loaded_by_first(self.device_mesh is not None):
                policy = trainable(self._policy_factory(), role="policy")
            self.policy = shard(policy, self.device_mesh)
            self._logprobs = TokenLogprobs(self.policy)
            self._packed_states = PackedStates(self.policy)
            note_trained(self)

    def setup(self, stage: str) -> None:
        """Refuse what this module cannot do yet; look who else trains."""
        check_trainer(self.trainer)
        self.world = World.of(self.trainer)

    def configure_optimizers(self) -> Any:
        """One optimizer; the schedule is stepped after each optimizer step."""
        groups = parameter_groups({"policy": self.policy}, {"policy": self.learning_rate}, self.weight_decay)
        optimizer = self._optimizer_factory(groups)
        scheduler = lr_scheduler(
            optimizer,
            schedule=self.schedule,
            total=lambda: self.trainer.estimated_stepping_batches,
            warmup=self.warmup_steps,
            floor=self.schedule_floor,
        )
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def configure_callbacks(self) -> StopTogether:
        """Processes that train together stop together."""
        return StopTogether()

    def on_fit_start(self) -> None:
        """Lightning leaves a model that was loaded in eval mode there; dropout of each rank is its own."""
        self.train()
        part_streams(self.world)
        check_precision(self)
        data = getattr(self.trainer, "datamodule", None)
        check_vocabulary(self.policy, getattr(data, "encoder", None), role="policy")
        check_own(self.policy, getattr(data, "encoder", None), samples=False)
        check_context(self.policy, data)
        if getattr(data, "packing", None) is not None:
            with self.trainer.precision_plugin.forward_context():
                through(self.policy, self._packed_states.check)

    def loss(self, batch: TokenBatch | PackedBatch, count: Tensor) -> Tensor:
        """``−Σ log π / count`` over the marked tokens of ``batch``; ``count`` is that of the whole batch."""
        hidden = None
        if isinstance(batch, PackedBatch):
            packed = (batch.input_ids, batch.lengths, batch.position_ids)
            hidden = through(self.policy, self._packed_states, *packed)
        logprobs, _ = self._logprobs(batch.input_ids, batch.loss_mask, hidden=hidden, entropy=False)
        return cross_entropy(logprobs, torch.ones_like(logprobs, dtype=torch.bool), count=count)

    def training_step(self, batch: TokenBatch | PackedBatch, batch_idx: int) -> dict[str, Tensor]:
        """One optimizer step over all micro-batches of the batch."""
        optimizer: Any = self.optimizers()
        total, _ = self._loss(batch, backward=True)
        grad_norm = clip_and_step(optimizer, self.max_grad_norm, self.world)
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        self.log("train/loss", total, prog_bar=True)
        self.log("train/grad_norm", grad_norm)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
        return {"loss": total}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Beside an adapter, note which base it belongs to."""
        note_bases(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model."""
        check_bases(self, checkpoint)
        check_weights(self, checkpoint)

    def validation_step(self, batch: TokenBatch | PackedBatch, batch_idx: int) -> None:
        """Mean loss per token, weighted by tokens over the batches."""
        total, count = self._loss(batch, backward=False)
        self.log("val/loss", total, prog_bar=True, batch_size=int(count), sync_dist=True)

    def _loss(self, batch: TokenBatch | PackedBatch, *, backward: bool) -> tuple[Tensor, Tensor]:
        """Loss of the batch over all ranks and its number of labels."""
        count = self.world.total(batch.loss_mask.sum())
        total = torch.zeros((), device=self.device)
        batch = with_shapes_on_cpu(batch)
        limits = (self.micro_batch_size, self.micro_batch_tokens)
        parts = micro_batches(batch.lengths, *limits, few_passes=self.world.sharded)
        for rows, counts in self.world.in_step(parts):
            loss = self.loss(token_rows(batch, rows), count)
            if backward:
                self.world.backward(self, loss, counts=counts)
            if counts:
                total += loss.detach()
        return self.world.total(total), count
