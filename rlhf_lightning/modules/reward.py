"""The reward model: one score per completion, learned from rankings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from rlhf_lightning.data import ComparisonBatch
from rlhf_lightning.functional import centering_direction, ranking_loss
from rlhf_lightning.models import (
    PromptTreeStates,
    ScalarModel,
    as_factory,
    check_vocabulary,
    loaded_by_first,
    shard,
    sharded_like,
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
from rlhf_lightning.modules.batching import (
    by_length,
    check_micro_batch,
    comparison_rows,
    longest_per_prompt,
    micro_batches,
    pairs_per_prompt,
)
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


class RewardModule(L.LightningModule):
    """Trains a reward model on K-way rankings (InstructGPT, eq. 1).

    ``loss = mean over prompts of mean over the prompt's pairs of −log σ(r_better − r_worse)``. All completions of a
    prompt stand in one batch and are scored once each: K sequences, not K(K−1).

    After training, demonstrations are shifted to a mean score of 0 (section 3.5), if the data module has some; see
    :func:`~rlhf_lightning.functional.centering_direction` for how a head without a bias carries the shift.

    Args:
        reward_model: makes the :class:`~rlhf_lightning.models.ScalarModel`; called once, in ``configure_model``.
        learning_rate: 9e-6 for the paper's 6B model.
        center: shift demonstrations to 0 after training.
        optimizer, weight_decay, schedule, warmup_steps, schedule_floor, max_grad_norm: as in ``SFTModule``.
        micro_batch_size, micro_batch_tokens: most prompts, with all their completions, and tokens, padding included,
            of a forward and backward pass; the whole batch by default.
        share_prompt: read a prompt once for all its completions, in one sequence with a tree-shaped attention mask
            (:class:`~rlhf_lightning.models.PromptTreeStates`), in place of :meth:`score`. Without dropout scores and
            gradients are the same. It saves time where prompts are not much shorter than completions; the mask takes
            the memory of s² numbers for rows of s tokens, which is about a prompt and all its completions.
    """

    def __init__(
        self,
        *,
        reward_model: Callable[[], ScalarModel],
        learning_rate: float = 9e-6,
        center: bool = True,
        optimizer: OptimizerFactory | None = None,
        weight_decay: float = 0.0,
        schedule: Schedule = "cosine",
        warmup_steps: int = 0,
        schedule_floor: float = 0.1,
        max_grad_norm: float | None = 1.0,
        micro_batch_size: int | None = None,
        micro_batch_tokens: int | None = None,
        share_prompt: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # one optimizer step sums several micro-batches of prompts
        self.save_hyperparameters(ignore=["reward_model", "optimizer"])
        keep_bases_apart(self)
        check_micro_batch(micro_batch_size, micro_batch_tokens)
        self._reward_model_factory = as_factory(reward_model)
        self._optimizer_factory = optimizer or adamw
        self.learning_rate = learning_rate
        self.center = center
        self.weight_decay = weight_decay
        self.schedule: Schedule = schedule
        self.warmup_steps = warmup_steps
        self.schedule_floor = schedule_floor
        self.max_grad_norm = max_grad_norm
        self.micro_batch_size, self.micro_batch_tokens = micro_batch_size, micro_batch_tokens
        self.share_prompt = share_prompt
        self.world = World()
        self.reward_model: Any = None

    def configure_model(self) -> None:
        """Make the reward model, once."""
        if self.reward_model is None:
            with loaded_by_first(self.device_mesh is not None):
                reward_model = trainable(self._reward_model_factory(), role="reward model")
            self.reward_model = shard(reward_model, self.device_mesh)
            self._tree_states = PromptTreeStates(self.reward_model.model)
            note_trained(self)

    def setup(self, stage: str) -> None:
        """Refuse what this module cannot do yet; look who else trains."""
        check_trainer(self.trainer)
        self.world = World.of(self.trainer)

    def configure_optimizers(self) -> Any:
        """One optimizer; the schedule is stepped after each optimizer step."""
        groups = parameter_groups({"reward": self.reward_model}, {"reward": self.learning_rate}, self.weight_decay)
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
        check_vocabulary(self.reward_model.model, getattr(data, "encoder", None), role="reward model")
        check_context(self.reward_model.model, data)
        if self.share_prompt:
            with self.trainer.precision_plugin.forward_context():
                through(self.reward_model, self._tree_states.check)

    def score(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores [n] of right-padded sequences [n, s]."""
        scores: Tensor = self.reward_model.score(input_ids, lengths)
        return scores

    def training_step(self, batch: ComparisonBatch, batch_idx: int) -> dict[str, Tensor]:
        """One optimizer step over all micro-batches of the batch."""
        optimizer: Any = self.optimizers()
        found = self._loss(batch, backward=True)
        loss, accuracy = found["loss"], found["correct"] / found["pairs"].clamp(min=1)
        grad_norm = clip_and_step(optimizer, self.max_grad_norm, self.world)
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", accuracy, prog_bar=True)
        self.log("train/grad_norm", grad_norm)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
        return {"loss": loss}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Beside an adapter, note which base it belongs to."""
        note_bases(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model."""
        check_bases(self, checkpoint)
        check_weights(self, checkpoint)

    def validation_step(self, batch: ComparisonBatch, batch_idx: int) -> None:
        """Loss over prompts; accuracy over pairs."""
        found = self._loss(batch, backward=False)
        accuracy = found["correct"] / found["pairs"].clamp(min=1)
        self.log("val/loss", found["loss"], prog_bar=True, batch_size=int(found["prompts"]), sync_dist=True)
        self.log("val/accuracy", accuracy, prog_bar=True, batch_size=int(found["pairs"]), sync_dist=True)

    def on_train_end(self) -> None:
        """Shift the demonstrations' mean score to 0."""
        # Lightning sets datamodule without declaring it.
        loader = getattr(self.trainer.datamodule, "demonstration_dataloader", lambda: None)()  # type: ignore[attr-defined]
        if self.center and loader is not None:
            self.shift_mean_score(loader)

    @torch.no_grad()
    def shift_mean_score(self, demonstrations: Any) -> Tensor:
        """Write a bias into the head that makes the mean score of ``demonstrations`` 0; returns that bias.

        Args:
            demonstrations: an iterable of ``TokenBatch``, prompts with their demonstrated responses.
        """
        self.reward_model.eval()
        features = torch.cat(
            [
                self.reward_model.last_hidden(b.input_ids.to(self.device), b.lengths.to(self.device))
                for b in demonstrations
            ]
        )
        head = self.reward_model.head
        bias: Tensor = -through(self.reward_model, head, features).double().mean()
        shift = (bias * centering_direction(features)).to(head.weight.dtype)
        head.weight += sharded_like(head.weight, shift.view_as(head.weight))
        return bias

    def _scores(self, part: ComparisonBatch) -> Tensor:
        if self.share_prompt:
            scores: Tensor = through(self.reward_model, self._tree_scores, part)
            return scores
        if self.world.sharded:  # one pass on every rank, whatever the lengths
            return self.score(part.input_ids, part.lengths)
        return by_length(self.score, part.input_ids, part.lengths)

    def _tree_scores(self, part: ComparisonBatch) -> Tensor:
        scores: Tensor = self.reward_model.head(self._tree_states(part.input_ids, part.lengths, part.group)).squeeze(-1)
        return scores

    def _loss(self, batch: ComparisonBatch, *, backward: bool) -> dict[str, Tensor]:
        """``loss`` of the batch over all ranks, ``correct`` pairs of its ``pairs``, and ``prompts`` that have a pair,
        computed prompt by prompt in micro-batches."""
        sizes = {"prompts": (pairs_per_prompt(batch) > 0).sum(), "pairs": torch.tensor(batch.better.numel())}
        sizes = self.world.totals({name: size.to(self.device) for name, size in sizes.items()})
        sums = {name: torch.zeros((), device=self.device) for name in ("loss", "correct")}
        longest, sequences = longest_per_prompt(batch), torch.bincount(batch.group)
        limits = (self.micro_batch_size, self.micro_batch_tokens)
        parts = micro_batches(longest, *limits, sequences=sequences, few_passes=self.world.sharded or self.share_prompt)
        for chosen, counts in self.world.in_step(parts):
            part = comparison_rows(batch, chosen.to(self.device))
            scores = self._scores(part)
            loss = ranking_loss(
                scores,
                part.better,
                part.worse,
                part.pair_group,
                pairs_of_prompt=pairs_per_prompt(part),
                prompts=sizes["prompts"],
            )
            if backward:
                self.world.backward(self, loss, counts=counts)
            if counts:
                sums["loss"] += loss.detach()
                sums["correct"] += (scores[part.better] > scores[part.worse]).sum()
        return self.world.totals(sums) | sizes
