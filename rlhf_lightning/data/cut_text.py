"""What is left of a prompt's text where its tokens were cut."""

from __future__ import annotations

from rlhf_lightning.data.dialogues import Conversation


def cut_messages(messages: Conversation, *, rendered: str, letters: int, overlong: str) -> Conversation:
    """The part of a conversation that is among the first or last ``letters`` of its rendered text.

    Messages of which nothing is left are dropped, and so are answers at the start whose question is.

    Args:
        messages: the conversation, which ends with the user.
        rendered: what the chat template makes of it.
        letters: how much of that is left.
        overlong: "keep_start" or "keep_end", see ``OVERLONG``.

    Returns:
        The last message stays in any case, be it empty, for a conversation must end with the user.
    """
    first, last = (0, letters) if overlong == "keep_start" else (len(rendered) - letters, len(rendered))
    left: Conversation = []
    end = len(rendered)
    for message in reversed(messages):
        content = message["content"]
        # The last one in the text: its first letters may stand in a header, too. Some templates strip what they write.
        start = rendered.rfind(content.strip(), 0, end)
        if start < 0:
            return messages
        end, content = start, content.strip()
        kept = content[max(first - start, 0) : max(last - start, 0)]
        if kept or not left:
            left.append({**message, "content": kept})
    left.reverse()
    while len(left) > 1 and left[0]["role"] == "assistant":
        del left[0]
    return left
