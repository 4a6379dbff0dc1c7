"""Demonstrations in packs: the same batches as without, also in a run that is resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data import DemonstrationDataModule, Encoder, PackedBatch
from rlhf_lightning.errors import UserError

from .test_loader import every, fit

Make = Callable[..., DemonstrationDataModule]


@pytest.fixture
def rows(write: Callable[..., Path]) -> Path:
    """Ten demonstrations of 4 to 7 tokens whose prompts are the letters a to j."""
    return write(
        "rows.jsonl",
        *({"prompt": letter, "response": " ".join("abcd"[: 1 + i % 4])} for i, letter in enumerate("abcdefghij")),
    )


@pytest.fixture
def make(rows: Path, encoder: Encoder) -> Make:
    """Fresh objects for every run, as in a new process: three batches an epoch, of 4, 4 and 2 examples."""

    def data(**options: Any) -> DemonstrationDataModule:
        settings = {"train": rows, "batch_size": 4, "packing": 12, "seed": 1} | options
        return DemonstrationDataModule(encoder=encoder, **settings)

    return data


def examples(batch: PackedBatch) -> list[tuple[int, ...]]:
    """The ids of every example of a batch, in order."""
    found: list[list[int]] = []
    for ids, positions, length in zip(batch.input_ids, batch.position_ids, batch.lengths, strict=True):
        for token, position in zip(ids[:length].tolist(), positions[:length].tolist(), strict=True):
            if position == 0:
                found.append([])
            found[-1].append(token)
    return sorted(map(tuple, found))


def test_batch_size_counts_examples_and_batches_hold_the_same_ones_as_without_packing(make: Make) -> None:
    for epoch in range(2):
        packed, padded = make().train_dataloader(), make(packing=None).train_dataloader()
        for loader in (packed, padded):
            loader.stream.set_epoch(epoch)
        pairs = list(zip(packed, padded, strict=True))
        assert [len(batch.lengths) for _, batch in pairs] == [4, 4, 2]
        for pack, batch in pairs:
            unpacked = [ids[:length] for ids, length in zip(batch.input_ids.tolist(), batch.lengths, strict=True)]
            assert examples(pack) == sorted(map(tuple, unpacked))
            assert int(pack.loss_mask.sum()) == int(batch.loss_mask.sum())


def test_every_example_comes_once_in_an_epoch_in_another_order_each_time(make: Make) -> None:
    loader = make().train_dataloader()
    epochs = []
    for epoch in range(3):
        loader.stream.set_epoch(epoch)
        batches = list(loader)
        assert sorted(ids[1] for batch in batches for ids in examples(batch)) == list(range(6, 16))
        assert all(int(batch.lengths.max()) <= 12 for batch in batches)
        assert sum(len(batch.lengths) for batch in batches) < 10  # rows that hold more than one example
        epochs.append([batch.input_ids.tolist() for batch in batches])
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_packs_follow_from_the_seed(make: Make) -> None:
    first, again, other = (
        [batch.input_ids.tolist() for batch in make(seed=seed).train_dataloader()] for seed in (3, 3, 4)
    )
    assert first == again != other


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_run_goes_on_with_the_same_packs(make: Make, tmp_path: Path, num_workers: int) -> None:
    straight = fit(make(num_workers=num_workers), tmp_path, [every(tmp_path / "c", every_n_train_steps=1)])
    assert len(straight) == 9
    for step in (1, 2, 5) if num_workers else range(1, 10):
        resumed = fit(make(num_workers=num_workers), tmp_path, resume=tmp_path / f"c/{step}.ckpt")
        assert resumed == straight[step:], step


def test_validation_is_packed_and_in_order(make: Make, rows: Path) -> None:
    data = make(validation=rows, batch_size=10)
    (batch,) = data.val_dataloader()
    assert [ids[1] for ids in examples(batch)] == list(range(6, 16))
    # Lengths 4 to 7 of ten examples, three times 4, three times 5, twice 6 and twice 7: 7+5, 7+5, 6+6, 5+4, 4+4.
    assert sorted(batch.lengths.tolist()) == [8, 9, 12, 12, 12]


@pytest.mark.parametrize(("options", "limit", "key"), [({}, 6, "packing"), ({"max_length": 5}, 5, "max_length")])
def test_an_example_longer_than_a_pack_falls_under_the_overlong_rule(
    make: Make, rows: Path, options: dict[str, Any], limit: int, key: str
) -> None:
    with pytest.raises(UserError) as error:
        make(packing=6, **options).setup()
    first = limit - 2  # the rows have 4, 5, 6, 7, 4, ... tokens
    assert str(error.value) == (
        f"{rows}, line {first}: prompt and response have length {limit + 1} and the limit is {limit}: "
        f"set data.overlong=drop or raise data.{key}"
    )
    kept = make(packing=6, overlong="drop", **options)
    kept.setup()
    assert max(kept.train_rows["length"]) == limit
    assert sum(len(examples(batch)) for batch in kept.train_dataloader()) == {6: 8, 5: 6}[limit]


@pytest.mark.parametrize("packing", [0, 1, -512, True, 2.5])
def test_a_size_that_makes_no_sense_is_refused(make: Make, packing: Any) -> None:
    with pytest.raises(UserError, match=rf"^data\.packing={packing} must be the tokens of a pack, at least 2, or null"):
        make(packing=packing)
