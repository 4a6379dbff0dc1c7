"""The text of a prompt whose tokens were cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data import Encoder, load_prompts
from rlhf_lightning.data.cut_text import cut_messages

from .conftest import TEMPLATE, make_tokenizer

TURNS = [
    {"role": "user", "content": "a b"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": " d e f "},
]
RENDERED = "<user>a b\n<bot>c\n<user>d e f\n<bot>"


@pytest.mark.parametrize(
    ("overlong", "left", "contents"),
    [
        ("keep_end", "d e f\n<bot>", ["d e f"]),
        ("keep_end", "e f\n<bot>", ["e f"]),
        ("keep_end", "<bot>", [""]),
        ("keep_end", "c\n<user>d e f\n<bot>", ["d e f"]),  # an answer without its question
        ("keep_end", "b\n<bot>c\n<user>d e f\n<bot>", ["b", "c", "d e f"]),
        ("keep_start", "<user>a b\n<bot>c\n<user>d", ["a b", "c", "d"]),
        ("keep_start", "<user>a", ["a", ""]),
        ("keep_start", RENDERED, ["a b", "c", "d e f"]),
    ],
)
def test_what_is_left_of_a_conversation(overlong: str, left: str, contents: list[str]) -> None:
    found = cut_messages(TURNS, rendered=RENDERED, letters=len(left), overlong=overlong)
    assert [message["content"] for message in found] == contents
    assert found[-1]["role"] == "user"
    assert TURNS[2]["content"] == " d e f "


@pytest.mark.parametrize(
    ("row", "overlong", "ids", "text"),
    [
        ({"prompt": "a b c d"}, "keep_end", [1, 8, 9, 5], "c d"),
        ({"prompt": "a b c d"}, "keep_start", [1, 4, 6, 7], "a b "),  # <s> is decoded with a space
        ({"question": "a b c d"}, "keep_end", [1, 8, 9, 5], [{"role": "user", "content": "c d"}]),
    ],
)
def test_a_reward_over_text_sees_what_the_policy_saw(
    write: Callable[..., Path], row: dict[str, Any], overlong: str, ids: list[int], text: Any
) -> None:
    encoder = Encoder(make_tokenizer(template=TEMPLATE))
    (found,) = load_prompts(write("a.jsonl", row), encoder=encoder, max_length=4, overlong=overlong)
    assert found["input_ids"] == ids
    assert (found["messages"] or found["prompt"]) == text
