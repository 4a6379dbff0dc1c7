from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from rlhf_lightning.data.columns import SHAPES, Layout, recognise
from rlhf_lightning.errors import UserError


def layout(kind: str, row: dict[str, Any], columns: Any = None) -> Layout:
    return recognise(Dataset.from_list([row]), kind=kind, path="f.jsonl", columns=columns)


def read(kind: str, row: dict[str, Any], columns: Any = None) -> dict[str, Any]:
    return layout(kind, row, columns).read(row)


TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize("kind", SHAPES)
def test_every_shape_is_recognised_by_its_own_columns(kind: str) -> None:
    lists = ("messages", "conversations", "responses")
    for shape in SHAPES[kind]:
        row = {name: [TURNS[0]] if name in lists else "x" for name in shape}
        found = layout(kind, row)
        assert set(found.shape) <= set(shape)
        assert set(found.columns) == set(shape)


def test_other_columns_are_not_read() -> None:
    found = layout("demonstrations", {"id": "1", "prompt": "a", "response": "b", "source": "c"})
    assert found.columns == ["prompt", "response"]
    assert found.shape == ("prompt", "response")


def test_only_plain_prompts_are_no_conversations() -> None:
    plain = {"prompt": "a", "response": "b"}
    assert not layout("demonstrations", plain).conversational
    assert not layout("comparisons", {"prompt": "a", "chosen": "b", "rejected": "c"}).conversational
    assert layout("demonstrations", {"instruction": "a", "input": "", "output": "b"}).conversational
    assert layout("demonstrations", {"messages": TURNS}).conversational
    assert layout("comparisons", {"chosen": "a", "rejected": "b"}).conversational
    assert layout("comparisons", {"prompt": "a", "chosen": TURNS, "rejected": TURNS}).conversational
    assert layout("prompts", {"prompt": TURNS[:1]}).conversational
    assert not layout("prompts", {"prompt": "a"}).conversational


def test_columns_name_what_a_file_calls_otherwise() -> None:
    row = {"query": "a", "reply": "b", "prompt": "not this"}
    assert read("demonstrations", row, {"prompt": "query", "response": "reply"}) == {"prompt": "a", "response": "b"}


def test_columns_reach_into_structures_and_through_lists() -> None:
    row = {"q": {"text": "a"}, "completions": [{"text": "b", "score": 2.0}, {"text": "c", "score": 1.0}]}
    columns = {"prompt": "q.text", "responses": "completions.text", "scores": "completions.score"}
    assert read("comparisons", row, columns) == {"prompt": "a", "responses": ["b", "c"], "scores": [2.0, 1.0]}
    assert layout("comparisons", row, columns).columns == ["q", "completions"]


def test_several_columns_make_a_list() -> None:
    row = {"question": "a", "one": {"text": "b", "right": True}, "n": 3, "two": {"text": "c", "right": False}}
    wanted = {"question": "a", "responses": ["b", "c"], "scores": [True, False]}
    assert (
        read("comparisons", row, {"responses": ["one.text", "two.text"], "scores": ["one.right", "two.right"]})
        == wanted
    )
    assert read("comparisons", row, {"responses": "*.text", "scores": "*.right"}) == wanted


def test_a_name_with_a_dot_is_a_column_of_that_name() -> None:
    assert read("prompts", {"a.b": "x"}, {"prompt": "a.b"}) == {"prompt": "x"}


def test_null_hides_a_column() -> None:
    row = {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2], "scores": [0.0, 1.0]}
    assert "scores" not in read("comparisons", row, {"scores": None})


def test_unrecognised_file_is_an_error_that_lists_fields_shapes_and_the_way_out() -> None:
    with pytest.raises(UserError) as error:
        layout("demonstrations", {"prompt": "a", "reply": "b"})
    message = str(error.value)
    assert message.startswith("f.jsonl, row 1: no field 'response'; the fields are prompt, reply. ")
    assert "instruction/output; instruction/response; question/answer" in message
    assert "data.columns={response: prompt}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"reward": "a"}, "unknown name 'reward'; comparisons have baseline, "),
        ({"prompt": "b"}, "data.columns.prompt=b: no such column; the columns are a, c"),
        ({"prompt": "b.c"}, "no such column"),
        ({"responses": "*.text"}, "no column has a field 'text'"),
    ],
)
def test_columns_that_are_not_there(columns: dict[str, str], part: str) -> None:
    with pytest.raises(UserError) as error:
        layout("comparisons", {"a": "x", "c": {"d": "y"}}, columns)
    assert part in str(error.value)
