"""The world of one process; that of several is tested in tests/distributed."""

from __future__ import annotations

import torch
from torch import nn

from rlhf_lightning.modules import World
from rlhf_lightning.modules.randomness import rank_seed
from rlhf_lightning.modules.world import _buckets


def test_alone_everything_is_as_it_was() -> None:
    world, tensor = World(), torch.tensor([1.0, 2.0])
    assert world.total(tensor.sum()).item() == 3.0
    assert world.first(tensor) is tensor
    assert world.objects("a") == ["a"]
    assert world.rows({"x": tensor})["x"] is tensor
    assert world.share(tensor).tolist() == [1.0, 2.0]
    assert world.in_step([1, 2]) == [(1, True), (2, True)]


def test_shares_cover_the_rows_once_and_differ_by_one_at_most() -> None:
    rows = torch.arange(11)
    shares = [World(rank, 4).share(rows).tolist() for rank in range(4)]
    assert [row for share in shares for row in share] == rows.tolist()
    assert sorted(len(share) for share in shares) == [2, 3, 3, 3]


def test_every_rank_has_a_seed_of_its_own_and_the_first_keeps_the_given_one() -> None:
    seeds = [rank_seed(seed, rank) for seed in (0, 1) for rank in range(8)]
    assert len(set(seeds)) == 16
    assert [rank_seed(5, 0), rank_seed(6, 0)] == [5, 6]
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_messages_of_gradients_hold_one_type_and_not_too_much() -> None:
    parameters = [nn.Parameter(torch.zeros(size, dtype=dtype)) for size, dtype in _SIZES]
    buckets = list(_buckets(parameters))
    assert [parameter for bucket in buckets for parameter in bucket] == parameters
    assert [len(bucket) for bucket in buckets] == [2, 1, 2]


_SIZES = [(3, torch.float32), (4, torch.float32), (2, torch.float64), (5, torch.float32), (1, torch.float32)]
