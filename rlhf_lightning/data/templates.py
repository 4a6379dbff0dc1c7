"""The chat template for tokenizers that have none, and where a template puts what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rlhf_lightning.data.dialogues import Conversation, Message
from rlhf_lightning.data.faults import RowFault

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

MARK = "\ue000\ue001\ue000"
"""Stands in for a message whose place is looked for. Letters of private use are in no template, and none trims them."""


class Opening(NamedTuple):
    """What a template writes around the answer to a prompt, whatever the answer is."""

    prompt: str
    """What stands before the response, in every stage: training on it, scoring it and sampling it."""
    lead: str
    """What the response starts with before the answer's own words: nothing for most templates."""
    tail: str | None
    """What closes the turn at the end of a conversation; None where the template does not write answers out."""


def plain_template(*, bos: bool) -> str:
    """The plain template, with a BOS in front for tokenizers that start a text with one."""
    return ("{{ bos_token }}" if bos else "") + PLAIN_TEMPLATE


def opening(render: Render, messages: Conversation) -> Opening:
    """Where the prompt ends and the response begins; it depends on the prompt alone.

    - Where the template writes an answer behind its generation prompt, the prompt ends with that, as in
      ``apply_chat_template(add_generation_prompt=True)``. What the template puts between it and the words (the empty
      think block of Qwen3) is the start of the response.
    - A template that has no generation prompt, or that goes on otherwise than by it, is cut right before the words;
      spaces there belong to the response, because a word's first token holds the space before it.
    - A template that does not write answers out, or that refuses them, gives its generation prompt.
    """
    prompt = render(messages, True)
    try:
        head, mark, tail = render([*messages, answer(MARK)], False).rpartition(MARK)
    except RowFault:
        mark = ""
    if not mark:
        return Opening(prompt, "", None)
    if head.startswith(prompt):
        lead = head[len(prompt) :]
        if not lead.strip() or prompt != render(messages, False):
            return Opening(prompt, lead, tail)
    header = head.rstrip(" ")
    return Opening(header, head[len(header) :], tail)


def response_text(render: Render, messages: Conversation, content: str, opened: Opening) -> str:
    """The response as the template writes it behind ``opened.prompt``, without what closes the turn."""
    if opened.tail is None:
        return content
    whole = render([*messages, answer(content)], False)
    place = between(whole, opened.prompt, opened.tail)
    return opened.lead + content if place is None else whole[slice(*place)]


def answer(content: str) -> Message:
    """A turn of the assistant."""
    return {"role": "assistant", "content": content}


def between(text: str, before: str, after: str) -> tuple[int, int] | None:
    """The (start, end) of what stands between the start ``before`` and the end ``after`` of a text; None where it does
    not start and end so."""
    if len(before) + len(after) > len(text) or not text.startswith(before) or not text.endswith(after):
        return None
    return len(before), len(text) - len(after)
