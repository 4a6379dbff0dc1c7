from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data import DemonstrationDataModule, Encoder, TokenBatch
from rlhf_lightning.errors import UserError

from .conftest import TEMPLATE, make_tokenizer

TURNS = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d e"},
]
SHAREGPT = [{"from": ("human", "gpt")[i % 2], "value": turn["content"]} for i, turn in enumerate(TURNS)]


def batch(path: Any, encoder: Encoder | None = None, **options: Any) -> TokenBatch:
    encoder = encoder or Encoder(make_tokenizer(template=TEMPLATE))
    (found,) = DemonstrationDataModule(encoder=encoder, train=path, validation=path, **options).val_dataloader()
    return found


def learned(found: TokenBatch) -> list[list[int]]:
    return [ids[mask].tolist() for ids, mask in zip(found.input_ids, found.loss_mask, strict=True)]


@pytest.mark.parametrize("row", [{"messages": TURNS}, {"conversations": SHAREGPT}])
def test_conversation_is_rendered_by_the_template_and_its_last_answer_learned(
    write: Callable[..., Path], row: dict[str, Any]
) -> None:
    found = batch(write("a.jsonl", row))
    expected = make_tokenizer(template=TEMPLATE).apply_chat_template(TURNS, return_dict=False)
    assert found.input_ids.tolist() == [[1, 4, 6, 5, 7, 4, 8, 5, 9, 10, 2]] == [[*expected, 2]]
    assert learned(found) == [[9, 10, 2]]


def test_all_answers_are_learned_on_demand(write: Callable[..., Path]) -> None:
    found = batch(write("a.jsonl", {"messages": TURNS}, {"messages": TURNS[:2]}), train_on="all")
    assert learned(found) == [[7, 9, 10, 2], [7, 2]]
    assert found.input_ids.tolist() == [[1, 4, 6, 5, 7, 4, 8, 5, 9, 10, 2], [1, 4, 6, 5, 7, 2, *[0] * 5]]


def test_template_whose_turns_cannot_be_told_apart_is_an_error_for_all(write: Callable[..., Path]) -> None:
    encoder = Encoder(make_tokenizer(template="{{ messages[-1].content }} {{ messages | length }}"))
    with pytest.raises(UserError, match="train_on=all: the chat template .*set data.train_on=last"):
        batch(write("a.jsonl", {"messages": TURNS}), encoder, train_on="all")


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "a b", "input": "", "output": "c"},
        {"instruction": "a", "input": "b", "response": "c"},
        {"question": "a b", "answer": "c"},
        {"prompt": "a b", "completion": "c"},
        {"prompt": [{"role": "user", "content": "a b"}], "completion": [{"role": "assistant", "content": "c"}]},
        {"prompt": [{"role": "user", "content": "a b"}], "response": "c"},
    ],
)
def test_every_shape_gives_the_same_ids_with_a_template(write: Callable[..., Path], row: dict[str, Any]) -> None:
    found = batch(write("a.jsonl", row))
    assert found.input_ids.tolist() == [[1, 4, 6, 7, 5, 8, 2]]
    assert learned(found) == [[8, 2]]


def test_plain_template_is_installed_before_any_file_is_encoded(write: Callable[..., Path]) -> None:
    plain, dialogue = write("a.jsonl", {"prompt": "a", "response": "b"}), write("b.jsonl", {"messages": TURNS[:2]})
    encoder = Encoder(make_tokenizer())
    data = DemonstrationDataModule(encoder=encoder, train=plain, validation=dialogue)
    data.setup()
    assert data.train_rows[0]["input_ids"] == data.validation_rows[0]["input_ids"]
    assert encoder.tokenizer.chat_template
    alone = Encoder(make_tokenizer())
    DemonstrationDataModule(encoder=alone, train=plain).setup()
    assert not alone.tokenizer.chat_template


BAD = [
    ({"prompt": "a"}, "missing_or_null", "no field 'response'"),
    ({"prompt": None, "response": "b"}, "missing_or_null", "no field 'prompt'"),
    ({"prompt": "a", "response": " "}, "empty_text", "the field 'response' is empty"),
    ({"prompt": 5, "response": "b"}, "wrong_type", "the field 'prompt' must be text, not int"),
    ({"prompt": "a", "response": ["b"]}, "wrong_type", "the field 'response' must be text, not list"),
]
GOOD = {"prompt": "a", "response": "b"}


@pytest.mark.parametrize(("row", "reason", "problem"), BAD)
def test_bad_row_is_named_or_skipped_with_a_count(
    write: Callable[..., Path],
    encoder: Encoder,
    caplog: pytest.LogCaptureFixture,
    row: dict[str, Any],
    reason: str,
    problem: str,
) -> None:
    path = write("a.jsonl", GOOD, row, GOOD)
    with pytest.raises(UserError) as error:
        DemonstrationDataModule(encoder=encoder, train=path).setup()
    assert str(error.value).startswith(f"{path}, line 2: {problem}")
    assert "\n" not in str(error.value)
    for _ in range(2):  # the second time from the cache
        data = DemonstrationDataModule(encoder=encoder, train=path, on_bad_row="skip")
        caplog.clear()
        with caplog.at_level(logging.INFO):
            data.setup()
        assert data.counts == {"rows": 2, f"skipped_{reason}": 1}
        assert f"{path}: 1 of 3 rows skipped: {reason} 1" in caplog.text
        assert data.train_rows["input_ids"][:] == [[1, 6, 7, 2]] * 2


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (TURNS[:3], "roles"),
        (TURNS[1:], "roles"),
        ([], "empty_text"),
        (None, "missing_or_null"),
        ([TURNS[0], {"role": "assistant", "content": ""}], "empty_text"),
    ],
)
def test_bad_conversation_is_named_or_skipped_with_a_count(
    write: Callable[..., Path], messages: Any, reason: str
) -> None:
    path = write("a.jsonl", {"messages": TURNS}, {"messages": messages})
    encoder = Encoder(make_tokenizer(template=TEMPLATE))
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: "):
        DemonstrationDataModule(encoder=encoder, train=path).setup()
    data = DemonstrationDataModule(encoder=encoder, train=path, on_bad_row="skip")
    data.setup()
    assert data.counts == {"rows": 1, f"skipped_{reason}": 1}


def test_conversation_that_the_template_refuses_is_a_bad_row(write: Callable[..., Path]) -> None:
    refusing = "{% if messages[0].content == 'b' %}{{ raise_exception('no b') }}{% endif %}" + TEMPLATE
    path = write("a.jsonl", {"question": "a", "answer": "c"}, {"question": "b", "answer": "c"})
    encoder = Encoder(make_tokenizer(template=refusing))
    with pytest.raises(UserError, match=r"line 2: The chat template refuses .*: no b"):
        DemonstrationDataModule(encoder=encoder, train=path).setup()
    data = DemonstrationDataModule(encoder=encoder, train=path, on_bad_row="skip")
    data.setup()
    assert data.counts == {"rows": 1, "skipped_template": 1}


def test_nothing_but_bad_rows_is_an_error(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", {"prompt": "", "response": "b"}, {"prompt": "a", "response": ""})
    with pytest.raises(UserError, match=r"a\.jsonl: all 2 rows are bad \(empty_text 2\): .*data\.columns"):
        DemonstrationDataModule(encoder=encoder, train=path, on_bad_row="skip").setup()


@pytest.mark.parametrize(("overlong", "expected"), [("keep_start", [6, 7, 8, 9]), ("keep_end", [7, 8, 9, 10, 2])])
def test_long_rows_are_cut_on_demand_with_a_count(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture, overlong: str, expected: list[int]
) -> None:
    path = write("a.jsonl", {"prompt": "a b", "response": "c d e"}, {"prompt": "a", "response": "b"})
    data = DemonstrationDataModule(
        encoder=Encoder(make_tokenizer()), train=path, max_length=len(expected) + 1, overlong=overlong
    )
    with caplog.at_level(logging.INFO):
        data.setup()
    first = data.train_rows[0]
    assert first["input_ids"] == [1, *expected]
    assert first["input_ids"][first["prompt_length"] :] == [8, 9, 10, 2][: 2 if overlong == "keep_start" else 4]
    assert data.counts == {"rows": 2, "overlong_rows_cut": 1}
    assert f"{path}: 1 of 2 rows cut to {len(expected) + 1} tokens ({overlong})" in caplog.text


def test_row_of_which_the_cut_leaves_nothing_to_learn_is_dropped_with_a_count(
    write: Callable[..., Path], encoder: Encoder
) -> None:
    path = write("a.jsonl", {"prompt": "a b c d", "response": "e"}, {"prompt": "a", "response": "b"})
    data = DemonstrationDataModule(encoder=encoder, train=path, max_length=5, overlong="keep_start")
    data.setup()
    assert data.counts == {"rows": 1, "overlong_rows_dropped": 1}
    assert data.train_rows["input_ids"][:] == [[1, 6, 7, 2]]


@pytest.mark.parametrize(
    ("options", "part"),
    [({"on_bad_row": "ignore"}, "on_bad_row must be raise or skip, not 'ignore'"), ({"train_on": "first"}, "train_on")],
)
def test_unknown_choices_are_errors(letters: Path, encoder: Encoder, options: dict[str, str], part: str) -> None:
    with pytest.raises(UserError, match=part):
        DemonstrationDataModule(encoder=encoder, train=letters, **options).setup()


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "rows"), [("llamafactory_alpaca_en_demo", 999), ("gpteacher_roleplay", 1923)])
def test_real_instructions_as_published(shared: Path, name: str, rows: int) -> None:
    encoder = Encoder.from_pretrained(shared / "models" / "stories260k")
    data = DemonstrationDataModule(encoder=encoder, train=shared / "data" / "sft" / f"{name}.json")
    data.setup()
    assert data.counts == {"rows": rows}
    first = data.train_rows[0]
    assert first["input_ids"].count(encoder.bos_token_id) == 1
    assert first["input_ids"].index(encoder.eos_token_id) == first["length"] - 1
