from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from rlhf_lightning.data import DemonstrationDataModule, Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules.context import check_context


def _data(lengths: list[int], split: str = "train", **options: Any) -> SimpleNamespace:
    rows = {"train": "train_rows", "demonstrations": "demonstration_rows"}[split]
    return SimpleNamespace(**{split: "some.jsonl", rows: Dataset.from_dict({"length": lengths})}, **options)


def test_the_longest_row_is_named_before_training(causal_lm: PreTrainedModel) -> None:
    check_context(causal_lm, _data([3, 64, 5]))
    with pytest.raises(UserError, match=r"some.jsonl, row 2 has 65 tokens, .* context of 64; set data.max_length=64"):
        check_context(causal_lm, _data([3, 65, 5]))
    with pytest.raises(UserError, match=r"some.jsonl, row 1 has 70 tokens"):
        check_context(causal_lm, _data([70], "demonstrations"))


def test_new_tokens_need_room(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    check_context(make_causal_lm(), _data([50]), new_tokens=14, key="max_prompt_length")
    with pytest.raises(UserError, match=r"50 tokens, which with 15 new tokens .* set data.max_prompt_length=49"):
        check_context(make_causal_lm(), _data([50]), new_tokens=15, key="max_prompt_length")
    with pytest.raises(UserError, match=r"lower module.max_new_tokens"):
        check_context(make_causal_lm(), _data([1]), new_tokens=64)


def test_blocks_of_text(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(UserError, match=r"data.block_size=65 is more than the model's context of 64"):
        check_context(make_causal_lm(), _data([1], block_size=65))
    with pytest.raises(UserError, match=r"data.text_block=65"):
        check_context(make_causal_lm(), _data([1], text_block=65, text="some.txt"))
    check_context(make_causal_lm(), _data([1], text_block=65, text=None))  # no text, no blocks


def test_what_states_no_length_is_left_alone(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    check_context(nn.Linear(1, 1), _data([1000]))
    check_context(make_causal_lm(), None)
    check_context(make_causal_lm(), SimpleNamespace(train=[1, 2]))


def test_rows_that_were_dropped_do_not_count(causal_lm: PreTrainedModel) -> None:
    """A selection of a table still holds the whole table beneath."""
    data = _data([3, 70, 5])
    data.train_rows = data.train_rows.select([0, 2])
    check_context(causal_lm, data)


@pytest.mark.parametrize("weights", [(None, None), (1, 3)])
def test_the_file_and_line_of_the_longest_row_of_several_files(
    make_causal_lm: Callable[..., PreTrainedModel],
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights: tuple[int | None, int | None],
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    short = '{"prompt": "red", "response": "blue"}\n'
    one.write_text(short * 3)
    two.write_text("\n" + short + "{\n" + '{"prompt": null}\n' + short.replace("red", "red " * 70))
    data = DemonstrationDataModule(
        encoder=encoder,
        train=[{"path": path, "weight": weight} for path, weight in zip((one, two), weights, strict=True)],
        on_bad_row="skip",
    )
    data.setup()
    with pytest.raises(
        UserError, match=rf"^{two}, line 5 has \d+ tokens, which is more than the model's context of 64"
    ):
        check_context(make_causal_lm(), data)
