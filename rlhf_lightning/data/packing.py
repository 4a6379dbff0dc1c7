"""Several examples in one row: batches with little padding, whose examples do not see each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_lightning.data.collate import collate_tokens
from rlhf_lightning.errors import UserError


class PackedBatch(NamedTuple):
    """Examples laid one behind the other (p packs, s tokens of the longest pack)."""

    input_ids: Tensor
    """[p, s] long, right padded."""
    lengths: Tensor
    """[p] long, real tokens of each pack."""
    loss_mask: Tensor
    """[p, s] bool, True where the token at this position is a label; never the first token of an example."""
    position_ids: Tensor
    """[p, s] long, the token's place in its own example: 0 where an example starts, and on padding."""


def check_packing(packing: int | None) -> int | None:
    """``data.packing`` as it is, if it makes sense.

    Raises:
        UserError: no whole number of tokens that a prompt and a response fit into.
    """
    if packing is not None and (isinstance(packing, bool) or not isinstance(packing, int) or packing < 2):
        raise UserError(f"data.packing={packing} must be the tokens of a pack, at least 2, or null for padded batches")
    return packing


def fill_packs(lengths: Sequence[int], *, size: int) -> list[list[int]]:
    """Which examples share a pack of at most ``size`` tokens: first-fit decreasing.

    The longest example comes first, each goes into the first pack that has room, and equal lengths keep their order.
    First-fit decreasing needs at most 11/9 of the fewest packs possible and 6/9 of a pack more (Dósa 2007).

    Args:
        lengths: tokens of each example.
        size: most tokens of a pack.

    Returns:
        Indices into ``lengths``, each once.

    Raises:
        UserError: an example is longer than a pack.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if length > size:
            raise UserError(
                f"an example of {length} tokens does not fit a pack of {size}: raise data.packing or set "
                "data.overlong=drop"
            )
        pack = next((pack for pack, free in enumerate(room) if free >= length), len(room))
        if pack == len(room):
            packs.append([])
            room.append(size)
        packs[pack].append(index)
        room[pack] -= length
    return packs


def collate_packs(rows: Sequence[Mapping[str, Any]], *, pad_id: int, size: int) -> PackedBatch:
    """Pack rows of ``input_ids`` (ids) and ``prompt_length`` (leading tokens that are no labels).

    The packs depend on the rows alone, so a batch that is drawn again, as in a resumed run, has the same ones.

    Args:
        rows: the examples of one batch, as for ``collate_tokens``.
        pad_id: fills the rows behind their packs.
        size: most tokens of a pack.

    Raises:
        UserError: an example is longer than a pack.
    """
    examples = collate_tokens(rows, pad_id=pad_id)
    lengths = examples.lengths.tolist()
    packs = fill_packs(lengths, size=size)
    pack_lengths = torch.tensor([sum(lengths[index] for index in pack) for pack in packs])
    shape = (len(packs), int(pack_lengths.max()))
    batch = PackedBatch(
        input_ids=torch.full(shape, pad_id),
        lengths=pack_lengths,
        loss_mask=torch.zeros(shape, dtype=torch.bool),
        position_ids=torch.zeros(shape, dtype=torch.long),
    )
    for row, pack in enumerate(packs):
        start = 0
        for index in pack:
            length = lengths[index]
            columns = slice(start, start + length)
            batch.input_ids[row, columns] = examples.input_ids[index, :length]
            batch.loss_mask[row, columns] = examples.loss_mask[index, :length]
            batch.position_ids[row, columns] = torch.arange(length)
            start += length
    return batch
