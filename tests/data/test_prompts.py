from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data import Encoder, PromptDataModule
from rlhf_lightning.errors import UserError


@pytest.fixture
def text(write: Callable[..., Path]) -> Path:
    return write("text.jsonl", *({"text": "a b c d e f g h"} for _ in range(10)))  # 100 tokens


def test_batches_hold_prompts_and_text_for_every_iteration(letters: Path, text: Path, encoder: Encoder) -> None:
    data = PromptDataModule(
        encoder=encoder,
        train=letters,
        text=text,
        rollout_batch_size=4,
        ptx_ratio=2,
        text_block=10,
        iterations=7,
    )
    batches = [batch for batch, _, _ in data.train_dataloader()]
    assert len(batches) == 7
    for batch in batches:
        assert batch["prompts"].input_ids.shape == (4, 2)
        assert batch["prompts"].lengths.tolist() == [2] * 4
        ids = ["abcdefghij".index(prompt) + 6 for prompt in batch["prompts"].prompts]
        assert batch["prompts"].input_ids[:, 1].tolist() == ids
        assert batch["text"].input_ids.shape == (8, 10)
        assert batch["text"].loss_mask.sum(1).tolist() == [9] * 8
    prompts = [prompt for batch in batches for prompt in batch["prompts"].prompts]
    assert sorted(prompts[:10]) == sorted(prompts[10:20]) == list("abcdefghij")
    assert prompts[:10] != prompts[10:20]


def test_batches_without_text_hold_prompts_alone(letters: Path, encoder: Encoder) -> None:
    data = PromptDataModule(encoder=encoder, train=letters, rollout_batch_size=40, iterations=1)
    ((batch, _, _),) = data.train_dataloader()
    assert list(batch) == ["prompts"]
    assert sorted(batch["prompts"].prompts) == sorted("abcdefghij" * 4)


def test_validation_prompts_come_in_order_once(letters: Path, encoder: Encoder) -> None:
    data = PromptDataModule(encoder=encoder, train=letters, validation=letters, rollout_batch_size=4, iterations=1)
    assert [batch.prompts for batch in data.val_dataloader()] == [list("abcd"), list("efgh"), list("ij")]


def test_long_prompt_is_an_error_before_training(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", {"prompt": "a"}, {"prompt": "a b c"})
    data = PromptDataModule(encoder=encoder, train=path, iterations=1, max_prompt_length=3)
    with pytest.raises(UserError, match=r"line 2: .*length 4 and the limit is 3.*data\.max_prompt_length"):
        data.prepare_data()


def test_ptx_ratio_below_one_is_an_error(letters: Path, encoder: Encoder) -> None:
    with pytest.raises(UserError, match=r"ptx_ratio must be at least 1.*not 0.*leave out text"):
        PromptDataModule(encoder=encoder, train=letters, iterations=1, ptx_ratio=0)


def test_every_prompt_comes_as_often_as_it_is_answered(letters: Path, text: Path, encoder: Encoder) -> None:
    options: dict[str, Any] = {"encoder": encoder, "train": letters, "text": text, "text_block": 10, "ptx_ratio": 2}
    single = PromptDataModule(**options, rollout_batch_size=4, iterations=7)
    grouped = PromptDataModule(
        **options, validation=letters, rollout_batch_size=12, responses_per_prompt=3, iterations=7
    )
    for (one, *_), (three, *_) in zip(single.train_dataloader(), grouped.train_dataloader(), strict=True):
        assert three["prompts"].prompts == [prompt for prompt in one["prompts"].prompts for _ in range(3)]
        assert len(three["text"].lengths) == 24
    assert [batch.prompts for batch in grouped.val_dataloader()] == [list("abcdefghij")]


@pytest.mark.parametrize("responses", [0, 5])
def test_responses_that_make_no_batch_are_an_error(letters: Path, encoder: Encoder, responses: int) -> None:
    with pytest.raises(UserError, match=rf"responses_per_prompt={responses} .*rollout_batch_size=12"):
        PromptDataModule(
            encoder=encoder, train=letters, rollout_batch_size=12, responses_per_prompt=responses, iterations=1
        )
