from __future__ import annotations

import logging
from pathlib import Path

import pytest

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError

from .conftest import make_tokenizer

CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }} {{ eos_token }} j {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Every turn ends with EOS and something behind it, like the newline of ChatML."""
END_AT_THE_END = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }} i {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% else %}{{ eos_token }}{% endif %}"
)
"""A mark of its own closes a turn, and EOS the whole, as in Phi-3."""
TRIMMING = (
    "{% for m in messages %}{{ m.role }}:{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.role }}: {{ m.content }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Earlier answers are left out."""
DIALOGUE = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d e"},
]


def pieces(template: str, train_on: str, messages: list[dict[str, str]] = DIALOGUE) -> list[tuple[str, bool]]:
    return Encoder(make_tokenizer(template=template)).turns(messages, train_on=train_on)


def test_last_turn_is_what_the_template_renders() -> None:
    rendered = make_tokenizer(template=CHATML).apply_chat_template(DIALOGUE, tokenize=False)
    prompt, answer = pieces(CHATML, "last")
    assert prompt == ("<s>user: a </s> j assistant: b </s> j user: c </s> j assistant: ", False)
    assert answer == ("d e", True)
    assert rendered == prompt[0] + answer[0] + " </s> j "


def test_all_turns_are_learned_up_to_their_eos() -> None:
    assert pieces(CHATML, "all") == [
        ("<s>user: a </s> j assistant: ", False),
        ("b </s>", True),
        (" j user: c </s> j assistant: ", False),
        ("d e", True),
    ]


@pytest.mark.parametrize("template", [CHATML, END_AT_THE_END, TRIMMING])
def test_pieces_join_to_what_transformers_renders(template: str) -> None:
    rendered = make_tokenizer(template=template).apply_chat_template(DIALOGUE, tokenize=False)
    for train_on in ("last", "all"):
        assert rendered.startswith("".join(text for text, _ in pieces(template, train_on)))


def test_turn_that_no_eos_closes_is_learned_with_what_closes_it() -> None:
    assert pieces(END_AT_THE_END, "all")[1] == ("b i ", True)


def test_words_are_taken_as_the_template_writes_them() -> None:
    dialogue = [DIALOGUE[0], {"role": "assistant", "content": "  b "}]
    assert pieces(TRIMMING, "last", dialogue) == [("user:a\nassistant:", False), ("b", True)]
    thinking = (
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}i {% endif %}{{ m.content }} {% endfor %}"
    )
    thinking += "{% if add_generation_prompt %}assistant: {% endif %}"
    assert pieces(thinking, "last", dialogue)[1] == ("i   b ", True)


def test_template_whose_turns_cannot_be_told_apart_is_refused_for_all_of_them_only() -> None:
    assert pieces(FORGETFUL, "last")[1] == ("d e", True)
    with pytest.raises(UserError) as error:
        pieces(FORGETFUL, "all")
    assert "train_on=all" in str(error.value)
    assert FORGETFUL[:50] in str(error.value)
    assert "\n" not in str(error.value)


def test_plain_template_for_a_tokenizer_without_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder(make_tokenizer(adds_bos=True))
    with caplog.at_level(logging.INFO):
        encoder.require_template()
    assert "the tokenizer has no chat template" in caplog.text
    expected = "<s>User:\na\n\nAssistant:\nb</s>\n\nUser:\nc\n\nAssistant:\n"
    assert encoder.render(DIALOGUE[:3]) == expected
    assert encoder.prompt(DIALOGUE[:3]).count(1) == 1
    system = [{"role": "system", "content": "e"}, DIALOGUE[0]]
    assert encoder.render(system) == "<s>System:\ne\n\nUser:\na\n\nAssistant:\n"
    encoder.save(tmp_path / "model")
    assert Encoder.from_pretrained(tmp_path / "model").render(DIALOGUE[:3]) == expected


def test_plain_template_has_no_bos_where_the_tokenizer_adds_none() -> None:
    encoder = Encoder(make_tokenizer(adds_bos=False))
    encoder.require_template()
    assert encoder.render("a") == "User:\na\n\nAssistant:\n"
    assert [text for text, _ in encoder.turns(DIALOGUE, train_on="all")] == [
        "User:\na\n\nAssistant:\n",
        "b</s>",
        "\n\nUser:\nc\n\nAssistant:\n",
        "d e",
    ]


def test_a_template_of_its_own_stays() -> None:
    encoder = Encoder(make_tokenizer(template=CHATML))
    encoder.require_template()
    assert encoder.tokenizer.chat_template == CHATML


def test_system_message_of_the_encoder_stands_in_for_a_missing_one() -> None:
    encoder = Encoder(make_tokenizer(template=CHATML), system="i")
    assert encoder.render("a").startswith("<s>system: i </s> j user: a")
    own = [{"role": "system", "content": "h"}, DIALOGUE[0]]
    assert encoder.render(own).startswith("<s>system: h </s> j user: a")
