"""Conversations as datasets write them, read into one form: a list of messages with role and content."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lightning.data.faults import RowFault, text_of

Message = dict[str, str]
"""``{"role": "system" | "user" | "assistant", "content": text}``"""
Conversation = list[Message]
Prompt = str | Sequence[Message]
"""Plain text, or a conversation that ends with the user."""

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
}
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def read_messages(value: Any, field: str, *, ordered: bool = True) -> Conversation:
    """The messages of a list of ``{"role", "content"}`` or, as ShareGPT writes them, ``{"from", "value"}``.

    Args:
        value: the list.
        field: its name, for errors.
        ordered: also ``check_order``.

    Errors:
        RowFault: not such a list, an empty one, an unknown role, an empty turn, roles out of order.
    """
    if not isinstance(value, list):
        found = "missing" if value is None else f"a {type(value).__name__}"
        reason = "missing_or_null" if value is None else "wrong_type"
        raise RowFault(
            reason, f"the field {field!r} must be a list of messages, but is {found}: mend or remove the row"
        )
    messages = []
    for number, entry in enumerate(value, 1):
        where = f"message {number} of {field!r}"
        if not isinstance(entry, Mapping):
            raise RowFault(
                "wrong_type", f"{where} must have role and content, not be a {type(entry).__name__}: mend it"
            )
        role, content = (entry.get("role"), "content") if entry.get("role") else (entry.get("from"), "value")
        if not isinstance(role, str) or role.lower() not in ROLES:
            raise RowFault(
                "roles", f"{where} has the role {role!r}; known are {', '.join(ROLES)}: mend or remove the row"
            )
        text = entry.get(content)
        if not isinstance(text, str) or not text.strip():
            reason = "missing_or_null" if text is None else "wrong_type" if not isinstance(text, str) else "empty_text"
            problem = "empty" if isinstance(text, str) else "no text"
            raise RowFault(reason, f"the {content} of {where} is {problem}: mend or remove the row")
        messages.append({"role": ROLES[role.lower()], "content": text})
    if ordered:
        check_order(messages, field)
    return messages


def read_hh(text: str, field: str) -> Conversation:
    r"""The messages of a dialogue in one string, ``\n\nHuman: ...\n\nAssistant: ...``, in whatever order; an empty last
    answer is allowed.

    Errors:
        RowFault: no such dialogue, an empty turn.
    """
    parts = _HH_TURN.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise RowFault(
            "wrong_type",
            f"the field {field!r} is no dialogue of '\\n\\nHuman:' and '\\n\\nAssistant:' turns, and there is no "
            "prompt beside it: give one, or mend the row",
        )
    roles = ["user" if name == "Human" else "assistant" for name in parts[1::2]]
    messages = [{"role": role, "content": content.strip()} for role, content in zip(roles, parts[2::2], strict=True)]
    if any(not message["content"] for message in messages[:-1]):
        raise RowFault("empty_text", f"the field {field!r} has an empty turn: mend or remove the row")
    return messages


def check_order(messages: Conversation, field: str) -> None:
    """A system message may come first; then user and assistant take turns, the user first.

    Errors:
        RowFault: anything else.
    """
    if not messages:
        raise RowFault("empty_text", f"the field {field!r} has no messages: mend or remove the row")
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    for index, message in enumerate(turns):
        if message["role"] != ("user", "assistant")[index % 2]:
            roles = ", ".join(message["role"] for message in messages)
            raise RowFault(
                "roles",
                f"roles out of order in {field!r}: {roles}; an optional system message, then user and assistant in "
                "turns: mend or remove the row",
            )
    if not turns:
        raise RowFault("roles", f"the field {field!r} has a system message alone: mend or remove the row")


def ask(instruction: str, extra: str | None) -> Conversation:
    """One user turn of an instruction and, where there is one, the input that it is about."""
    content = f"{instruction}\n\n{extra}" if isinstance(extra, str) and extra.strip() else instruction
    return [{"role": "user", "content": content}]


def split_answer(messages: Conversation, field: str) -> tuple[Conversation, str]:
    """The conversation before its last turn, and that turn, which must be the assistant's.

    Errors:
        RowFault: another role at the end, or nothing before it.
    """
    if messages[-1]["role"] != "assistant":
        raise RowFault("roles", f"no assistant turn at the end of {field!r}: mend or remove the row")
    return messages[:-1], messages[-1]["content"]


def read_prompt(row: Mapping[str, Any]) -> Prompt:
    """The prompt of a row under our names: ``prompt``, ``instruction`` with ``input`` or ``context``, ``question``,
    or ``messages`` and ``conversations`` up to the last user turn.

    Errors:
        RowFault: none of them, or one that is malformed.
    """
    if isinstance(row.get("prompt"), list):
        messages = read_messages(row["prompt"], "prompt")
        if messages[-1]["role"] != "user":
            raise RowFault("roles", "the prompt must end with a user turn: mend or remove the row")
        return messages
    if row.get("prompt") is not None:
        return text_of(row, "prompt")
    for field in ("instruction", "question"):
        if row.get(field) is not None:
            extra = row.get("input")
            return ask(text_of(row, field), row.get("context") if extra is None else extra)
    for field in ("messages", "conversations"):
        if row.get(field) is not None:
            messages = read_messages(row[field], field)
            return messages[:-1] if messages[-1]["role"] == "assistant" else messages
    for field in ("prompt", "instruction", "question", "messages", "conversations"):
        if field in row:
            text_of(row, field)  # says that it is missing
    raise RowFault("missing_or_null", "no prompt: mend or remove the row")
