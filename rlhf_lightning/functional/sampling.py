"""Drawing tokens from a distribution."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_tokens(logits: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """One token per row with probability ``softmax(logits)``: the first ``i`` with ``p_0 + … + p_i > u``, u uniform;
    and ``log p_i``, which is no number where the logits are none.

    One random number a row, where ``torch.multinomial`` draws one for every token of the vocabulary and takes ten
    times as long on a CPU. Summed in float64 (float32 where a device has none) no token is too unlikely to be drawn;
    one of probability 0 never is, as the sum up to it is that of the token before it.

    Shapes:
        logits: [b, v]. Results: [b], and [b] in float32.
    """
    precision = torch.float32 if logits.device.type == "mps" else torch.float64
    probabilities = logits.softmax(-1, dtype=torch.float32)
    cumulative = probabilities.cumsum(-1, dtype=precision)
    total = cumulative[:, -1:]
    point = torch.rand(total.shape, generator=generator, dtype=precision, device=logits.device) * total
    tokens = torch.searchsorted(cumulative, point, right=True).clamp(max=logits.shape[-1] - 1)
    return tokens.squeeze(1), probabilities.gather(1, tokens).squeeze(1).log()
