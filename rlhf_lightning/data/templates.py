"""The chat template for tokenizers that have none, and where a template puts the assistant's words."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_lightning.data.dialogues import Conversation
from rlhf_lightning.errors import UserError

Render = Callable[[Conversation, bool], str]
"""(messages, whether the assistant is to speak next) -> text"""

PLAIN_TEMPLATE = (
    "{% set names = {'system': 'System', 'user': 'User', 'assistant': 'Assistant'} %}"
    "{% for message in messages %}"
    "{{ names[message['role']] + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"
)
r"""``User:\n...\n\nAssistant:\n...<eos>\n\n``: nothing but plain text and EOS. A header ends with a newline, so that
no word's first token depends on the space before it.
Newlines stand inside of expressions, because transformers drops one that follows a block."""


def plain_template(*, bos: bool) -> str:
    """The plain template, with a BOS in front for tokenizers that start a text with one."""
    return ("{{ bos_token }}" if bos else "") + PLAIN_TEMPLATE


def last_turn(render: Render, messages: Conversation, *, eos: str) -> tuple[str, str]:
    """(prompt, response) as the template writes them; the response is without what closes the turn.

    A template that does not begin the whole conversation with the prompt gives the response as it is written in the
    data.
    """
    prompt, whole = render(messages[:-1], True), render(messages, False)
    content = messages[-1]["content"]
    if not whole.startswith(prompt):
        return prompt, content
    words = _words(whole[len(prompt) :], content, eos)
    return prompt, content if words is None else words


def all_turns(render: Render, messages: Conversation, *, eos: str, template: str) -> list[tuple[str, bool]]:
    """The conversation in pieces of (text, whether it is learned), every assistant turn a piece of its own.

    A turn is learned up to and including its EOS where the template writes one, else with whatever closes it. The last
    piece is without what closes it, as in ``last_turn``.

    Errors:
        UserError: the template does not render the start of a conversation as the start of the whole, so that its
            turns cannot be told apart.
    """
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    prompts = [render(messages[:index], True) for index in answers]
    pieces: list[tuple[str, bool]] = []
    done = ""
    for number, (index, prompt) in enumerate(zip(answers, prompts, strict=True)):
        whole = render(messages[: index + 1], False)
        words = _words(whole[len(prompt) :], messages[index]["content"], eos) if whole.startswith(prompt) else None
        if not prompt.startswith(done) or words is None:
            raise _unsplittable(template)
        if number == len(answers) - 1:
            learned = words
        else:
            if not prompts[number + 1].startswith(prompt):
                raise _unsplittable(template)
            learned = _common_start(whole[len(prompt) :], prompts[number + 1][len(prompt) :])
            if len(learned) < len(words):
                raise _unsplittable(template)
            end = learned.find(eos, len(words))
            learned = learned if end < 0 else learned[: end + len(eos)]
        pieces += [(prompt[len(done) :], False), (learned, True)]
        done = prompt + learned
    return pieces


def _words(rendered: str, content: str, eos: str) -> str | None:
    """The assistant's words in what the template renders behind the prompt, with anything it puts before them."""
    for text in (content, content.strip()):
        start = rendered.find(text) if text else -1
        if start >= 0:
            return rendered[: start + len(text)]
    end = rendered.rfind(eos)
    return rendered[:end] if end >= 0 else None


def _common_start(one: str, other: str) -> str:
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:same]


def _unsplittable(template: str) -> UserError:
    start = " ".join(template.split())[:60]
    return UserError(
        f"train_on=all: the chat template {start!r}... does not render the start of a conversation as the start of the "
        "whole, so that its turns cannot be told apart: set data.train_on=last or take another template"
    )
