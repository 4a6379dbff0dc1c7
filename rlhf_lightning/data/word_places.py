"""Where the words of a conversation stand in what its template makes of it, in letters and in ids."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from rlhf_lightning.data.dialogues import Conversation, Prompt
from rlhf_lightning.data.encode import Encoder, messages_of
from rlhf_lightning.data.faults import RowFault
from rlhf_lightning.data.templates import MARK, Render, between, opening
from rlhf_lightning.errors import UserError


def earlier_answers(encoder: Encoder, prompt: Prompt) -> list[tuple[int, int]]:
    """The (start, end) among the prompt's ids of all that the assistant says in it; a token belongs to where it ends.

    A turn reaches up to and including its EOS where the template writes one, else with whatever closes it.

    Errors:
        RowFault: the template refuses the conversation.
        UserError: the template does not write every answer out, or the tokenizer does not say where its tokens stand.
    """
    messages = messages_of(prompt)
    if not any(message["role"] == "assistant" for message in messages):
        return []
    (text,) = encoder.texts(prompt)
    eos = str(encoder.tokenizer.eos_token)
    turns = [
        _turn(encoder, messages, index, text, eos)
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    places = _places(encoder, text)
    if places is None:
        raise UserError(
            f"train_on=all: the tokenizer {type(encoder.tokenizer).__name__} does not say where its tokens stand in a "
            "text: set data.train_on=last or take a fast tokenizer"
        )
    ends = [end for _, end in places]
    return [(bisect_right(ends, start), bisect_right(ends, end)) for start, end in turns]


def words_left(encoder: Encoder, prompt: Prompt, ids: Sequence[int], kept: slice) -> Prompt:
    """What a prompt says in the part ``kept`` of its ids, for rewards over text.

    What the template writes around the words is left out, since a reward model puts them into its own. Where it cannot
    be told what the words are, it is the text of ``ids``, which are what was kept.
    """
    if not encoder.tokenizer.chat_template:
        return encoder.decode(ids)
    (text,), messages = encoder.texts(prompt), messages_of(prompt)
    places = _places(encoder, text)
    if places is None or not places[kept]:
        return encoder.decode(ids)
    first, last = places[kept][0][0], places[kept][-1][1]
    left: Conversation = []
    for index, message in enumerate(messages):
        place = _place(encoder.rendered, messages, index, text)
        if place is None:
            return encoder.decode(ids)
        words = text[max(place[0], first) : min(place[1], last)]
        left += [{**message, "content": words}] if words.strip() else []
    return (left[-1]["content"] if left else "") if isinstance(prompt, str) else left


def _turn(encoder: Encoder, messages: Conversation, index: int, text: str, eos: str) -> tuple[int, int]:
    """The (start, end) of an answer in the text of the prompt."""
    place = _place(encoder.rendered, messages, index, text)
    if place is None:
        template = " ".join(str(encoder.tokenizer.chat_template).split())[:60]
        raise UserError(
            f"train_on=all: the chat template {template!r}... does not write every answer of a conversation as it is, "
            "so that its turns cannot be told apart: set data.train_on=last or take another template"
        )
    start, end = place
    before = opening(encoder.rendered, messages[:index])
    if text.startswith(before.prompt) and len(before.prompt) <= start:
        start = len(before.prompt)
    closing = _common_start(before.tail or "", text[end:])
    mark = closing.find(eos)
    return start, end + (len(closing) if mark < 0 else mark + len(eos))


def _place(render: Render, messages: Conversation, index: int, prompt: str) -> tuple[int, int] | None:
    """The (start, end) of one message's words in the prompt of ``messages``; None where they are not written out."""
    marked = [*messages[:index], {**messages[index], "content": MARK}, *messages[index + 1 :]]
    try:
        before, mark, after = opening(render, marked).prompt.partition(MARK)
    except RowFault:
        return None
    return between(prompt, before, after) if mark else None


def _places(encoder: Encoder, text: str) -> list[tuple[int, int]] | None:
    """Where in a text each of its tokens stands; None for a tokenizer written in Python."""
    if not encoder.tokenizer.is_fast:
        return None
    found = encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [(start, end) for start, end in found["offset_mapping"]]


def _common_start(one: str, other: str) -> str:
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:same]
