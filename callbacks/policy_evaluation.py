"""The metrics of the report while PPO trains, on prompts that stay the same."""

from __future__ import annotations

from typing import Any

import lightning as L

from rlhf_lightning.callbacks.episodes import iterations_done, require_episodes
from rlhf_lightning.callbacks.random_state import capture_random_state, restore_random_state
from rlhf_lightning.data import TokenBatch, load_rows
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import Judge, ScoreJudge, evaluate_policy, sample_responses, text_batches
from rlhf_lightning.models import TokenLogprobs, is_sharded, score_texts

_READ = ("policy", "reference", "encoder", "reward", "temperature", "max_new_tokens")


class PolicyEvaluation(L.Callback):
    """After every ``every``-th iteration logs ``eval/<metric>``, the metrics of ``report.json``: the policy's win rate
    against the reference (SFT) with its interval, the score, the KL, the loss on held-out text and what the judge
    assesses.

    Training is bit for bit what it is without the callback: modes and randomness are put back. Every process of a run
    evaluates alike.

    Args:
        prompts: a prompts file, of prompts that are not trained on.
        judge: prefers and assesses; by default the reward that training maximises, which says least.
        every: iterations from one evaluation to the next.
        limit: so many of the prompts, from the first; all by default.
        text: held-out text, for ``eval/pretrain_loss``.
        text_block, text_tokens: tokens of a block, and about how many to read.
        max_new_tokens: longest response; that of training by default.
        batch_size, seed: of the sampling.

    Raises:
        UserError: no prompts; ``every`` or ``limit`` below 1; a policy in shards; a module that does not sample or has
            not what is read of it: ``policy`` and ``reference`` (causal language models), ``encoder``, ``reward`` (as
            of :class:`~rlhf_lightning.PPOModule`), ``temperature`` and ``max_new_tokens``.
    """

    def __init__(
        self,
        *,
        prompts: str | None,
        judge: Judge | None = None,
        every: int = 10,
        limit: int | None = None,
        text: str | None = None,
        text_block: int = 128,
        text_tokens: int | None = 32_768,
        max_new_tokens: int | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        if not prompts:
            raise UserError(
                "callbacks.policy_evaluation.prompts is not set: give a prompts file there, or as data.validation"
            )
        for name, count in (("every", every), ("limit", limit)):
            if count is not None and count < 1:
                raise UserError(f"callbacks.policy_evaluation.{name}={count} must be at least 1")
        self.prompts, self.judge, self.every, self.limit = prompts, judge, every, limit
        self.text, self.text_block, self.text_tokens = text, text_block, text_tokens
        self.max_new_tokens, self.batch_size, self.seed = max_new_tokens, batch_size, seed
        self._rows: list[dict[str, Any]] = []
        self._baseline: list[str] = []
        self._text: list[TokenBatch] | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the files before anything is trained."""
        require_episodes(self, pl_module)
        # Of shared roles the reference is the policy without its adapter.
        known = {"reference"} if getattr(pl_module, "_reference_logprobs", None) is not None else set()
        missing = [name for name in _READ if name not in known and getattr(pl_module, name, None) is None]
        if missing:
            raise UserError(
                f"PolicyEvaluation reads {', '.join(_READ)} of a module and {type(pl_module).__name__} lacks "
                f"{', '.join(missing)}: set them, or leave callbacks.policy_evaluation out"
            )
        policy: Any = pl_module.policy
        if is_sharded(policy):
            raise UserError(
                "PolicyEvaluation samples with whole weights and the policy is in shards: train with strategy=ddp, or "
                "evaluate the exported folder afterwards"
            )
        encoder: Any = pl_module.encoder
        self._rows = list(load_rows(self.prompts, fields=("prompt",)))[: self.limit]
        self._baseline = []
        if self.text is not None:
            self._text = text_batches(encoder, self.text, block_size=self.text_block, max_tokens=self.text_tokens)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate if it is due."""
        iteration = iterations_done(trainer)
        if iteration % self.every:
            return
        state = capture_random_state()
        try:
            found = self._evaluate(pl_module)
        finally:
            restore_random_state(state)
        low, high = found.pop("win_rate_interval")
        found |= {"win_rate_low": low, "win_rate_high": high}
        metrics = {f"eval/{name}": float(value) for name, value in found.items() if value is not None}
        # Lightning would log the values of one iteration again at the next ones.
        pl_module.log_dict(metrics, logger=False, batch_size=len(self._rows))
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=iteration - 1)  # Lightning numbers its metrics from 0

    def _evaluate(self, pl_module: Any) -> dict[str, Any]:
        options: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens or pl_module.max_new_tokens,
            "temperature": pl_module.temperature,
            "batch_size": self.batch_size,
        }
        # PPOModule may share the reference's weights with its policy; a module of one's own has a model.
        reference: TokenLogprobs = getattr(pl_module, "_reference_logprobs", None) or TokenLogprobs(
            pl_module.reference, temperature=pl_module.temperature
        )

        def score(prompts: list[str], texts: list[str], finished: list[bool]) -> list[float]:
            scores: Any = score_texts(pl_module.reward, prompts, texts, finished)
            return [float(value) for value in scores]

        if not self._baseline:
            prompts = [row["prompt"] for row in self._rows]
            with reference.within():  # of shared roles the reference is the policy without its adapter
                # Noise of its own, as in the report: with the policy's, equal models would give equal texts.
                answers = sample_responses(
                    reference.model, pl_module.encoder, prompts, seed=self.seed + 1, label="reference", **options
                )
            self._baseline = answers.responses
        return evaluate_policy(
            pl_module.policy,
            pl_module.encoder,
            reference=reference,
            rows=self._rows,
            baseline=self._baseline,
            judge=self.judge or ScoreJudge(score=lambda prompts, texts: score(prompts, texts, [True] * len(texts))),
            score=score,
            text=self._text,
            seed=self.seed,
            **options,
        )
