"""Policies that are not of transformers: what they must offer, and the one place that asks whose a model is."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.context import context_length
from rlhf_lightning.models.generation import Generation, as_generation, check_request
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.quantization import computes_exactly

_ROWS = (6, 3, 1, 4)  # tokens of the prompts that are tried
_STEPS = 4


class Policy(Protocol):
    """A language model of one's own as the policy of SFT and PPO: an ``nn.Module`` with these two methods.

    It reads tokens from left to right. It may also have ``context_length``, an ``int``: the most tokens of a sequence,
    so that longer ones are refused before training. Every model of transformers is a policy as it is.
    """

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of the next token at every position.

        The logits at a position depend on the tokens up to there alone, so that padding at the right needs no mask.

        Shapes:
            input_ids: [b, s], right padded. Result: [b, s, v].
        """
        ...

    def sample(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        *,
        max_new_tokens: int,
        eos_token_id: int,
        temperature: float,
        greedy: bool,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Draw each next token from ``softmax(logits / temperature)`` over the whole vocabulary; called in evaluation
        mode and without gradients.

        Args:
            input_ids: [b, p], right padded prompts; lengths: [b].
            max_new_tokens: tokens of a response without EOS.
            eos_token_id: ends a response and is part of it; what stands behind it is not read.
            greedy: take the likeliest token instead.
            generator: the source of randomness; a run resumes exactly if there is no other.

        Returns:
            Response ids [b, n], n = ``max_new_tokens``, or less if all rows have EOS.
        """
        ...


def is_own(model: nn.Module) -> bool:
    """Whether a causal language model is a user's own (:class:`Policy`) instead of one of transformers."""
    return not isinstance(model, PreTrainedModel)


def sample_own(
    model: nn.Module,
    input_ids: Tensor,
    lengths: Tensor,
    *,
    max_new_tokens: int,
    eos_token_id: int,
    pad_token_id: int,
    temperature: float = 1.0,
    greedy: bool = False,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Generation:
    """Responses that a :class:`Policy` samples, ``batch_size`` prompts of like length at a time (all by default).

    Raises:
        UserError: it gives ids of another shape or type, or a response that neither ends nor has the full length.
    """
    check_request(model, lengths, max_new_tokens=max_new_tokens, temperature=temperature, greedy=greedy)
    response_ids = torch.full((len(lengths), max_new_tokens), pad_token_id, dtype=torch.long, device=input_ids.device)
    settings: Any = {"max_new_tokens": max_new_tokens, "eos_token_id": eos_token_id}
    settings |= {"temperature": temperature, "greedy": greedy, "generator": generator}
    with generation_mode(model):
        for rows in torch.split(torch.argsort(lengths, stable=True), batch_size or len(lengths)):
            prompts = input_ids[rows, : int(lengths[rows].max())]
            # Of the protocol; nn.Module does not declare it.
            found = model.sample(prompts, lengths[rows], **settings)  # type: ignore[operator]
            _check_response(type(model).__name__, found, rows, max_new_tokens, eos_token_id)
            response_ids[rows, : found.shape[1]] = found
    generation = as_generation(response_ids, None, eos_token_id=eos_token_id)
    beyond = torch.arange(generation.response_ids.shape[1], device=lengths.device) >= generation.lengths.unsqueeze(1)
    return generation._replace(response_ids=generation.response_ids.masked_fill(beyond, pad_token_id))


def _check_response(name: str, found: Any, rows: Tensor, max_new_tokens: int, eos_token_id: int) -> None:
    ids = isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(rows) and not found.is_floating_point()
    if not ids or not 1 <= found.shape[1] <= max_new_tokens:
        shown = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UserError(
            f"{name}.sample gave {shown}; it must give ids [{len(rows)}, n] with n at most {max_new_tokens}"
        )
    ended = (found == eos_token_id).any(1)
    if found.shape[1] < max_new_tokens and not bool(ended.all()):
        raise UserError(
            f"{name}.sample ended row {int(rows[~ended][0])} after {found.shape[1]} of {max_new_tokens} tokens without "
            f"EOS (id {eos_token_id}): go on until every row has it"
        )


def check_own(model: nn.Module, encoder: Encoder | None, *, samples: bool) -> None:
    """Try a :class:`Policy` on rows of a few tokens, before anything is trained.

    Its logits must have a row for every token, must not depend on what stands behind a token, and, with ``samples``,
    what it samples greedily must be what its logits have as their largest, whatever the length of the prompt.

    Args:
        model: one of transformers is left alone.
        encoder: whose ids it reads; ``None``: its vocabulary is not compared.
        samples: whether it will be sampled from.

    Raises:
        UserError: what it lacks, or where it differs.
    """
    if not is_own(model):
        return
    name = type(model).__name__
    if samples and not callable(getattr(model, "sample", None)):
        raise UserError(
            f"{name} is no model of transformers and has no method `sample`: add one as in rlhf_lightning.Policy, or "
            "give PPOModule an engine that samples from it"
        )
    device = next(model.parameters()).device
    room = context_length(model) or max(_ROWS) + _STEPS
    rows = tuple(min(length, max(room // 2, 1)) for length in _ROWS)
    ids = torch.arange(len(rows) * max(rows), device=device).view(len(rows), -1) * 7 + 3
    with generation_mode(model):
        ids %= _logits(model, torch.zeros_like(ids)).shape[-1]
        logits = _logits(model, ids)
        alone = _logits(model, ids[:, : rows[1]])
    if not bool(logits.isfinite().all()):
        raise UserError(f"{name} gives logits that are no finite numbers: check its weights and its dtype")
    if encoder is not None:
        known = max(encoder.tokenizer.get_vocab().values()) + 1
        if logits.shape[-1] < known:
            raise UserError(
                f"the tokenizer is larger than {name}: it has {known} ids and the logits are {logits.shape[-1]}; give "
                "the model as many rows"
            )
    limit = (1e-3 if computes_exactly(model) else 1e-1) * float(logits.abs().max().clamp(min=1.0))
    if not bool((logits[:, : rows[1]] - alone).abs().max() <= limit):
        raise UserError(
            f"{name} gives other logits for a token if others stand behind it: it must read from left to right, with a "
            "causal mask and positions that count from the first column"
        )
    if samples:
        _check_samples(model, ids, rows, min(_STEPS, room - max(rows)), limit)


def _check_samples(model: nn.Module, ids: Tensor, rows: tuple[int, ...], steps: int, limit: float) -> None:
    if steps < 1:
        return  # a context of one token leaves no room for a response
    lengths = torch.tensor(rows, device=ids.device)
    drawn = sample_own(
        model, ids, lengths, max_new_tokens=steps, eos_token_id=-1, pad_token_id=0, greedy=True
    ).response_ids
    for row, length in enumerate(rows):
        whole = torch.cat([ids[row, :length], drawn[row]]).unsqueeze(0)
        with generation_mode(model):
            logits = _logits(model, whole)[0, length - 1 : -1]
        chosen = logits.gather(1, drawn[row].unsqueeze(1)).squeeze(1)
        if not bool((logits.max(1).values - chosen <= limit).all()):
            raise UserError(
                f"{type(model).__name__}.sample(greedy=True) does not take the tokens that its own logits make "
                f"likeliest, for a prompt of {length} tokens beside one of {rows[0]}: read the logits at the last "
                "token of each prompt (lengths - 1), not at its padding"
            )


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    found = model(ids)
    if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[:2] != ids.shape:
        shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(
            f"{type(model).__name__} is no model of transformers, so its forward must give logits "
            f"[{ids.shape[0]}, {ids.shape[1]}, v] for ids {list(ids.shape)}; it gave {shown}"
        )
    return found.float()
