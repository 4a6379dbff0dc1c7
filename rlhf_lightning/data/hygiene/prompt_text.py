"""A prompt as one text, for comparing and searching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class PromptText(NamedTuple):
    """The text, and how many characters at its start are system messages."""

    text: str
    system: int = 0


def prompt_text(prompt: str | Sequence[Mapping[str, str]]) -> PromptText:
    """The text of a prompt: a str as it is; of a conversation the roles and contents, one message after the other.

    System messages come first, because prompts of an application share them: what is alike has to be so after them.
    The role of the first other message is left out where it is "user", so that a conversation of one question reads
    like the same question as a str.

    Args:
        prompt: text, or messages with ``role`` and ``content``.
    """
    if isinstance(prompt, str):
        return PromptText(prompt)
    system = "".join(f"system: {m['content']}\n\n" for m in prompt if m["role"] == "system")
    others = [message for message in prompt if message["role"] != "system"]
    parts = [f"{message['role']}: {message['content']}" for message in others]
    if others and others[0]["role"] == "user":
        parts[0] = others[0]["content"]
    return PromptText(system + "\n\n".join(parts), len(system))
