"""PPO with a pretraining mix (PPO-ptx), one iteration per training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from rlhf_lightning.data import Encoder, PromptBatch, TokenBatch
from rlhf_lightning.functional import (
    clipped_policy_loss,
    clipped_value_loss,
    cross_entropy,
    generalized_advantage_estimation,
    kl_estimate,
    masked_sum,
    masked_whiten,
    missing_eos_scores,
    per_token_rewards,
)
from rlhf_lightning.functional.kl import KLEstimator
from rlhf_lightning.functional.rewards import MissingEos
from rlhf_lightning.models import Generation, ScalarModel, TokenLogprobs, generate
from rlhf_lightning.modules.batching import micro_batches, token_rows
from rlhf_lightning.modules.experience import (
    add,
    evaluate_responses,
    mean_of,
    ratio_statistics,
    response_logprobs,
    response_values,
)
from rlhf_lightning.modules.optimization import (
    OptimizerFactory,
    adamw,
    clip_and_step,
    lr_scheduler,
    parameter_groups,
    require_one_process,
)
from rlhf_lightning.modules.ppo_checks import (
    check_batch_sizes,
    check_reference_is_policy,
    check_scores,
    check_settings,
)
from rlhf_lightning.modules.ppo_state import frozen_copy, restore_state, save_state
from rlhf_lightning.modules.trajectory import Rollout, Trajectory, join, response_mask


class PPOModule(L.LightningModule):
    """Reinforcement learning from a reward with PPO and, given pretraining text, PPO-ptx (InstructGPT, section 3.5).

    It maximises ``E[score(x, y) − β log(π(y|x)/π_ref(y|x))] + γ_ptx E_pretrain[log π(x)]`` (eq. 2). One
    ``training_step`` is one iteration: :meth:`rollout`, :meth:`score`, :meth:`evaluate`, :meth:`advantages`, then
    ``epochs`` passes of clipped updates. Batches are dicts with ``prompts`` and, for ptx, ``text``.

    Each optimizer step moves Lightning's ``global_step``; iterations are counted in ``iterations``.

    Args:
        policy: makes the causal language model; called once, in ``configure_model``.
        reward: ``(prompts, responses) -> scores [b]``, any callable over text.
        encoder: of the policy.
        value: makes the value model; ``None`` means V = 0 and no value loss.
        reference: makes the model that KL is measured against; by default a frozen copy of the first policy.
        max_new_tokens: longest response, EOS included.
        temperature: divides the logits in sampling and in every log-probability (the paper: 1).
        kl_coef: β, the KL penalty's coefficient (the paper: 0.02).
        kl_estimator: ``k1`` (the paper's), ``k2`` or ``k3``; what is penalised is what is logged.
        gamma, lam: γ (the paper: 1) and λ of GAE (not in the paper: 0.95).
        clip, value_clip: ε of the policy (the paper: 0.2) and of the value (not in the paper: 0.2; ``None``: off).
        value_coef: weight of the value loss (not in the paper: 0.1).
        ptx_coef: γ_ptx (the paper: 27.8); needs text in the batches.
        whiten_advantages, whiten_rewards: advantages to mean 0 and variance 1; rewards scaled only (not in the
            paper: on and off).
        missing_eos, missing_eos_penalty: see :func:`~rlhf_lightning.functional.missing_eos_scores`.
        minibatch_size: episodes per optimizer step (the paper: 64).
        micro_batch_size: sequences per forward and backward pass; a whole minibatch by default.
        epochs: passes over each rollout (the paper: 1).
        target_kl: no further pass once KL(old, new) exceeds it; ``None``: never.
        learning_rate, value_learning_rate: of the two roles; the value's defaults to the paper's 9e-6.
        warmup_iterations, schedule_floor: linear warm-up from a tenth over 10 iterations, then constant (the paper).
        optimizer, weight_decay, max_grad_norm: as in ``SFTModule``; the norm is taken for each role.
        check_reference: stop at the first iteration if the policy is not the reference (dropout, wrong model).
        seed: of sampling and shuffling.
    """

    def __init__(
        self,
        *,
        policy: Callable[[], nn.Module],
        reward: Callable[[list[str], list[str]], Any],
        encoder: Encoder,
        value: Callable[[], ScalarModel] | None = None,
        reference: Callable[[], nn.Module] | None = None,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        kl_coef: float = 0.02,
        kl_estimator: KLEstimator = "k1",
        gamma: float = 1.0,
        lam: float = 0.95,
        clip: float = 0.2,
        value_clip: float | None = 0.2,
        value_coef: float = 0.1,
        ptx_coef: float = 27.8,
        whiten_advantages: bool = True,
        whiten_rewards: bool = False,
        missing_eos: MissingEos = "subtract",
        missing_eos_penalty: float = 1.0,
        minibatch_size: int = 64,
        micro_batch_size: int | None = None,
        epochs: int = 1,
        target_kl: float | None = None,
        learning_rate: float = 5e-6,
        value_learning_rate: float = 9e-6,
        warmup_iterations: int = 10,
        schedule_floor: float = 0.1,
        optimizer: OptimizerFactory | None = None,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = 1.0,
        check_reference: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters(ignore=["policy", "reward", "encoder", "value", "reference", "optimizer"])
        check_settings(self.hparams)
        self._factories = {"policy": policy, "value": value, "reference": reference}
        self._optimizer_factory = optimizer or adamw
        self.reward = reward
        self.encoder = encoder
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.kl_coef = kl_coef
        self.kl_estimator: KLEstimator = kl_estimator
        self.gamma = gamma
        self.lam = lam
        self.clip = clip
        self.value_clip = value_clip
        self.value_coef = value_coef
        self.ptx_coef = ptx_coef
        self.minibatch_size = minibatch_size
        self.micro_batch_size = micro_batch_size
        self.epochs = epochs
        self.target_kl = target_kl
        self.max_grad_norm = max_grad_norm
        self.iterations = 0
        self._generator: torch.Generator | None = None
        self._saved_random_state: Tensor | None = None
        self.policy: nn.Module | None = None
        self.value: ScalarModel | None = None
        self.reference: nn.Module | None = None

    def configure_model(self) -> None:
        """Make the roles, once: policy and value to train, reference frozen."""
        if self.policy is not None:
            return
        make_value, make_reference = self._factories["value"], self._factories["reference"]
        self.policy = self._factories["policy"]()
        self.policy.requires_grad_(True)
        self.reference = frozen_copy(self.policy if make_reference is None else make_reference())
        self.value = None if make_value is None else make_value().requires_grad_(True)
        self._policy_logprobs = TokenLogprobs(self.policy, temperature=self.temperature)
        self._reference_logprobs = TokenLogprobs(self.reference, temperature=self.temperature)
        self._text_logprobs = TokenLogprobs(self.policy)  # pretraining text was not sampled at any temperature

    def setup(self, stage: str) -> None:
        """Refuse what cannot work before anything is trained."""
        require_one_process(self.trainer.world_size)
        data: Any = getattr(self.trainer, "datamodule", None)
        episodes = getattr(data, "rollout_batch_size", None)
        if episodes is not None:
            text_rows = episodes * data.ptx_ratio if getattr(data, "text", None) else None
            check_batch_sizes(episodes=episodes, minibatch_size=self.minibatch_size, text_rows=text_rows)

    def train(self, mode: bool = True) -> PPOModule:
        """Trained roles follow ``mode``; frozen ones stay in evaluation mode, also after a validation."""
        super().train(mode)
        for frozen in (self.reference, self.reward):
            if isinstance(frozen, nn.Module):
                frozen.eval()
        return self

    def configure_optimizers(self) -> Any:
        """One optimizer with named groups; the schedule is stepped once an iteration."""
        roles = {"policy": self.policy} | ({} if self.value is None else {"value": self.value})
        rates = {"policy": self.hparams["learning_rate"], "value": self.hparams["value_learning_rate"]}
        optimizer = self._optimizer_factory(parameter_groups(roles, rates, self.hparams["weight_decay"]))
        warmup, floor = self.hparams["warmup_iterations"], self.hparams["schedule_floor"]
        scheduler = lr_scheduler(optimizer, schedule="constant", total=0, warmup=warmup, floor=floor)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_fit_start(self) -> None:
        """Modes, devices and the source of randomness; a resumed run goes on with the saved one."""
        self.train()
        if not isinstance(self.reward, nn.Module) and hasattr(self.reward, "to"):
            self.reward.to(self.device)
        self._generator = torch.Generator(self.device).manual_seed(self.hparams["seed"])
        if self._saved_random_state is not None:
            self._generator.set_state(self._saved_random_state)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """One PPO iteration."""
        prompts: PromptBatch = batch["prompts"]
        generation = self.rollout(prompts, self._generator)
        rollout, trajectory = self.evaluate(prompts, generation, self.score(prompts, generation))
        if self.iterations == 0 and self.hparams["check_reference"]:
            check_reference_is_policy(trajectory)
        advantages, returns = self.advantages(trajectory.rewards, trajectory.values, trajectory.mask)
        trajectory = trajectory._replace(advantages=advantages, returns=returns)
        updates = self.update(trajectory, batch.get("text"))
        self.iterations += 1
        self.log("rollout/score", rollout.scores.mean(), prog_bar=True)
        self.log("rollout/kl", rollout.kl.mean(), prog_bar=True)
        self.log("train/kl_coef", self.kl_coef)
        self.log_dict({f"train/{name}": value for name, value in updates.items()})
        return {"rollout": rollout, "trajectory": trajectory, "updates": updates}

    def rollout(self, prompts: PromptBatch, generator: torch.Generator) -> Generation:
        """Sample one response for each prompt from the policy."""
        return generate(
            self.policy,
            prompts.input_ids,
            prompts.lengths,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=self.encoder.eos_token_id,
            pad_token_id=self.encoder.pad_token_id,
            temperature=self.temperature,
            generator=generator,
        )

    def score(self, prompts: PromptBatch, generation: Generation) -> Tensor:
        """Scores [b] of the responses. A reward that shares the policy's tokenizer reads ids, any other text."""
        shares = getattr(self.reward, "shares_tokenizer", None)
        if shares is not None and shares(self.encoder):
            ids = join(prompts, generation, self.encoder.pad_token_id)
            scores = self.reward.score_ids(ids, prompts.lengths + generation.lengths)
        else:
            scores = self.reward(prompts.prompts, self.responses(generation))
        return check_scores(scores, len(prompts.prompts), self.device)

    def responses(self, generation: Generation) -> list[str]:
        """The responses as text."""
        rows = zip(generation.response_ids.tolist(), generation.lengths.tolist(), strict=True)
        return [self.encoder.decode(ids[:length]) for ids, length in rows]

    @torch.no_grad()
    def evaluate(self, prompts: PromptBatch, generation: Generation, scores: Tensor) -> tuple[Rollout, Trajectory]:
        """Old and reference log-probabilities, values, KL and per-token rewards of the sampled responses."""
        tokens = response_mask(generation.lengths, generation.response_ids.shape[1])
        ids = join(prompts, generation, self.encoder.pad_token_id)
        zeros = [torch.zeros(tokens.shape, device=self.device)] * 7
        trajectory = evaluate_responses(
            Trajectory(ids, prompts.lengths, generation.lengths, tokens, *zeros),
            policy=self._policy_logprobs,
            reference=self._reference_logprobs,
            value=self.value,
            micro_batch_size=self.micro_batch_size or self.minibatch_size,
        )
        kl = kl_estimate(trajectory.logprobs, trajectory.ref_logprobs, estimator=self.kl_estimator)
        rule, penalty = self.hparams["missing_eos"], self.hparams["missing_eos_penalty"]
        scores, kept = missing_eos_scores(scores, generation.finished, rule=rule, penalty=penalty)
        mask = tokens & kept.unsqueeze(1)
        rewards = per_token_rewards(scores, kl, mask, kl_coef=self.kl_coef)
        texts = self.responses(generation)
        rollout = Rollout(prompts.prompts, texts, generation.finished, scores, masked_sum(kl, tokens, 1))
        return rollout, trajectory._replace(mask=mask, rewards=rewards)

    def advantages(self, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns [b, t] by GAE; whitening comes after the returns are taken."""
        if self.hparams["whiten_rewards"]:
            rewards = masked_whiten(rewards, mask, shift_mean=False)
        advantages, returns = generalized_advantage_estimation(rewards, values, mask, gamma=self.gamma, lam=self.lam)
        if self.hparams["whiten_advantages"]:
            advantages = masked_whiten(advantages, mask)
        return advantages, returns

    def update(self, trajectory: Trajectory, text: TokenBatch | None) -> dict[str, Tensor]:
        """``epochs`` passes over the episodes, one optimizer step a minibatch; mean statistics of the steps."""
        steps: list[dict[str, Tensor]] = []
        episodes = len(trajectory.input_ids)
        text_rows = None if text is None else len(text.lengths)
        check_batch_sizes(episodes=episodes, minibatch_size=self.minibatch_size, text_rows=text_rows)
        for _ in range(self.epochs):
            epoch: list[dict[str, Tensor]] = []
            order = torch.randperm(episodes, generator=self._generator, device=self.device)
            minibatches = torch.split(order, self.minibatch_size)
            shares = torch.arange(text_rows or 0, device=self.device).view(len(minibatches), -1)
            for rows, share in zip(minibatches, shares, strict=True):
                own_text = None if text is None else token_rows(text, share)
                epoch.append(self.minibatch_step(trajectory.rows(rows), own_text))
            steps.extend(epoch)
            if self.should_stop_updates(mean_of(epoch)["approx_kl"]):
                break
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        return mean_of(steps)

    def minibatch_step(self, trajectory: Trajectory, text: TokenBatch | None) -> dict[str, Tensor]:
        """Gradients of the PPO losses and of γ_ptx times the pretraining loss, summed over micro-batches, and one
        optimizer step. Denominators are those of the whole minibatch."""
        count = trajectory.mask.sum()
        sums: dict[str, Tensor] = {}
        for rows in micro_batches(trajectory.lengths, self.micro_batch_size):
            part = trajectory.rows(rows)
            policy_loss, statistics = self.policy_loss(part, count)
            self.manual_backward(policy_loss)
            statistics["policy_loss"] = policy_loss.detach()
            if self.value is not None:
                value_loss = self.value_loss(part, count)
                self.manual_backward(self.value_coef * value_loss)
                statistics["value_loss"] = value_loss.detach()
            add(sums, statistics)
        if text is not None:
            labels = text.loss_mask.sum()
            for rows in micro_batches(text.lengths, self.micro_batch_size):
                ptx_loss = self.ptx_loss(token_rows(text, rows), labels)
                self.manual_backward(self.ptx_coef * ptx_loss)
                add(sums, {"ptx_loss": ptx_loss.detach()})
        sums["grad_norm"] = clip_and_step(self.optimizers(), self.max_grad_norm)
        return sums

    def policy_loss(self, part: Trajectory, count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped policy loss of a micro-batch over ``count`` tokens, and its statistics over the same count."""
        logprobs, _ = response_logprobs(self._policy_logprobs, part)
        loss, clip_fraction = clipped_policy_loss(
            logprobs, part.logprobs, part.advantages, part.mask, clip=self.clip, count=count
        )
        return loss, {"clip_fraction": clip_fraction} | ratio_statistics(logprobs, part.logprobs, part.mask, count)

    def value_loss(self, part: Trajectory, count: Tensor) -> Tensor:
        """Clipped value loss of a micro-batch over ``count`` tokens."""
        values = response_values(self.value, part)
        return clipped_value_loss(values, part.values, part.returns, part.mask, clip=self.value_clip, count=count)

    def ptx_loss(self, text: TokenBatch, count: Tensor) -> Tensor:
        """Cross-entropy of pretraining text over ``count`` tokens."""
        logprobs, _ = self._text_logprobs(text.input_ids, text.loss_mask)
        return cross_entropy(logprobs, torch.ones_like(logprobs, dtype=torch.bool), count=count)

    def should_stop_updates(self, approx_kl: Tensor) -> bool:
        """Whether to leave the remaining passes over this rollout out."""
        return self.target_kl is not None and bool(approx_kl > self.target_kl)

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Score and KL on prompts that are not trained on, sampled with randomness of their own."""
        generator = torch.Generator(self.device).manual_seed(self.hparams["seed"] + batch_idx)
        generation = self.rollout(batch, generator)
        rollout, _ = self.evaluate(batch, generation, self.score(batch, generation))
        self.log("val/score", rollout.scores.mean(), prog_bar=True, batch_size=len(batch.prompts))
        self.log("val/kl", rollout.kl.mean(), batch_size=len(batch.prompts))

    def random_state(self) -> Tensor | None:
        """State of the source of randomness; ``None`` before training."""
        return self._saved_random_state if self._generator is None else self._generator.get_state()

    def set_random_state(self, state: Tensor | None) -> None:
        """Go on from a saved state when training starts."""
        self._saved_random_state = None if state is None else state.cpu()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a resumed run needs, leave out what is frozen."""
        save_state(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what :meth:`on_save_checkpoint` saved."""
        restore_state(self, checkpoint)
