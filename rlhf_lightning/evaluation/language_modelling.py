"""Loss on held-out pretraining text: what alignment costs a model as a language model (the alignment tax)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from rlhf_lightning.data import Encoder, TokenBatch, collate_tokens, load_blocks
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import TokenLogprobs, generation_mode


def text_batches(
    encoder: Encoder,
    file: str | Path,
    *,
    block_size: int,
    document_eos: bool = True,
    sample_by: str = "document",
    batch_size: int = 16,
    max_tokens: int | None = None,
) -> list[TokenBatch]:
    """Held-out text as batches of full blocks, to be read by several models that share an encoder.

    Args:
        file, document_eos, sample_by: as in :class:`~rlhf_lightning.data.TextDataModule`.
        block_size: tokens of a block.
        batch_size: blocks per batch.
        max_tokens: about how many tokens to read; the blocks are then taken at even distances over the whole file.

    Raises:
        UserError: text that does not fill one block, or ``max_tokens`` below one.
    """
    if max_tokens is not None and max_tokens < block_size:
        raise UserError(f"max_tokens={max_tokens} is less than one block of {block_size} tokens: raise it")
    blocks = load_blocks(file, encoder=encoder, block_size=block_size, document_eos=document_eos, sample_by=sample_by)
    count = len(blocks) if max_tokens is None else min(len(blocks), max_tokens // block_size)
    rows = blocks.__getitems__([index * len(blocks) // count for index in range(count)])
    return [
        collate_tokens(rows[start : start + batch_size], pad_id=encoder.pad_token_id)
        for start in range(0, count, batch_size)
    ]


def mean_loss(model: nn.Module, batches: Sequence[TokenBatch]) -> float:
    """Mean next-token loss in nats, ``−Σ log π(y_t | y_<t) / number of labels``, over all batches together."""
    blocks = block_losses(model, batches)
    return sum(loss for loss, _ in blocks) / max(sum(count for _, count in blocks), 1)


def block_losses(model: nn.Module, batches: Sequence[TokenBatch]) -> list[tuple[float, int]]:
    """For each block in turn ``−Σ log π(y_t | y_<t)`` in nats and its number of labels: the units of a bootstrap."""
    logprobs = TokenLogprobs(model)
    device = next(model.parameters()).device
    found = []
    with generation_mode(model):
        for batch in batches:
            chosen, _ = logprobs(batch.input_ids.to(device), batch.loss_mask.to(device), entropy=False)
            counts = batch.loss_mask.sum(1).tolist()
            losses = torch.split(chosen.double().cpu(), counts)
            found += [(-float(part.sum()), count) for part, count in zip(losses, counts, strict=True)]
    return found


def text_loss(
    model: nn.Module,
    encoder: Encoder,
    file: str | Path,
    *,
    block_size: int,
    document_eos: bool = True,
    sample_by: str = "document",
    batch_size: int = 16,
    max_tokens: int | None = None,
) -> float:
    """:func:`mean_loss` of the blocks of a file; the arguments are those of :func:`text_batches`."""
    batches = text_batches(
        encoder,
        file,
        block_size=block_size,
        document_eos=document_eos,
        sample_by=sample_by,
        batch_size=batch_size,
        max_tokens=max_tokens,
    )
    return mean_loss(model, batches)
