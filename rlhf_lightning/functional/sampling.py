"""Drawing tokens from a distribution."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_tokens(logits: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """One token per row with probability ``softmax(logits)``: the first ``i`` with ``p_0 + … + p_i > u``, u uniform.

    One random number a row, where ``torch.multinomial`` draws one for every token of the vocabulary and takes ten
    times as long on a CPU. In float64 (float32 where a device has none) no token is too unlikely to be drawn; one of
    probability 0 never is, as the sum up to it is that of the token before it.

    Shapes:
        logits: [b, v]. Result: [b].

    Raises:
        FloatingPointError: logits that are no numbers.
    """
    precision = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulative = logits.softmax(-1, dtype=precision).cumsum(-1)
    total = cumulative[:, -1:]
    if not bool(total.isfinite().all()):
        row = int((~total.isfinite()).nonzero()[0, 0])
        raise FloatingPointError(f"the logits of row {row} are no numbers, so that no token can be drawn")
    point = torch.rand(total.shape, generator=generator, dtype=precision, device=logits.device) * total
    return torch.searchsorted(cumulative, point, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
