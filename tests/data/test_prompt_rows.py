from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_lightning.data import Encoder, PromptBatch, PromptDataModule, load_prompts
from rlhf_lightning.errors import UserError

from .conftest import TEMPLATE, make_tokenizer

TURNS = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate("abcd")]


def batch(path: Any, encoder: Encoder | None = None, **options: Any) -> PromptBatch:
    encoder = encoder or Encoder(make_tokenizer(template=TEMPLATE))
    data = PromptDataModule(encoder=encoder, train=path, validation=path, iterations=1, **options)
    (found,) = data.val_dataloader()
    return found


@pytest.mark.parametrize(
    ("row", "ids", "prompt"),
    [
        ({"prompt": "a b"}, [1, 4, 6, 7, 5], "a b"),
        ({"instruction": "a b", "input": ""}, [1, 4, 6, 7, 5], [{"role": "user", "content": "a b"}]),
        ({"instruction": "a", "input": "b"}, [1, 4, 6, 7, 5], [{"role": "user", "content": "a\n\nb"}]),
        ({"question": "a b"}, [1, 4, 6, 7, 5], [{"role": "user", "content": "a b"}]),
        ({"messages": TURNS}, [1, 4, 6, 5, 7, 4, 8, 5], TURNS[:3]),
        ({"conversations": [{"from": "human", "value": "a"}]}, [1, 4, 6, 5], TURNS[:1]),
        ({"prompt": TURNS[:3]}, [1, 4, 6, 5, 7, 4, 8, 5], TURNS[:3]),
    ],
)
def test_prompts_of_every_shape(write: Callable[..., Path], row: dict[str, Any], ids: list[int], prompt: Any) -> None:
    found = batch(write("a.jsonl", row))
    assert found.input_ids.tolist() == [ids]
    assert found.prompts == [prompt]


def test_text_and_conversations_share_a_run(write: Callable[..., Path]) -> None:
    found = batch([write("a.jsonl", {"prompt": "a"}), write("b.jsonl", {"question": "a"})], Encoder(make_tokenizer()))
    assert found.prompts == ["a", TURNS[:1]]
    assert found.input_ids[0].tolist() == found.input_ids[1].tolist()


@pytest.mark.parametrize(
    ("overlong", "ids", "prompt"), [("keep_start", [1, 6, 7], "a b"), ("keep_end", [1, 8, 9], "c d")]
)
def test_long_prompt_is_cut_on_demand_and_its_text_with_it(
    write: Callable[..., Path], overlong: str, ids: list[int], prompt: str
) -> None:
    path = write("a.jsonl", {"prompt": "a b c d"}, {"prompt": "a"})
    data = PromptDataModule(
        encoder=Encoder(make_tokenizer()), train=path, iterations=1, max_prompt_length=3, overlong=overlong
    )
    data.setup()
    assert data.train_rows[0]["input_ids"] == ids
    assert data.train_rows[0]["prompt"] == prompt
    assert data.counts == {"rows": 2, "overlong_rows_cut": 1}


@pytest.mark.parametrize(
    ("row", "overlong", "limit", "ids", "prompt"),
    [
        ({"prompt": "a b c d"}, "keep_end", 4, [1, 8, 9, 5], "c d"),
        ({"prompt": "a b c d"}, "keep_start", 4, [1, 4, 6, 7], "a b"),
        ({"prompt": "a b c d"}, "keep_end", 2, [1, 5], ""),
        ({"prompt": TURNS[:3]}, "keep_end", 4, [1, 4, 8, 5], TURNS[2:3]),
        ({"prompt": TURNS[:3]}, "keep_start", 5, [1, 4, 6, 5, 7], TURNS[:2]),
        ({"question": "a b c d"}, "keep_end", 4, [1, 8, 9, 5], [{"role": "user", "content": "c d"}]),
    ],
)
def test_reward_over_text_sees_what_is_left_of_the_words_in_a_template(
    write: Callable[..., Path], row: dict[str, Any], overlong: str, limit: int, ids: list[int], prompt: Any
) -> None:
    found = batch(write("a.jsonl", row), max_prompt_length=limit, overlong=overlong)
    assert found.input_ids.tolist() == [ids]
    assert found.prompts == [prompt]


def test_prompt_whose_words_a_template_changes_is_cut_to_the_text_of_its_ids(write: Callable[..., Path]) -> None:
    changing = (
        "{% for m in messages %}{{ m.content | replace(' ', ' j ') | length }} i {{ m.content[:1] }} h {% endfor %}"
    )
    found = batch(
        write("a.jsonl", {"prompt": "a b"}),
        Encoder(make_tokenizer(template=changing)),
        max_prompt_length=2,
        overlong="keep_end",
    )
    assert found.prompts == ["a h"]


def test_bad_prompts_are_named_or_skipped_with_a_count(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", {"prompt": "a"}, {"prompt": None}, {"prompt": " "}, {"prompt": 7})
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: no field 'prompt'"):
        load_prompts(path, encoder=encoder)
    data = PromptDataModule(encoder=encoder, train=path, iterations=1, on_bad_row="skip")
    data.setup()
    assert data.counts == {"rows": 1, "skipped_missing_or_null": 1, "skipped_empty_text": 1, "skipped_wrong_type": 1}


def test_user_of_a_prompt_is_kept(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", {"prompt": "a", "user": 7}, {"prompt": "b", "user": None})
    assert load_prompts(path, encoder=encoder)["user"][:] == ["7", ""]


def test_module_with_an_encoder_of_its_own_gets_the_template(write: Callable[..., Path]) -> None:
    """It saves its own tokenizer, which must render prompts as they were trained on."""
    own = Encoder(make_tokenizer())
    data = PromptDataModule(encoder=Encoder(make_tokenizer()), train=write("a.jsonl", {"question": "a"}), iterations=1)
    # A trainer with nothing but a module.
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(encoder=own))  # type: ignore[assignment]
    data.setup()
    assert own.fingerprint() == data.encoder.fingerprint()
    assert own.tokenizer.chat_template
