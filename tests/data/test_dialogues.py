from __future__ import annotations

from typing import Any

import pytest

from rlhf_lightning.data.dialogues import ask, check_order, read_hh, read_messages, read_prompt, split_answer
from rlhf_lightning.data.faults import RowFault


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def test_messages_of_both_notations_are_read_alike() -> None:
    sharegpt = [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    expected = [{"role": "system", "content": "s"}, *turns("a", "b")]
    assert read_messages(sharegpt, "f") == read_messages(expected, "f") == expected


def test_fields_of_the_other_notation_may_be_null() -> None:
    row = [{"role": "user", "content": "a", "from": None, "value": None}]
    assert read_messages(row, "f") == turns("a")


@pytest.mark.parametrize(
    ("value", "reason", "part"),
    [
        (None, "missing_or_null", "'f' must be a list of messages, but is missing"),
        ("a", "wrong_type", "but is a str"),
        (["a"], "wrong_type", "message 1 of 'f' must have role and content"),
        ([], "empty_text", "no messages"),
        ([{"role": "tool", "content": "a"}], "roles", "message 1 of 'f' has the role 'tool'"),
        ([{"role": "user"}], "missing_or_null", "the content of message 1 of 'f' is no text"),
        ([{"role": "user", "content": " "}], "empty_text", "the content of message 1 of 'f' is empty"),
        ([{"role": "user", "content": 5}], "wrong_type", "is no text"),
        (turns("a", "b")[::-1], "roles", "roles out of order in 'f': assistant, user"),
        ([*turns("a"), *turns("b")], "roles", "roles out of order in 'f': user, user"),
        ([{"role": "system", "content": "s"}], "roles", "a system message alone"),
        ([*turns("a", "b"), {"role": "system", "content": "s"}], "roles", "user, assistant, system"),
    ],
)
def test_malformed_messages(value: Any, reason: str, part: str) -> None:
    with pytest.raises(RowFault) as fault:
        read_messages(value, "f")
    assert fault.value.reason == reason
    assert part in str(fault.value)
    assert "\n" not in str(fault.value)


def test_hh_dialogue_is_read_turn_by_turn() -> None:
    text = "\n\nHuman: a b\n\nnext\n\nAssistant: c\n\nHuman: d\n\nAssistant: e"
    assert read_hh(text, "f") == turns("a b\n\nnext", "c", "d", "e")
    assert read_hh("\n\nHuman: a\n\nAssistant:", "f") == turns("a", "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a", "wrong_type"), ("x\n\nHuman: a", "wrong_type"), ("\n\nHuman:\n\nAssistant: b", "empty_text")],
)
def test_text_that_is_no_hh_dialogue(text: str, reason: str) -> None:
    with pytest.raises(RowFault) as fault:
        read_hh(text, "f")
    assert fault.value.reason == reason


def test_answer_is_the_last_assistant_turn() -> None:
    assert split_answer(turns("a", "b", "c", "d"), "f") == (turns("a", "b", "c"), "d")
    with pytest.raises(RowFault, match="no assistant turn at the end of 'f'"):
        split_answer(turns("a", "b", "c"), "f")


def test_instruction_and_input_are_one_turn() -> None:
    assert ask("a", "b") == turns("a\n\nb")
    assert ask("a", "") == ask("a", None) == ask("a", "  ") == turns("a")


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "a"}, "a"),
        ({"prompt": turns("a", "b", "c")}, turns("a", "b", "c")),
        ({"instruction": "a", "input": "b"}, turns("a\n\nb")),
        ({"instruction": "a", "input": "", "context": None}, turns("a")),
        ({"instruction": "a", "context": "b"}, turns("a\n\nb")),
        ({"question": "a"}, turns("a")),
        ({"messages": turns("a", "b", "c", "d")}, turns("a", "b", "c")),
        ({"conversations": [{"from": "human", "value": "a"}]}, turns("a")),
        ({"prompt": None, "question": "a"}, turns("a")),
    ],
)
def test_prompts_of_every_shape(row: dict[str, Any], prompt: Any) -> None:
    assert read_prompt(row) == prompt


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": None}, "missing_or_null"),
        ({"prompt": 5}, "wrong_type"),
        ({"prompt": ""}, "empty_text"),
        ({"prompt": turns("a", "b")}, "roles"),
        ({"instruction": "\n"}, "empty_text"),
        ({}, "missing_or_null"),
    ],
)
def test_malformed_prompts(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowFault) as fault:
        read_prompt(row)
    assert fault.value.reason == reason


def test_system_message_may_come_first_alone() -> None:
    check_order([{"role": "system", "content": "s"}, *turns("a", "b")], "f")
