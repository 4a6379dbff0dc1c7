from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch

from rlhf_lightning.data import Encoder, StreamBatchSampler, TextDataModule, stream_loader
from rlhf_lightning.data.mixing import Mixture, weights_of, with_share
from rlhf_lightning.errors import UserError


def mixture(*, sizes: tuple[int, ...], weights: tuple[float, ...]) -> Mixture:
    tables = [datasets.Dataset.from_dict({"x": [f"{t}{i}" for i in range(size)]}) for t, size in enumerate(sizes)]
    return Mixture(tables, weights=weights, names=[f"t{index}" for index in range(len(sizes))])


def drawn(mixed: Mixture, *, seed: int = 0, passes: int = 1, batches: int | None = None) -> list[str]:
    loader = stream_loader(mixed, trainer=None, collate=list, batch_size=5, seed=seed, batches=batches, train=True)
    found = []
    for number in range(passes):
        loader.stream.set_epoch(number)
        found += [row["x"] for batch in loader for row in batch]
    return found


def test_a_pass_takes_rows_in_proportion_to_the_weights() -> None:
    mixed = mixture(sizes=(30, 10), weights=(1, 3))
    assert mixed.draws() == [(30, 10), (10, 30)]
    found = drawn(mixed)
    assert len(found) == 40
    assert Counter(name[0] for name in found) == {"0": 10, "1": 30}
    assert set(Counter(name for name in found if name[0] == "1").values()) == {3}  # each of ten rows three times


def test_a_light_source_goes_on_where_the_pass_before_has_left_it() -> None:
    mixed = mixture(sizes=(30, 10), weights=(1, 3))
    seen = Counter(name for name in drawn(mixed, passes=3) if name[0] == "0")
    assert len(seen) == 30
    assert set(seen.values()) == {1}


def test_shares_that_are_no_whole_rows_sum_up_to_a_pass() -> None:
    mixed = mixture(sizes=(5, 3, 2), weights=(1, 1, 1))
    assert mixed.draws() == [(5, 4), (3, 3), (2, 3)]


def test_the_order_depends_on_the_seed_alone_and_sources_are_interleaved() -> None:
    mixed = mixture(sizes=(20, 20), weights=(1, 1))
    state = torch.random.get_rng_state()
    first = drawn(mixed)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == drawn(mixture(sizes=(20, 20), weights=(1, 1)))
    assert first != drawn(mixed, seed=1)
    assert len({name[0] for name in first[:10]}) == 2


@pytest.mark.parametrize("batches", [None, 12])
def test_the_order_continues_at_any_batch(batches: int | None) -> None:
    whole = list(StreamBatchSampler(size=40, batch_size=5, seed=3, batches=batches, mixture=[(30, 10), (10, 30)]))
    again = StreamBatchSampler(size=40, batch_size=5, seed=3, batches=batches, mixture=[(30, 10), (10, 30)])
    again.skip(5)
    assert list(again) == whole[5:]


def test_without_training_every_row_comes_once_in_order() -> None:
    mixed = mixture(sizes=(3, 2), weights=(1, 9))
    loader = stream_loader(mixed, trainer=None, collate=list, batch_size=2)
    assert [row["x"] for batch in loader for row in batch] == ["00", "01", "02", "10", "11"]


def test_equal_weights_of_equal_sizes_show_every_row_once() -> None:
    assert sorted(drawn(mixture(sizes=(5, 5), weights=(2, 2)))) == sorted(f"{t}{i}" for t in (0, 1) for i in range(5))


def test_a_mixture_survives_pickling() -> None:
    mixed = pickle.loads(pickle.dumps(mixture(sizes=(3, 2), weights=(1, 1))))
    assert [row["x"] for row in mixed.__getitems__([4, 0, 3])] == ["11", "00", "10"]


def test_a_weight_too_small_for_a_single_row_is_an_error() -> None:
    with pytest.raises(UserError, match=r"t1: its weight 0\.01 of 1\.01 gives it none of the 10 rows"):
        mixture(sizes=(5, 5), weights=(1, 0.01))


def test_a_source_without_a_weight_has_one_where_others_have_one() -> None:
    assert weights_of([None, None]) is None
    assert weights_of([None, 2]) == [1.0, 2.0]


def test_text_of_weighted_files_is_mixed(write: Callable[..., Path], encoder: Encoder) -> None:
    a = write("a.jsonl", *({"text": "a a"} for _ in range(9)))
    b = write("b.jsonl", *({"text": "b b"} for _ in range(3)))
    data = TextDataModule(
        encoder=encoder, train=[{"path": a, "weight": 1}, {"path": b, "weight": 2}], block_size=4, batch_size=12
    )
    (batch,) = data.train_dataloader()
    assert Counter(batch.input_ids[:, 1].tolist()) == {6: 4, 7: 8}  # a is 6, b is 7


@pytest.mark.parametrize(("rows", "share", "added"), [(90, 0.1, 10), (13, 0.1, 1), (7, 0.5, 7), (30, 0.3, 13)])
def test_a_share_beside_rows_that_come_once_each(rows: int, share: float, added: int) -> None:
    tables = [datasets.Dataset.from_dict({"x": [f"{t}{i}" for i in range(size)]}) for t, size in enumerate((rows, 40))]
    mixed = with_share(tables[0], tables[1], share=share, names=("a", "b"))
    assert mixed.draws() == [(rows, rows), (40, added)]
    assert len(mixed) == rows + added
    found = Counter(drawn(mixed))
    assert {name: count for name, count in found.items() if name[0] == "0"} == {f"0{i}": 1 for i in range(rows)}
    assert sum(count for name, count in found.items() if name[0] == "1") == added


def test_weights_among_the_rows_go_on_to_hold_beside_a_share() -> None:
    text = datasets.Dataset.from_dict({"x": [f"2{i}" for i in range(50)]})
    mixed = with_share(mixture(sizes=(30, 10), weights=(1, 3)), text, share=0.2, names=("a", "b"))
    assert Counter(name[0] for name in drawn(mixed)) == {"0": 10, "1": 30, "2": 10}
