"""What one PPO iteration collects, as tensors that are re-batched by indexing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_lightning.data import Prompt, PromptBatch
from rlhf_lightning.models import Generation


class Rollout(NamedTuple):
    """Responses and their scores.

    Shapes: prompts: b texts or conversations; responses: b texts; finished: [b], bool, ended with EOS; scores: [b],
    after the rule for a missing EOS; kl: [b], the penalised KL estimate summed over the response's tokens.
    """

    prompts: list[Prompt]
    responses: list[str]
    finished: Tensor
    scores: Tensor
    kl: Tensor


class Trajectory(NamedTuple):
    """Everything that an update reads.

    Shapes: input_ids: [b, s], prompt and response, right padded; prompt_lengths, response_lengths: [b], on the CPU,
    because they decide the shapes of what is computed, for which a GPU would have to be waited for; mask: [b, t],
    bool, the tokens to learn from; logprobs, ref_logprobs, entropy, values, rewards, advantages, returns: [b, t].
    """

    input_ids: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    mask: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    entropy: Tensor
    values: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor

    @classmethod
    def begin(cls, prompts: PromptBatch, generation: Generation, pad_token_id: int) -> Trajectory:
        """The tokens of sampled responses; all that is computed from them is still 0."""
        mask = response_mask(generation.lengths, generation.response_ids.shape[1])
        zeros = [torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)] * 7
        lengths = prompts.lengths.cpu(), generation.lengths.cpu()
        return cls(join(prompts, generation, pad_token_id), *lengths, mask, *zeros)

    def rows(self, index: Tensor) -> Trajectory:
        """The episodes of an index on the CPU, trimmed to the longest of them."""
        chosen = Trajectory(*(field[index] for field in self))
        width = int((chosen.prompt_lengths + chosen.response_lengths).max())
        steps = int(chosen.response_lengths.max())
        return Trajectory(
            chosen.input_ids[:, :width],
            chosen.prompt_lengths,
            chosen.response_lengths,
            *(field[:, :steps] for field in chosen[3:]),
        )

    @property
    def lengths(self) -> Tensor:
        """Tokens [b] of each prompt with its response, on the CPU."""
        return self.prompt_lengths + self.response_lengths


def join(prompts: PromptBatch, generation: Generation, pad_token_id: int) -> Tensor:
    """Prompt and response ids in one right-padded row each, [b, s]. Ids are moved, never tokenised again."""
    lengths = prompts.lengths + generation.lengths
    column = torch.arange(int(lengths.max()), device=lengths.device).unsqueeze(0)
    start = prompts.lengths.unsqueeze(1)
    prompt_column = column.clamp(max=prompts.input_ids.shape[1] - 1).expand(len(lengths), -1)
    response_column = (column - start).clamp(0, generation.response_ids.shape[1] - 1)
    joined = torch.where(
        column < start,
        prompts.input_ids.gather(1, prompt_column),
        generation.response_ids.gather(1, response_column),
    )
    return joined.masked_fill(column >= lengths.unsqueeze(1), pad_token_id)


def response_mask(response_lengths: Tensor, steps: int) -> Tensor:
    """[b, t], bool: the tokens of each response."""
    return torch.arange(steps, device=response_lengths.device).unsqueeze(0) < response_lengths.unsqueeze(1)


def response_targets(prompt_lengths: Tensor, response_lengths: Tensor, width: int) -> Tensor:
    """[b, s], bool: where the response tokens stand in the joined rows. Read row by row, its entries are in the
    same order as those of :func:`response_mask`, so values move between the two layouts by boolean indexing."""
    column = torch.arange(width, device=prompt_lengths.device).unsqueeze(0)
    start, end = prompt_lengths.unsqueeze(1), (prompt_lengths + response_lengths).unsqueeze(1)
    return (column >= start) & (column < end)


def scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Values [n] of the masked entries, row by row, as [b, t] with 0 elsewhere; differentiable."""
    zeros = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return zeros.masked_scatter(mask.to(values.device, non_blocking=True), values)
