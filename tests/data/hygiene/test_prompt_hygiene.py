from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa
import pytest

from rlhf_lightning.data.hygiene import PromptHygiene, prompt_text
from rlhf_lightning.errors import UserError

PROMPTS = [
    "Write a poem about the sea.",
    "Write a poem about the sea and the sky.",
    "Mail jane@example.com or 10.0.0.12.",
    "Write a poem about the sea.",
    "Translate: good morning",
    "Mail Jane.",
    "What is 2 + 2?",
    "Call 555-123-4567",
]
USERS = ["ann", "ann", "ann", "bob", "ann", None, "ann", None]


def test_all_steps_together_and_their_counts() -> None:
    hygiene = PromptHygiene(min_common_prefix=20, max_per_user=2, personal_data=["email", "phone", "ip"])
    cleaned = hygiene.clean(PROMPTS, USERS)
    assert len(cleaned.train) == 3
    assert 5 in cleaned.train
    assert set(cleaned.train.tolist()) < {0, 4, 5, 6}
    assert cleaned.validation.tolist() == []
    assert cleaned.dropped == {"personal_data": 2, "duplicate": 2, "over_user_limit": 1}
    assert cleaned.personal_data == {"email": 1, "ip": 1, "phone": 1}
    assert [cleaned.train.tolist()] * 3 == [hygiene.clean(PROMPTS, USERS).train.tolist() for _ in range(3)]


@pytest.mark.parametrize(
    ("options", "kept", "dropped"),
    [
        ({"deduplicate": False}, [0, 1, 2, 3, 4, 5, 6, 7], {}),
        ({}, [0, 1, 2, 4, 5, 6, 7], {"duplicate": 1}),
        ({"min_common_prefix": 20}, [0, 2, 4, 5, 6, 7], {"duplicate": 2}),
        ({"deduplicate": False, "personal_data": ["ip"]}, [0, 1, 3, 4, 5, 6, 7], {"personal_data": 1}),
        ({"deduplicate": False, "max_per_user": 9}, [0, 1, 2, 3, 4, 5, 6, 7], {"over_user_limit": 0}),
    ],
)
def test_every_step_can_be_switched_off(options: dict[str, Any], kept: list[int], dropped: dict[str, int]) -> None:
    cleaned = PromptHygiene(**options).clean(PROMPTS, USERS)
    assert cleaned.train.tolist() == kept
    assert cleaned.dropped == dropped


def test_active_says_whether_any_step_is_on() -> None:
    assert not PromptHygiene(deduplicate=False).active
    assert PromptHygiene().active
    assert PromptHygiene(deduplicate=False, validation_fraction=0.5).active


def test_a_clean_prompt_survives_a_duplicate_with_personal_data() -> None:
    prompts = ["The same long opening, jane@example.com", "The same long opening, Jane"]
    cleaned = PromptHygiene(min_common_prefix=20, personal_data=["email"]).clean(prompts)
    assert cleaned.train.tolist() == [1]
    assert cleaned.dropped == {"personal_data": 1, "duplicate": 0}


def test_counts_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    PromptHygiene(max_per_user=2, personal_data=["email", "ip"]).clean(PROMPTS)
    assert [record.getMessage() for record in caplog.records] == [
        "Prompt hygiene: 1 of 8 prompts dropped: personal_data (email 1, ip 1)",
        "Prompt hygiene: 1 of 8 prompts dropped: duplicate",
        "Prompt hygiene: 0 of 8 prompts dropped: over_user_limit",
        "Prompt hygiene: no prompt names its user, so each counts as a user of its own",
    ]


def test_users_are_held_out_as_a_whole() -> None:
    users = [f"user {i % 40}" for i in range(400)]
    cleaned = PromptHygiene(validation_fraction=0.25, seed=5).clean([f"prompt {i}" for i in range(400)], users)
    train, held_out = ({users[i] for i in part} for part in (cleaned.train, cleaned.validation))
    assert train | held_out == set(users)
    assert not train & held_out
    assert 4 <= len(held_out) <= 18


def test_prompts_without_users_stay_in_their_split_when_others_join() -> None:
    prompts = [f"prompt {i}" for i in range(200)]
    hygiene = PromptHygiene(validation_fraction=0.5)
    before = {prompts[i] for i in hygiene.clean(prompts).validation}
    more = ["a new one", *reversed(prompts)]
    assert {more[i] for i in hygiene.clean(more).validation} - {"a new one"} == before
    assert 70 < len(before) < 130


def test_any_filter_can_stand_in_for_the_one_that_is_shipped() -> None:
    def names(text: str) -> list[str]:
        return ["name"] if "Jane" in text else []

    cleaned = PromptHygiene(deduplicate=False, personal_data=names).clean(PROMPTS)
    assert cleaned.train.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert cleaned.personal_data == {"name": 1}


def test_columns_of_arrow_and_more_rows_than_are_read_at_a_time() -> None:
    prompts = [f"prompt {i % 12_000}" for i in range(25_000)]
    column = pa.chunked_array([prompts[:7], prompts[7:]])
    cleaned = PromptHygiene(validation_fraction=0.5).clean(column, pa.array(range(25_000)))
    assert cleaned.dropped == {"duplicate": 13_000}
    assert sorted([*cleaned.train.tolist(), *cleaned.validation.tolist()]) == list(range(12_000))


def test_conversations_are_compared_by_role_and_content() -> None:
    question = [{"role": "user", "content": "Hello?"}]
    answered = [*question, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Who is j@d.io?"}]
    assert prompt_text(answered) == ("Hello?\n\nassistant: Hi.\n\nuser: Who is j@d.io?", 0)
    cleaned = PromptHygiene(personal_data=["email"]).clean([question, answered, "Hello?", question])
    assert cleaned.train.tolist() == [0]
    assert cleaned.dropped == {"personal_data": 1, "duplicate": 2}


def test_a_system_message_that_all_share_makes_no_duplicates() -> None:
    system = {"role": "system", "content": "You are a helpful assistant that answers in one line."}
    other = {"role": "system", "content": "You are a pirate that answers in one line, whatever."}
    prompts = [
        [system, {"role": "user", "content": "Name a river of Asia"}],
        [system, {"role": "user", "content": "Name a hill"}],
        [system, {"role": "user", "content": "Name a river of Africa"}],
        [other, {"role": "user", "content": "Name a river of Asia"}],
    ]
    assert PromptHygiene(min_common_prefix=12).clean(prompts).train.tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_common_prefix": 0}, "min_common_prefix must be at least 1 character, not 0"),
        ({"deduplicate": False, "min_common_prefix": 9}, "min_common_prefix=9 has no effect with deduplicate=false"),
        ({"max_per_user": 0}, "max_per_user must be at least 1, not 0"),
        ({"validation_fraction": 1.0}, "validation_fraction must be at least 0 and below 1, not 1.0"),
        ({"personal_data": ["mail"]}, "must list kinds out of email.*not mail"),
        ({"personal_data": 3}, "personal_data must list kinds"),
    ],
)
def test_values_that_make_no_sense_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PromptHygiene(**options)


def test_results_that_nothing_can_be_trained_on_are_errors() -> None:
    with pytest.raises(UserError, match=r"leaves none of 1 prompts \(personal_data: 1, duplicate: 0\).*data\.hygiene"):
        PromptHygiene(personal_data=["email"]).clean(["j@d.io"])
    with pytest.raises(
        UserError, match=r"validation_fraction=0\.1 puts all 3 prompts into train.*a user's stay together"
    ):
        PromptHygiene(validation_fraction=0.1).clean(list("abc"), ["ann"] * 3)
    with pytest.raises(UserError, match="3 prompts and 2 users"):
        PromptHygiene().clean(list("abc"), ["ann"] * 2)
