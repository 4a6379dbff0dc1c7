"""What the models say of sampled responses, in the layout [b, t] of response tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlhf_lightning.data import Encoder, PromptBatch, TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.functional import masked_mean
from rlhf_lightning.models import (
    Generation,
    PaddingFreeLogprobs,
    PaddingFreeValues,
    TokenLogprobs,
    check_numbers,
    score_texts,
)
from rlhf_lightning.modules.trajectory import Rollout, Trajectory, join, response_mask, response_targets, scatter
from rlhf_lightning.modules.world import World

Logprobs = TokenLogprobs | PaddingFreeLogprobs
OldLogprobs = Literal["policy", "engine"]


def decode_responses(encoder: Encoder, generation: Generation) -> list[str]:
    """The responses as text."""
    rows = zip(generation.response_ids.tolist(), generation.lengths.tolist(), strict=True)
    return [encoder.decode(ids[:length]) for ids, length in rows]


def score_responses(reward: Any, encoder: Encoder, prompts: PromptBatch, generation: Generation) -> Any:
    """What a reward gives for the responses: one that shares the policy's tokenizer reads ids, any other text."""
    shares = getattr(reward, "shares_tokenizer", None)
    if shares is not None and shares(encoder):
        ids = join(prompts, generation, encoder.pad_token_id)
        return reward.score_ids(ids, prompts.lengths + generation.lengths)
    texts = decode_responses(encoder, generation)
    return score_texts(reward, prompts.prompts, texts, generation.finished.tolist())


def response_logprobs(logprobs: Logprobs, part: Trajectory, *, entropy: bool = True) -> tuple[Tensor, Tensor]:
    """Log-probabilities and, if asked for, entropies [b, t] of the response tokens; 0 past the end of a response."""
    tokens = response_mask(part.response_lengths, part.mask.shape[1])
    targets = response_targets(part.prompt_lengths, part.response_lengths, part.input_ids.shape[1])
    chosen, spread = logprobs(part.input_ids, targets, entropy=entropy)
    return scatter(chosen, tokens), scatter(spread, tokens)


def response_values(value: nn.Module | PaddingFreeValues | None, part: Trajectory) -> Tensor:
    """Values [b, t] of the states in which the response tokens were chosen: read one position before each token.
    Without a value model they are 0."""
    tokens = response_mask(part.response_lengths, part.mask.shape[1])
    if value is None:
        return torch.zeros(tokens.shape, dtype=torch.float32, device=part.input_ids.device)
    targets = response_targets(part.prompt_lengths, part.response_lengths, part.input_ids.shape[1])
    if isinstance(value, PaddingFreeValues):
        return scatter(value(part.input_ids, targets).float(), tokens)
    values = value(part.input_ids)[:, :-1][targets[:, 1:]]
    return scatter(values.float(), tokens)


@torch.no_grad()
def evaluate_responses(
    trajectory: Trajectory,
    *,
    policy: Logprobs,
    reference: Logprobs,
    value: nn.Module | PaddingFreeValues | None,
    cut: Callable[[Tensor], list[Tensor]],
    world: World,
    behaviour: tuple[Tensor, Tensor] | None = None,
) -> Trajectory:
    """The trajectory with log-probabilities of policy and reference, entropies and values filled in, computed by the
    same functions as in the update, so that the first ratio is 1 where ``behaviour`` is ``None``. ``cut`` makes
    micro-batches of lengths. ``behaviour``: log-probabilities and entropies [b, t] of what sampled, where they are
    known and to be used."""
    filled = {name: torch.zeros_like(trajectory.rewards) for name in ("logprobs", "ref_logprobs", "entropy", "values")}
    for rows, _ in world.in_step(cut(trajectory.lengths)):
        part = trajectory.rows(rows)
        if behaviour is None:
            logprobs, entropy = response_logprobs(policy, part)
        else:
            logprobs, entropy = (known[rows, : part.mask.shape[1]] for known in behaviour)
        ref_logprobs, _ = response_logprobs(reference, part, entropy=False)
        found = (logprobs, ref_logprobs, entropy, response_values(value, part))
        for target, tensor in zip(filled.values(), found, strict=True):
            target[rows, : tensor.shape[1]] = tensor.to(target.dtype)
    return trajectory._replace(**filled)


@torch.no_grad()
def behaviour_logprobs(trajectory: Trajectory, policy: Logprobs, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [b, t] of ``parts``, micro-batches, as :func:`evaluate_responses` finds them."""
    logprobs, entropy = torch.zeros_like(trajectory.rewards), torch.zeros_like(trajectory.rewards)
    for rows in parts:
        part = trajectory.rows(rows)
        steps = part.mask.shape[1]
        found = response_logprobs(policy, part)
        logprobs[rows, :steps], entropy[rows, :steps] = (tensor.to(logprobs.dtype) for tensor in found)
    return logprobs, entropy


def drawn_with(generation: Generation) -> tuple[Tensor, Tensor]:
    """Log-probabilities [b, t] that the engine drew with, and ``−log μ(y)``, an estimate of μ's entropy from one
    sample without bias.

    Raises:
        UserError: the engine does not know them, or tells something else.
    """
    if generation.logprobs is None:
        raise UserError(
            "module.old_logprobs=engine needs the log-probabilities that the responses were drawn with, and this "
            "engine or policy does not tell them; set module.old_logprobs=policy"
        )
    told, expected = tuple(generation.logprobs.shape), tuple(generation.response_ids.shape)
    if told != expected:
        raise UserError(
            f"module.old_logprobs=engine: the engine tells log-probabilities of shape {told} for responses of shape "
            f"{expected}; set module.old_logprobs=policy"
        )
    drawn = response_mask(generation.lengths, expected[1])
    logprobs = torch.where(drawn, generation.logprobs, 0.0)
    check_numbers(logprobs)
    return logprobs, -logprobs


def engine_gap(generation: Generation, trajectory: Trajectory, old: OldLogprobs = "policy") -> dict[str, Tensor]:
    """``rollout/engine_gap``: mean of ``|log μ(y) − log π_old(y)|`` over the tokens to learn from, μ what the engine
    drew from and π_old the policy's forward pass, which every update is measured against: rounding, or an engine that
    samples something else. Nothing where the engine does not know, or where π_old is μ."""
    if generation.logprobs is None or old == "engine":
        return {}
    gap = (generation.logprobs - trajectory.logprobs).abs()
    return {"rollout/engine_gap": masked_mean(gap, trajectory.mask)}


def of_all_ranks(
    world: World, rollout: Rollout, trajectory: Trajectory, text: TokenBatch | None
) -> tuple[Rollout, Trajectory, TokenBatch | None]:
    """The episodes and the pretraining text of all ranks, in order of rank, on each of them.

    They are token ids and a few numbers for each token, little beside a model. What follows, whitening, minibatches,
    metrics, decisions of callbacks, is then global as it stands, and a rank computes its part of a minibatch.
    """
    if world.size == 1:
        return rollout, trajectory, text
    texts = world.objects((rollout.prompts, rollout.responses))
    numbers = world.rows({"finished": rollout.finished, "scores": rollout.scores, "kl": rollout.kl})
    prompts, responses = ([one for part in parts for one in part] for parts in zip(*texts, strict=True))
    rollout = Rollout(prompts=prompts, responses=responses, **numbers)
    device = trajectory.mask.device  # a GPU's processes send nothing that lies on the CPU
    lengths = ("prompt_lengths", "response_lengths")
    gathered = world.rows({name: field.to(device) for name, field in trajectory._asdict().items()})
    trajectory = Trajectory(**gathered | {name: gathered[name].cpu() for name in lengths})
    return rollout, trajectory, text and TokenBatch(**world.rows(text._asdict()))
