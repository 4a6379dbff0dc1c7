"""Whether a causal language model behaves as training and sampling take for granted, found out by trying it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlhf_lightning.errors import UserError, one_line
from rlhf_lightning.models.engines.kv_cache import preallocated_cache
from rlhf_lightning.models.engines.next_logits import NextLogits
from rlhf_lightning.models.forward import hidden_states, logits_head
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.quantization import computes_exactly

LONG, SHORT = 6, 4


def check_causal_lm(model: nn.Module, *, name: str) -> None:
    """Try on two rows of a few tokens what all stages rely on.

    The model's own forward pass over one unpadded row is the truth. Three things must agree with it: the output
    projection over the hidden states of right-padded rows (log-probabilities), the rows without their last token (no
    look ahead), and the last token read through the key-value cache behind a left-padded prompt (sampling). That takes
    a few passes over six tokens, and finds encoder-decoders, bidirectional and recurrent models, unknown position
    schemes and caches, whatever they are called.

    Args:
        model: from transformers; one without weights (meta device) is left alone.
        name: of the model, for the error.

    Raises:
        UserError: the architecture cannot be trained here, and in what it differs.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return
    kind = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(f"model.name={name}: {kind} is an encoder-decoder; take a decoder-only language model")
    try:
        failure = _disagreement(model)
    except UserError as error:
        raise UserError(f"model.name={name}: {error}") from error
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"model.name={name}: {kind} does not run as a decoder with a key-value cache "
            f"({one_line(error, most=160)}); take another architecture"
        ) from error
    if failure is not None:
        raise UserError(f"model.name={name}: {kind} {failure}; take another architecture")


def _disagreement(model: nn.Module) -> str | None:
    head = logits_head(model)
    # nn.Module declares no methods of transformers.
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]
    ids = (torch.arange(2 * LONG, device=weight.device).view(2, LONG) * 7 + 3) % weight.shape[0]
    with generation_mode(model):
        expected = model(input_ids=ids, use_cache=False).logits.float()
        padded = ids.clone()
        padded[1, SHORT:] = 0
        training = head(hidden_states(model, padded)).float()
        cached = _last_of_each(model, ids)
    limit = (1e-3 if computes_exactly(model) else 1e-1) * float(expected.abs().max().clamp(min=1.0))

    def differ(found: Tensor, wanted: Tensor) -> bool:
        return not bool((found - wanted).abs().max() <= limit)  # NaN differs

    if differ(training[0], expected[0]) or differ(training[1, :SHORT], expected[1, :SHORT]):
        return "reads ahead or reads its padding, so it is no left-to-right language model"
    ends = torch.stack([expected[0, LONG - 1], expected[1, SHORT - 1]])
    return "gives other logits with a key-value cache and left padding than without" if differ(cached, ends) else None


def _last_of_each(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits [2, v] after ``LONG`` and ``SHORT`` tokens, the last of them read behind a cache of the others."""
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, : LONG - SHORT] = False
    aligned = ids.clone()
    aligned[1, LONG - SHORT :] = ids[1, :SHORT]
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    cache, read = preallocated_cache(model.config, LONG), NextLogits(model)
    read(aligned[:, :-1], positions[:, :-1], mask[:, :-1], cache)
    return read(aligned[:, -1:], positions[:, -1:], mask, cache)
