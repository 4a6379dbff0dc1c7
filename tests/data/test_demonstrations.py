from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data import DemonstrationDataModule, Encoder, write_rows
from rlhf_lightning.errors import UserError

from .conftest import make_tokenizer


def test_batch_joins_prompt_and_response_and_labels_the_response(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", {"prompt": "a b", "response": "c"}, {"prompt": "d", "response": "e f g"})
    (batch,) = DemonstrationDataModule(encoder=encoder, train=path, validation=path).val_dataloader()
    assert batch.input_ids.tolist() == [[1, 6, 7, 8, 2, 0], [1, 9, 10, 11, 12, 2]]
    assert batch.lengths.tolist() == [5, 6]
    assert batch.loss_mask.tolist() == [
        [False, False, False, True, True, False],
        [False, False, True, True, True, True],
    ]


def test_eos_is_a_label_where_it_is_the_padding(write: Callable[..., Path]) -> None:
    path = write("a.jsonl", {"prompt": "a", "response": "b"}, {"prompt": "a", "response": "b c"})
    encoder = Encoder(make_tokenizer(pad=None))
    (batch,) = DemonstrationDataModule(encoder=encoder, train=path, validation=path).val_dataloader()
    assert batch.input_ids.tolist() == [[1, 6, 7, 2, 2], [1, 6, 7, 8, 2]]
    assert batch.loss_mask.sum(1).tolist() == [2, 3]


def test_training_batches_are_shuffled_by_the_seed_alone(letters: Path, encoder: Encoder) -> None:
    def order(seed: int) -> list[int]:
        data = DemonstrationDataModule(encoder=encoder, train=letters, batch_size=4, seed=seed)
        return [token for batch in data.train_dataloader() for token in batch.input_ids[:, 1].tolist()]

    assert sorted(order(0)) == list(range(6, 16))
    assert order(0) == order(0) != order(1)


def test_limit_counts_prompt_and_response(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", {"prompt": "a", "response": "b"}, {"prompt": "a b", "response": "b c"})
    data = DemonstrationDataModule(encoder=encoder, train=path, max_length=5)
    with pytest.raises(UserError) as error:
        data.prepare_data()
    assert str(error.value) == (
        f"{path}, line 2: prompt and response have length 6 and the limit is 5: "
        "set data.overlong=drop or raise data.max_length"
    )
    data = DemonstrationDataModule(encoder=encoder, train=path, max_length=5, overlong="drop")
    assert [batch.lengths.tolist() for batch in data.train_dataloader()] == [[4]]
    DemonstrationDataModule(encoder=encoder, train=path, max_length=6).setup()


def test_row_without_a_response_is_an_error(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", {"prompt": "a", "output": "b"})
    with pytest.raises(UserError, match=r"a\.jsonl, row 1: no field 'response'; the fields are prompt, output"):
        DemonstrationDataModule(encoder=encoder, train=path).setup()


@pytest.mark.shared_data
def test_real_demonstrations(shared: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(shared / "models" / "stories260k")
    rows = json.loads((shared / "data/sft/llamafactory_alpaca_en_demo.json").read_text())
    path = tmp_path / "alpaca.jsonl"
    write_rows(path, ({"prompt": f"{row['instruction']} {row['input']}", "response": row["output"]} for row in rows))
    data = DemonstrationDataModule(encoder=encoder, train=path, max_length=512, overlong="drop", batch_size=64)
    data.setup()
    assert 0 < len(data.train_rows) < 999
    assert all(int(batch.lengths.max()) <= 512 for batch in data.train_dataloader())


def test_text_is_shuffled_among_the_demonstrations_which_come_once_each(
    write: Callable[..., Path], encoder: Encoder
) -> None:
    train = write("a.jsonl", *[{"prompt": "a", "response": "b"}] * 9)
    text = write("t.jsonl", {"text": "c d e f c d e f c d e f"})
    data = DemonstrationDataModule(encoder=encoder, train=train, text=text, text_share=0.25, text_block=4, batch_size=4)
    batches = list(data.train_dataloader())
    assert len(data.train_rows) == 12
    lengths = [length for batch in batches for length in batch.lengths.tolist()]
    labels = [count for batch in batches for count in batch.loss_mask.sum(1).tolist()]
    # A demonstration is BOS a b EOS with labels b EOS; a block of 4 tokens has 3.
    assert sorted(labels) == [2] * 9 + [3] * 3
    assert lengths == [4] * 12
    assert data.provenance["text"].totals["documents"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text_share": 1.0}, "data.text_share=1.0"),
        ({"packing": 8, "text": "t.jsonl", "text_block": 9}, "text_block=9"),
    ],
)
def test_text_that_cannot_be_mixed_in(options: dict[str, Any], words: str, encoder: Encoder) -> None:
    with pytest.raises(UserError, match=words):
        DemonstrationDataModule(encoder=encoder, train="a.jsonl", **options)
