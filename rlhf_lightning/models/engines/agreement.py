"""Whether an engine samples from the policy: a few tokens against its own forward pass."""

from __future__ import annotations

import torch
from torch import nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.context import text_config
from rlhf_lightning.models.forward import TokenLogprobs
from rlhf_lightning.models.generation import RolloutEngine
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.quantization import computes_exactly

_EXACT, _ROUNDED = 1e-4, 0.2  # nats a token
_PROMPTS = (6, 3)
_STEPS = 4


def check_agreement(
    engine: RolloutEngine, model: nn.Module, *, key: str, instead: str, tolerance: float | None = None
) -> None:
    """Sample a few tokens and compare their log-probabilities with the training forward's.

    Args:
        key: the setting that chose the engine; instead: what to do without it.
        tolerance: nats a token; by default 1e-4 in float32, and more than rounding explains in other dtypes.

    Raises:
        UserError: they differ by more.
    """
    weight = next(model.parameters())
    ids = torch.arange(sum(_PROMPTS), device=weight.device) * 7 % text_config(model).vocab_size
    first, second = ids.split(_PROMPTS)
    rows = torch.stack([first, torch.nn.functional.pad(second, (0, len(first) - len(second)))])
    lengths = torch.tensor(_PROMPTS, device=weight.device)
    found = engine.generate(
        model,
        rows,
        lengths,
        max_new_tokens=_STEPS,
        eos_token_id=-1,
        pad_token_id=0,
        generator=torch.Generator(weight.device).manual_seed(0),
    )
    if found.logprobs is None:
        return
    gap = 0.0
    with generation_mode(model):
        score = TokenLogprobs(model)
        for row, length in enumerate(_PROMPTS):
            whole = torch.cat([rows[row, :length], found.response_ids[row]]).unsqueeze(0)
            expected, _ = score(whole, torch.arange(whole.shape[1], device=weight.device).unsqueeze(0) >= length)
            gap = max(gap, float((found.logprobs[row] - expected).abs().max()))
    if not gap <= (tolerance or (_EXACT if computes_exactly(model) else _ROUNDED)):
        raise UserError(
            f"{key} computes {type(model).__name__} otherwise than its own forward pass does: log-probabilities "
            f"differ by {gap:.2g} nats; {instead}"
        )
