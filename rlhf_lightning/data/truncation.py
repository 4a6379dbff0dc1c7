"""What is left of a row that is over the limit of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lightning.errors import UserError

OVERLONG = ("error", "drop", "keep_start", "keep_end")
"""``error``: refuse the data. ``drop``: leave the row out. ``keep_start``: the first tokens stay, so that the response
loses its end and with it its EOS. ``keep_end``: the last tokens stay, so that the prompt loses its start (but not its
BOS). Whatever is dropped or cut is counted."""


def check_overlong(choice: str) -> None:
    """Refuse anything but the choices of ``OVERLONG``."""
    if choice not in OVERLONG:
        raise UserError(f"overlong must be {', '.join(OVERLONG[:-1])} or {OVERLONG[-1]}, not {choice!r}")


def cut_limit(overlong: str, max_length: int | None) -> int | None:
    """The tokens that rows are cut to; None where none is cut."""
    return max_length if overlong in ("keep_start", "keep_end") else None


def cut_prompt(ids: list[int], *, limit: int, overlong: str, bos: int | None) -> list[int]:
    """The first or the last ``limit`` tokens; ``keep_end`` keeps a BOS in front."""
    if len(ids) <= limit:
        return ids
    if overlong == "keep_start":
        return ids[:limit]
    if limit <= 0:
        return []
    if ids[0] == bos and limit > 1:
        return [ids[0], *ids[len(ids) - limit + 1 :]]
    return ids[-limit:]


def cut_answers(
    prompt: list[int], responses: Sequence[list[int]], *, limit: int, overlong: str, bos: int | None
) -> tuple[list[int], list[list[int]]] | None:
    """A prompt and its responses within ``limit`` tokens each; None where nothing useful is left.

    ``keep_start`` keeps the prompt whole and cuts the ends of the responses, and leaves nothing if the prompt fills the
    limit. ``keep_end`` keeps the responses whole and cuts the start of the prompt, and leaves nothing if a response
    fills the limit.
    """
    if overlong == "keep_start":
        room = limit - len(prompt)
        return None if room < 1 else (prompt, [response[:room] for response in responses])
    room = limit - max(map(len, responses))
    return None if room < 1 else (cut_prompt(prompt, limit=room, overlong=overlong, bos=bos), list(responses))


def cut_turns(
    ids: list[int], spans: Sequence[tuple[int, int]], *, limit: int, overlong: str, bos: int | None
) -> tuple[list[int], list[tuple[int, int]]] | None:
    """A sequence within ``limit`` tokens with the (start, end) of what is learned of it; None where nothing useful is
    left: with ``keep_start`` no token to learn, with ``keep_end`` no token before the last response."""
    if overlong == "keep_start":
        kept = [(start, min(end, limit)) for start, end in spans if start < limit]
        return (ids[:limit], kept) if kept else None
    start, end = spans[-1]
    if end - start >= limit:
        return None
    cut = cut_prompt(ids, limit=limit, overlong=overlong, bos=bos)
    lost = len(ids) - len(cut)
    first = 1 if cut[0] == bos else 0
    return cut, [(max(start - lost, first), end - lost) for start, end in spans if end - lost > first]
