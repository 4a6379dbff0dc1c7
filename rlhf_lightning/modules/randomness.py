"""Random streams of the processes that train together."""

from __future__ import annotations

import hashlib

import torch

from rlhf_lightning.modules.world import World


def rank_seed(seed: int, rank: int) -> int:
    """A seed of its own for every rank; rank 0 keeps the given one."""
    if rank == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}:{rank}".encode(), digest_size=7).digest(), "big")


def part_streams(world: World) -> None:
    """Give torch's global generators of each rank but the first, which begin alike under one seed, a stream of their
    own: dropout would else leave out the same in every rank's rows. Called when models are made and before a
    checkpoint's generators are restored."""
    if world.rank > 0:
        torch.manual_seed(rank_seed(torch.initial_seed(), world.rank))


def rollout_seed(seed: int, iteration: int, rank: int) -> int:
    """A seed of its own for what every rank samples for every iteration."""
    return int.from_bytes(hashlib.blake2b(f"rollout:{seed}:{iteration}:{rank}".encode(), digest_size=7).digest(), "big")
