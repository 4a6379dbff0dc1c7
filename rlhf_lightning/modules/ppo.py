"""PPO with a pretraining mix (PPO-ptx), one iteration per training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from rlhf_lightning import functional as F
from rlhf_lightning.data import Encoder, PromptBatch, TokenBatch
from rlhf_lightning.functional.kl import KLEstimator
from rlhf_lightning.functional.rewards import MissingEos
from rlhf_lightning.models import Generation, NativeEngine, RolloutEngine, SharedReward, TokenLogprobs, as_factory
from rlhf_lightning.modules import experience
from rlhf_lightning.modules import ppo_checks as checks
from rlhf_lightning.modules.adapter_checkpoints import note_trained
from rlhf_lightning.modules.async_rollouts import AsyncRollouts
from rlhf_lightning.modules.optimization import OptimizerFactory, adamw, check_trainer, lr_scheduler, parameter_groups
from rlhf_lightning.modules.padding_free import read_without_padding
from rlhf_lightning.modules.ppo_roles import Sharing, check_trainable, make_roles, trained_parts
from rlhf_lightning.modules.ppo_state import keep_frozen_apart, random_stream, restore_state, save_state
from rlhf_lightning.modules.ppo_update import rollout_micro_batches, update
from rlhf_lightning.modules.randomness import part_streams, rank_seed
from rlhf_lightning.modules.stopping import StopTogether
from rlhf_lightning.modules.trajectory import Rollout, Trajectory
from rlhf_lightning.modules.world import World


class PPOModule(L.LightningModule):
    """Reinforcement learning from a reward with PPO and, given pretraining text, PPO-ptx (InstructGPT, section 3.5).

    It maximises ``E[score(x, y) − β log(π(y|x)/π_ref(y|x))] + γ_ptx E_pretrain[log π(x)]`` (eq. 2). One
    ``training_step`` is one iteration: :meth:`rollout`, :meth:`score`, :meth:`evaluate`, :meth:`advantages`, then
    ``epochs`` passes of clipped updates. Batches are dicts with ``prompts`` and, for ptx, ``text``. Each
    optimizer step moves Lightning's ``global_step``; iterations are counted in ``iterations``.

    Args:
        policy: makes the model, of transformers or a :class:`~rlhf_lightning.models.Policy`, in ``configure_model``.
        reward: ``(prompts, responses) -> scores [b]``, any callable over text; one with an argument ``finished`` is
            told which responses ended with EOS.
        encoder: of the policy.
        value: makes the value model, any module from ids [b, s] to values [b, s]; ``None``: V = 0 and no value loss.
        reference: makes the model that KL is measured against; by default the first policy, in ``frozen_dtype``.
        roles: ``separate``, or on a ``shared`` base (:func:`~rlhf_lightning.modules.ppo_roles.make_roles`).
        engine: samples the responses; a :class:`~rlhf_lightning.models.NativeEngine` by default.
        async_rollouts: sample early, beside updates (:class:`~rlhf_lightning.modules.async_rollouts.AsyncRollouts`).
        old_logprobs: ratios count from the ``policy``'s pass, or without it from what the ``engine`` drew with.
        max_new_tokens: longest response, EOS included.
        temperature: divides the logits in sampling and in every log-probability (the paper: 1).
        kl_coef, kl_estimator: β (the paper: 0.02); ``k1`` (the paper's), ``k2`` or ``k3``, penalised and logged.
        gamma, lam: γ (the paper: 1) and λ of GAE (not in the paper: 0.95).
        clip, value_clip: ε of the policy (the paper: 0.2) and of the value (not in the paper: 0.2; ``None``: off).
        value_coef: weight of the value loss (not in the paper: 0.1).
        ptx_coef: γ_ptx (the paper: 27.8); needs text in the batches.
        whiten_advantages, whiten_rewards: advantages to mean 0, variance 1; rewards scaled only (not in the paper).
        missing_eos, missing_eos_penalty: see :func:`~rlhf_lightning.functional.missing_eos_scores`.
        minibatch_size, epochs: episodes per optimizer step (the paper: 64); passes over each rollout (the paper: 1).
        micro_batch_size, micro_batch_tokens: most sequences and tokens of a pass; by default those of a minibatch.
        padding_free: read a micro-batch as one row (:class:`~rlhf_lightning.models.PaddingFreeLogprobs`).
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
        reward: Callable[..., Any] | SharedReward,
        encoder: Encoder,
        value: Callable[[], nn.Module] | None = None,
        reference: Callable[[], nn.Module] | None = None,
        roles: Sharing = "separate",
        frozen_dtype: str | None = None,
        engine: RolloutEngine | None = None,
        async_rollouts: bool = False,
        old_logprobs: experience.OldLogprobs = "policy",
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
        micro_batch_tokens: int | None = None,
        padding_free: bool = False,
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
        self.save_hyperparameters(ignore=["policy", "reward", "encoder", "value", "reference", "optimizer", "engine"])
        checks.check_settings(self.hparams)
        keep_frozen_apart(self)
        roles_of: dict[str, Any] = {"policy": policy, "value": value, "reference": reference}
        self._factories = {role: as_factory(made) for role, made in roles_of.items()}
        rates = {"policy": learning_rate, "value": value_learning_rate}
        self._optimizer_factory, self._learning_rates = optimizer or adamw, rates
        self.reward: Any = reward
        self.roles, self.encoder, self.engine = roles, encoder, engine or NativeEngine()
        self.async_rollouts, self.samples_ahead = AsyncRollouts(enabled=async_rollouts), async_rollouts
        self.max_new_tokens, self.temperature, self.old_logprobs = max_new_tokens, temperature, old_logprobs
        self.kl_coef, self.kl_estimator = kl_coef, kl_estimator
        self.gamma, self.lam, self.clip, self.value_clip = gamma, lam, clip, value_clip
        self.value_coef, self.ptx_coef, self.seed = value_coef, ptx_coef, seed
        self.whiten_advantages, self.whiten_rewards, self.missing_eos = whiten_advantages, whiten_rewards, missing_eos
        self.missing_eos_penalty, self.minibatch_size, self.epochs = missing_eos_penalty, minibatch_size, epochs
        self.micro_batch_size, self.micro_batch_tokens, self.target_kl = micro_batch_size, micro_batch_tokens, target_kl
        self.warmup_iterations, self.schedule_floor, self.weight_decay = warmup_iterations, schedule_floor, weight_decay
        self.max_grad_norm, self.check_reference, self.padding_free = max_grad_norm, check_reference, padding_free
        self.iterations, self.world, self.saved_random_states = 0, World(), list[Tensor]()
        self.generator: torch.Generator | None = None
        unmade: list[Any] = [None] * 4
        self.policy, self.value, self.reference, self._padding_free_values = unmade

    def configure_model(self) -> None:
        """Make the roles, once."""
        if self.policy is not None:
            return
        options: Any = {"reward": self.reward, "temperature": self.temperature, "mesh": self.device_mesh}
        made = make_roles(self.roles, **self._factories, **options, frozen_dtype=self.hparams["frozen_dtype"])
        self.policy, self.reference, self.value, self._reference_logprobs = made[:4]
        self.reference_fingerprint, self.reward_fingerprint = made[4:]
        self._policy_logprobs = TokenLogprobs(self.policy, temperature=self.temperature)
        self._text_logprobs = TokenLogprobs(self.policy)  # pretraining text was not sampled at any temperature
        read_without_padding(self)
        note_trained(self)

    def setup(self, stage: str) -> None:
        """Refuse what cannot work before anything is trained."""
        check_trainer(self.trainer)
        self.world = World.of(self.trainer)
        checks.check_shares(self.minibatch_size, self.world.size)
        checks.check_data(getattr(self.trainer, "datamodule", None), minibatch_size=self.minibatch_size)
        self.async_rollouts.check(self)

    def train(self, mode: bool = True) -> PPOModule:
        """Trained roles follow ``mode``; frozen ones stay in evaluation mode, also after a validation."""
        super().train(mode)
        for frozen in (self.reference, self.reward):
            if isinstance(frozen, nn.Module):
                frozen.eval()
        return self

    def configure_optimizers(self) -> Any:
        """One optimizer with named groups; the schedule is stepped once an iteration."""
        check_trainable(self, parts := trained_parts(self.policy, self.value))
        optimizer = self._optimizer_factory(parameter_groups(parts, self._learning_rates, self.weight_decay))
        scheduler = lr_scheduler(
            optimizer, schedule="constant", total=lambda: 0, warmup=self.warmup_iterations, floor=self.schedule_floor
        )
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def configure_callbacks(self) -> StopTogether:
        """Processes that train together stop together."""
        return StopTogether()

    def on_fit_start(self) -> None:
        """Modes, devices and the source of randomness; a resumed run goes on with the saved one."""
        self.train()
        checks.check_start(self)
        if not isinstance(self.reward, nn.Module) and hasattr(self.reward, "to"):
            self.reward.to(self.device)
        self.generator = random_stream(self)
        part_streams(self.world)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """One PPO iteration."""
        prompts: PromptBatch = batch["prompts"]
        generation = self.async_rollouts.responses(self, prompts)
        rollout, trajectory = self.evaluate(prompts, generation, self.score(prompts, generation))
        self.log_dict(experience.engine_gap(generation, trajectory, self.old_logprobs), sync_dist=True)
        rollout, trajectory, text = experience.of_all_ranks(self.world, rollout, trajectory, batch.get("text"))
        if self.iterations == 0 and self.check_reference:
            checks.check_reference_is_policy(trajectory, self._reference_logprobs.model, self.old_logprobs)
        advantages, returns = self.advantages(trajectory.rewards, trajectory.values, trajectory.mask)
        trajectory = trajectory._replace(advantages=advantages, returns=returns)
        with self.async_rollouts.sampling(self, prompts, batch_idx):
            updates = update(self, trajectory, text)
        self.iterations += 1
        self.log_dict({"rollout/score": rollout.scores.mean(), "rollout/kl": rollout.kl.mean()}, prog_bar=True)
        self.log_dict({"train/kl_coef": self.kl_coef} | {f"train/{name}": value for name, value in updates.items()})
        return {"rollout": rollout, "trajectory": trajectory, "updates": updates}

    def rollout(self, prompts: PromptBatch, generator: torch.Generator | None, policy: Any = None) -> Generation:
        """Sample one response for each prompt from the policy, or from another one."""
        return self.engine.generate(
            self.policy if policy is None else policy,
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
        scores = experience.score_responses(self.reward, self.encoder, prompts, generation)
        return checks.check_scores(scores, len(prompts.prompts), self.device)

    @torch.no_grad()
    def evaluate(self, prompts: PromptBatch, generation: Generation, scores: Tensor) -> tuple[Rollout, Trajectory]:
        """Old and reference log-probabilities, values, KL and per-token rewards of the sampled responses."""
        trajectory = experience.evaluate_responses(
            Trajectory.begin(prompts, generation, self.encoder.pad_token_id),
            policy=self._policy_logprobs,
            reference=self._reference_logprobs,
            value=self._padding_free_values or self.value,
            cut=partial(rollout_micro_batches, self),
            world=self.world,
            behaviour=experience.drawn_with(generation) if self.old_logprobs == "engine" else generation.behaviour,
        )
        kl = F.kl_estimate(trajectory.logprobs, trajectory.ref_logprobs, estimator=self.kl_estimator)
        scores, kept = F.missing_eos_scores(
            scores, generation.finished, rule=self.missing_eos, penalty=self.missing_eos_penalty
        )
        mask = trajectory.mask & kept.unsqueeze(1)
        rewards = F.per_token_rewards(scores, kl, mask, kl_coef=self.kl_coef)
        texts, summed = experience.decode_responses(self.encoder, generation), F.masked_sum(kl, trajectory.mask, 1)
        rollout = Rollout(prompts.prompts, texts, generation.finished, scores, summed)
        return rollout, trajectory._replace(mask=mask, rewards=rewards)

    def advantages(self, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns [b, t] by GAE; whitening comes after the returns are taken."""
        if self.whiten_rewards:
            rewards = F.masked_whiten(rewards, mask, shift_mean=False)
        advantages, returns = F.generalized_advantage_estimation(rewards, values, mask, gamma=self.gamma, lam=self.lam)
        if self.whiten_advantages:
            advantages = F.masked_whiten(advantages, mask)
        return advantages, returns

    def token_logprobs(self, part: Trajectory, *, entropy: bool = True) -> tuple[Tensor, Tensor]:
        """Log-probabilities and, if asked for, entropies [b, t] of the response tokens under the policy as it is."""
        return experience.response_logprobs(self._policy_logprobs, part, entropy=entropy)

    def policy_loss(self, part: Trajectory, count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped policy loss of a micro-batch over ``count`` tokens, and its statistics over the same count."""
        logprobs, _ = self.token_logprobs(part, entropy=False)
        loss, clip_fraction = F.clipped_policy_loss(
            logprobs, part.logprobs, part.advantages, part.mask, clip=self.clip, count=count
        )
        ratios = F.ratio_statistics(logprobs, part.logprobs, part.mask, count=count)
        return loss, {"clip_fraction": clip_fraction} | ratios

    def value_loss(self, part: Trajectory, count: Tensor) -> Tensor:
        """Clipped value loss of a micro-batch over ``count`` tokens."""
        values = experience.response_values(self._padding_free_values or self.value, part)
        return F.clipped_value_loss(values, part.values, part.returns, part.mask, clip=self.value_clip, count=count)

    def ptx_loss(self, text: TokenBatch, count: Tensor) -> Tensor:
        """Cross-entropy of pretraining text over ``count`` tokens."""
        logprobs, _ = self._text_logprobs(text.input_ids, text.loss_mask, entropy=False)
        return F.cross_entropy(logprobs, torch.ones_like(logprobs, dtype=torch.bool), count=count)

    def should_stop_updates(self, approx_kl: Tensor) -> bool:
        """Whether to leave the remaining passes over this rollout out."""
        return self.target_kl is not None and bool(approx_kl > self.target_kl)

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Score and KL on prompts that are not trained on, sampled with randomness of their own."""
        seed = rank_seed(self.seed + batch_idx, self.world.rank)
        generation = self.rollout(batch, torch.Generator(self.device).manual_seed(seed))
        rollout, _ = self.evaluate(batch, generation, self.score(batch, generation))
        self.log("val/score", rollout.scores.mean(), prog_bar=True, batch_size=len(batch.prompts), sync_dist=True)
        self.log("val/kl", rollout.kl.mean(), batch_size=len(batch.prompts), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a resumed run needs, leave out what is frozen."""
        save_state(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what :meth:`on_save_checkpoint` saved."""
        restore_state(self, checkpoint)
