from __future__ import annotations

import logging
from pathlib import Path

import pytest

from rlhf_lightning.data import Encoder
from rlhf_lightning.data.word_places import earlier_answers
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
THINKING = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}i {% endif %}{{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Something stands before the words of an answer that the generation prompt does not have."""
DIALOGUE = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d e"},
]


def texts(template: str, messages: list[dict[str, str]] = DIALOGUE) -> list[str]:
    return Encoder(make_tokenizer(template=template)).texts(messages[:-1], messages[-1]["content"])


def earlier(template: str) -> list[list[str]]:
    """The words that the assistant says in the prompt."""
    tokenizer = make_tokenizer(template=template)
    encoder = Encoder(tokenizer)
    ids = encoder.prompt(DIALOGUE[:-1])
    return [tokenizer.convert_ids_to_tokens(ids[a:b]) for a, b in earlier_answers(encoder, DIALOGUE[:-1])]


def test_prompt_and_response_are_what_the_template_renders() -> None:
    rendered = make_tokenizer(template=CHATML).apply_chat_template(DIALOGUE, tokenize=False)
    prompt, answer = texts(CHATML)
    assert prompt == "<s>user: a </s> j assistant: b </s> j user: c </s> j assistant: "
    assert answer == "d e"
    assert rendered == prompt + answer + " </s> j "


@pytest.mark.parametrize("template", [CHATML, END_AT_THE_END, TRIMMING])
def test_texts_join_to_what_transformers_renders(template: str) -> None:
    rendered = make_tokenizer(template=template).apply_chat_template(DIALOGUE, tokenize=False)
    assert rendered.startswith("".join(texts(template)))


def test_earlier_turns_end_with_their_eos_or_else_with_what_closes_them() -> None:
    assert earlier(CHATML) == [["b", "</s>"]]
    assert earlier(END_AT_THE_END) == [["b", "i"]]


def test_earlier_turn_begins_where_the_assistant_began_to_speak() -> None:
    assert earlier(THINKING) == [["i", "b"]]


def test_words_are_taken_as_the_template_writes_them() -> None:
    dialogue = [DIALOGUE[0], {"role": "assistant", "content": "  b "}]
    assert texts(TRIMMING, dialogue) == ["user:a\nassistant:", "b"]
    assert texts(THINKING, dialogue)[1] == "i   b "


def test_what_a_template_puts_before_the_words_is_no_part_of_the_text_of_a_response() -> None:
    encoder = Encoder(make_tokenizer(template=THINKING))
    prompt, response = encoder.example("a", "b")
    assert (prompt, response) == ([4, 6, 5], [14, 7, 2])
    assert encoder.decode(response) == "b"
    assert encoder.decode([7, 2]) == "b"


def test_template_without_a_generation_prompt_is_cut_before_the_words() -> None:
    bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert texts(bare, DIALOGUE[:2]) == ["user: a\nassistant:", " b"]
    bracketed = "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% else %} {{ m.content }}{% endif %}"
    assert texts(bracketed + "{% endfor %}", DIALOGUE[:2]) == ["[a]", " b"]


def test_template_that_goes_on_otherwise_than_by_its_generation_prompt_is_cut_before_the_words() -> None:
    reasoning = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content.split('#')[-1] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>#{% endif %}"
    )
    dialogue = [DIALOGUE[0], {"role": "assistant", "content": "why # b"}]
    assert texts(reasoning, dialogue) == ["<user>a<assistant>", " b"]


def test_template_whose_turns_cannot_be_told_apart_is_refused_for_all_of_them_only() -> None:
    assert texts(FORGETFUL)[1] == "d e"
    with pytest.raises(UserError) as error:
        earlier(FORGETFUL)
    assert "train_on=all" in str(error.value)
    assert FORGETFUL[:50] in str(error.value)
    assert "\n" not in str(error.value)


def test_plain_template_for_a_tokenizer_without_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder(make_tokenizer(adds_bos=True))
    with caplog.at_level(logging.INFO):
        encoder.require_template()
    assert "the tokenizer has no chat template" in caplog.text
    expected = "<s>User:\na\n\nAssistant:\nb</s>\n\nUser:\nc\n\nAssistant:\n"
    assert encoder.texts(DIALOGUE[:3])[0] == expected
    assert encoder.prompt(DIALOGUE[:3]).count(1) == 1
    system = [{"role": "system", "content": "e"}, DIALOGUE[0]]
    assert encoder.texts(system)[0] == "<s>System:\ne\n\nUser:\na\n\nAssistant:\n"
    encoder.save(tmp_path / "model")
    assert Encoder.from_pretrained(tmp_path / "model").texts(DIALOGUE[:3])[0] == expected


def test_plain_template_has_no_bos_where_the_tokenizer_adds_none() -> None:
    encoder = Encoder(make_tokenizer(adds_bos=False))
    encoder.require_template()
    assert encoder.texts("a")[0] == "User:\na\n\nAssistant:\n"
    assert encoder.texts(DIALOGUE[:3], "d e") == ["User:\na\n\nAssistant:\nb</s>\n\nUser:\nc\n\nAssistant:\n", "d e"]


def test_a_template_of_its_own_stays() -> None:
    encoder = Encoder(make_tokenizer(template=CHATML))
    encoder.require_template()
    assert encoder.tokenizer.chat_template == CHATML


def test_system_message_of_the_encoder_stands_in_for_a_missing_one() -> None:
    encoder = Encoder(make_tokenizer(template=CHATML), system="i")
    assert encoder.texts("a")[0].startswith("<s>system: i </s> j user: a")
    own = [{"role": "system", "content": "h"}, DIALOGUE[0]]
    assert encoder.texts(own)[0].startswith("<s>system: h </s> j user: a")
