from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.data import StreamBatchSampler
from rlhf_lightning.errors import UserError


def sampler(**options: Any) -> StreamBatchSampler:
    return StreamBatchSampler(**{"size": 10, "batch_size": 3, "seed": 0, **options})


def test_an_epoch_holds_every_row_once() -> None:
    batches = list(sampler())
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
    assert sorted(chain(*batches)) == list(range(10))
    assert len(sampler()) == 4


def test_drop_last_leaves_out_the_incomplete_batch() -> None:
    assert [len(batch) for batch in sampler(drop_last=True)] == [3, 3, 3]
    assert len(sampler(drop_last=True)) == 3


def test_without_shuffle_rows_come_in_order() -> None:
    assert list(sampler(shuffle=False)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert list(sampler(shuffle=False, batches=5)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 0, 1], [2, 3, 4]]


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    first = list(sampler(size=100))
    torch.manual_seed(2)
    assert list(sampler(size=100)) == first
    assert list(sampler(size=100, seed=1)) != first
    other_epoch = sampler(size=100)
    other_epoch.set_epoch(1)
    assert list(other_epoch) != first
    # Neighbouring seeds must not share orders, as they do where the generator is seeded with seed + epoch.
    assert list(sampler(size=100, seed=1)) != list(other_epoch)


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(sampler())
    assert torch.equal(torch.get_rng_state(), before)


def test_stream_of_batches_crosses_passes_and_reshuffles() -> None:
    batches = list(sampler(batches=20))
    assert [len(batch) for batch in batches] == [3] * 20
    rows = list(chain(*batches))
    passes = [rows[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(some) == list(range(10)) for some in passes)
    assert len({tuple(some) for some in passes}) == 6


def test_batch_may_be_larger_than_the_dataset() -> None:
    (batch,) = sampler(size=4, batch_size=10, batches=1)
    assert sorted(batch[:4]) == sorted(batch[4:8]) == [0, 1, 2, 3]


def test_next_epoch_of_a_stream_goes_on_where_the_first_ended() -> None:
    first, second = sampler(batches=2), sampler(batches=2)
    second.set_epoch(1)
    assert list(first) + list(second) == list(sampler(batches=4))


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 30),
    share=st.integers(1, 7),
    batches=st.none() | st.integers(1, 9),
    epoch=st.integers(0, 3),
    start=st.integers(0, 9),
    world_size=st.integers(1, 3),
    drop_last=st.booleans(),
)
def test_skip_and_ranks_give_parts_of_the_same_batches(
    size: int, share: int, batches: int | None, epoch: int, start: int, world_size: int, drop_last: bool
) -> None:
    options: dict[str, Any] = {
        "size": size,
        "batch_size": share * world_size,
        "seed": 5,
        "batches": batches,
        "drop_last": drop_last,
    }
    try:
        ranks = [StreamBatchSampler(**options, rank=rank, world_size=world_size) for rank in range(world_size)]
    except UserError:
        return
    for one in ranks:
        one.set_epoch(epoch)
    shares = [list(one) for one in ranks]
    assert {len(some) for some in shares} == {len(ranks[0])}
    assert all(rows for some in shares for rows in some)  # no rank is left without a row
    whole = [list(chain(*parts)) for parts in zip(*shares, strict=True)]
    if batches is None and not drop_last:
        assert sorted(chain(*whole)) == list(range(size))
    if batches is not None:
        alone = StreamBatchSampler(**options)
        alone.set_epoch(epoch)
        assert whole == list(alone)
    for one, some in zip(ranks, shares, strict=True):
        one.skip(start)
        assert list(one) == some[start:]
        assert list(one) == some  # only the next iteration is shortened


def test_rest_too_small_for_every_rank_joins_the_last_batch() -> None:
    ranks = [sampler(size=9, batch_size=4, shuffle=False, rank=rank, world_size=2) for rank in range(2)]
    assert [list(one) for one in ranks] == [[[0, 1], [4, 5]], [[2, 3], [6, 7, 8]]]
    assert [len(one) for one in ranks] == [2, 2]
    assert list(sampler(size=9, batch_size=4, shuffle=False)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_another_epoch_starts_at_its_first_batch() -> None:
    one = sampler()
    one.skip(2)
    one.set_epoch(0)
    assert len(list(one)) == 2
    one.skip(2)
    one.set_epoch(1)
    assert len(list(one)) == 4
    assert len(one) == 4


def test_batch_size_that_ranks_cannot_share_is_an_error() -> None:
    with pytest.raises(UserError, match=r"batch size of 3 cannot be shared by 2 processes.*multiple of 2"):
        sampler(world_size=2)
    with pytest.raises(UserError, match="batch size of 0"):
        sampler(batch_size=0)


def test_too_few_rows_are_an_error() -> None:
    with pytest.raises(UserError, match="10 rows does not make one batch of 11"):
        sampler(batch_size=11, drop_last=True)
    with pytest.raises(UserError, match="0 rows"):
        sampler(size=0)
    with pytest.raises(UserError, match="at least 1, not 0"):
        sampler(batches=0)


def test_repeated_rows_stand_side_by_side_and_the_order_is_that_of_single_rows() -> None:
    single = list(sampler(batches=7, batch_size=2))
    repeated = list(sampler(batches=7, batch_size=6, repeats=3))
    assert repeated == [[row for row in batch for _ in range(3)] for batch in single]


def test_repeated_rows_continue_at_any_batch_and_are_shared_by_the_ranks() -> None:
    whole = list(sampler(batches=7, batch_size=6, repeats=3))
    resumed = sampler(batches=7, batch_size=6, repeats=3)
    resumed.skip(4)
    assert list(resumed) == whole[4:]
    shares = [list(sampler(batches=7, batch_size=6, repeats=3, rank=rank, world_size=2)) for rank in range(2)]
    assert [first + second for first, second in zip(*shares, strict=True)] == whole


def test_a_batch_of_no_whole_groups_is_an_error() -> None:
    with pytest.raises(UserError, match="4 times every row do not make a batch of 6"):
        sampler(batch_size=6, repeats=4)
