"""A policy in the middle of its training, by the metrics of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from rlhf_lightning.data import Encoder, TokenBatch
from rlhf_lightning.evaluation.divergence import kl_from
from rlhf_lightning.evaluation.judges import Judge
from rlhf_lightning.evaluation.language_modelling import mean_loss
from rlhf_lightning.evaluation.preference import judge_in_random_order
from rlhf_lightning.evaluation.responses import Responses, summarize
from rlhf_lightning.evaluation.sampling import sample_responses
from rlhf_lightning.models import TokenLogprobs

Score = Callable[[list[str], list[str], list[bool]], Sequence[float]]
"""(prompts, responses, whether each ended by itself) -> scores."""


def evaluate_policy(
    policy: nn.Module,
    encoder: Encoder,
    *,
    reference: TokenLogprobs,
    rows: Sequence[Mapping[str, Any]],
    baseline: Sequence[str],
    judge: Judge,
    score: Score | None = None,
    text: Sequence[TokenBatch] | None = None,
    max_new_tokens: int,
    temperature: float = 1.0,
    batch_size: int = 128,
    seed: int = 0,
    baseline_name: str = "sft",
) -> dict[str, Any]:
    """One response of the policy to every row, judged against the reference's, by the names of ``report.json``.

    The policy's modes are left as they were, and no global randomness is used but by ``judge`` and ``score``.

    Args:
        policy: a causal language model.
        encoder: of policy and reference.
        reference: log-probabilities that the KL is measured from, at the temperature of the samples.
        rows: of a prompts file.
        baseline: what the reference answered.
        judge, score: who prefers, and the reward that training maximises.
        text: held-out text as :func:`~rlhf_lightning.evaluation.text_batches` gives it.
        max_new_tokens, temperature, batch_size, seed: of the sampling.
        baseline_name: stands in ``win_rate_vs_<baseline_name>``.

    Returns:
        What :func:`~rlhf_lightning.evaluation.evaluate_models` says of a model.
    """
    prompts = [row["prompt"] for row in rows]
    samples = sample_responses(
        policy,
        encoder,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
        label="policy",
    )
    own = TokenLogprobs(policy, temperature=temperature)
    kl = kl_from(reference, encoder, own, encoder, samples, prompts)
    scores = None if score is None else [float(s) for s in score(prompts, samples.responses, samples.finished)]
    said = judge_in_random_order(judge, rows, samples.responses, list(baseline), seed=seed)
    assessed = judge.assess(rows, samples.responses)
    loss = None if text is None else mean_loss(policy, text)
    responses = Responses(samples, kl, scores, said.preferences, assessed)
    return summarize(responses, baseline=baseline_name, pretrain_loss=loss, seed=seed)
