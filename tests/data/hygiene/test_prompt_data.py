"""Prompt hygiene inside the data module: what is trained on, what is held out, and the counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data import Encoder, PromptDataModule, PromptHygiene
from rlhf_lightning.errors import UserError


def module(encoder: Encoder, train: Any, **options: Any) -> PromptDataModule:
    data = PromptDataModule(encoder=encoder, train=train, rollout_batch_size=4, iterations=1, **options)
    data.prepare_data()
    return data


def test_prompts_of_all_sources_are_one_set(write: Callable[..., Path], encoder: Encoder) -> None:
    first = write("a.jsonl", {"prompt": "a b"}, {"prompt": "mail j@d.io"}, {"prompt": "c", "user": "ann"})
    second = write("b.jsonl", {"prompt": "d", "user": "ann"}, {"prompt": "a b"}, {"prompt": "e", "user": "ann"})
    hygiene = PromptHygiene(max_per_user=2, personal_data=["email"])
    data = module(encoder, [str(first), str(second)], hygiene=hygiene)
    kept = data.train_rows["prompt"][:]
    assert kept[0] == "a b"
    assert len(kept) == 3
    assert set(kept[1:]) < {"c", "d", "e"}
    assert data.counts == {
        "rows": 3,
        "personal_data_rows_dropped": 1,
        "duplicate_rows_dropped": 1,
        "over_user_limit_rows_dropped": 1,
        "personal_data_email": 1,
    }
    assert data.validation_rows is None
    again = module(encoder, [str(first), str(second)], hygiene=hygiene)
    assert again.train_rows["prompt"][:] == kept


def test_users_are_held_out_for_validation(write: Callable[..., Path], encoder: Encoder) -> None:
    rows = [{"prompt": letter * (1 + n % 3), "user": f"user {n}"} for n in range(20) for letter in "abc"]
    data = module(
        encoder,
        [str(write("a.jsonl", *rows[:33])), str(write("b.jsonl", *rows[33:]))],
        hygiene=PromptHygiene(deduplicate=False, validation_fraction=0.3),
    )
    train, held_out = data.train_rows["user"][:], data.validation_rows["user"][:]
    assert not set(train) & set(held_out)
    assert sorted([*train, *held_out]) == sorted(row["user"] for row in rows)
    assert data.counts == {"rows": len(train), "held_out_rows": len(held_out)}
    assert len([prompt for batch in data.val_dataloader() for prompt in batch.prompts]) == len(held_out)


def test_weights_of_sources_stay(write: Callable[..., Path], encoder: Encoder) -> None:
    first = write("a.jsonl", {"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"})
    second = write("b.jsonl", {"prompt": "b"}, {"prompt": "c"}, {"prompt": "d"})
    sources = [{"path": str(first), "weight": 1}, {"path": str(second), "weight": 1}]
    data = module(encoder, sources, hygiene=PromptHygiene())
    assert [table["prompt"][:] for table in data.train_rows.tables] == [["a", "b"], ["c", "d"]]


def test_conversations_and_text_are_compared(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write(
        "a.jsonl",
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": [{"role": "user", "content": "a"}]},
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
            ]
        },
    )
    data = module(encoder, path, hygiene=PromptHygiene())
    assert [row["content"] for row in data.train_rows["messages"][0]] == ["a"]
    assert data.counts == {"rows": 2, "duplicate_rows_dropped": 1}


def test_overlong_prompts_are_dropped_before_a_users_prompts_are_counted(
    write: Callable[..., Path], encoder: Encoder
) -> None:
    path = write("a.jsonl", *({"prompt": prompt, "user": "ann"} for prompt in ("a b c d", "a", "b", "c d e f")))
    data = module(encoder, path, max_prompt_length=3, overlong="drop", hygiene=PromptHygiene(max_per_user=2))
    assert data.train_rows["prompt"][:] == ["a", "b"]
    assert data.counts == {
        "rows": 2,
        "overlong_rows_dropped": 2,
        "duplicate_rows_dropped": 0,
        "over_user_limit_rows_dropped": 0,
    }


def test_steps_that_are_off_change_nothing(letters: Path, encoder: Encoder) -> None:
    data = module(encoder, letters, hygiene=PromptHygiene(deduplicate=False))
    assert data.train_rows["prompt"][:] == list("abcdefghij")
    assert data.counts == {"rows": 10}


def test_validation_files_and_a_split_are_an_error(letters: Path, encoder: Encoder) -> None:
    with pytest.raises(UserError, match=r"data\.hygiene\.validation_fraction=0\.1.*data\.validation"):
        module(encoder, letters, validation=letters, hygiene=PromptHygiene(validation_fraction=0.1))
    data = module(encoder, letters, validation=[str(letters)] * 2, hygiene=PromptHygiene())
    assert len(data.validation_rows) == 20  # as they are, duplicates and all
