"""Prompts as token ids, beside their text."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from rlhf_lightning.data.columns import Columns, Opened, open_sources
from rlhf_lightning.data.dialogues import Prompt, read_prompt
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.hygiene import PromptHygiene
from rlhf_lightning.data.hygiene.tables import clean_tables
from rlhf_lightning.data.places import Provenance
from rlhf_lightning.data.preparation import join
from rlhf_lightning.data.row_encoding import encode_sources, refuse_nothing
from rlhf_lightning.data.sources import Files
from rlhf_lightning.data.truncation import cut_prompt
from rlhf_lightning.data.word_places import words_left


def load_prompts(
    files: Files,
    *,
    encoder: Encoder,
    max_length: int | None = None,
    overlong: str = "error",
    columns: Columns | None = None,
    on_bad_row: str = "raise",
) -> Any:
    """Rows of ``input_ids``, ``prompt`` (text) or ``messages`` (a conversation), ``user`` ("" if unknown), ``length``.

    Args: see ``PromptDataModule``; ``max_length`` is its ``max_prompt_length``.
    """
    opened = open_sources(files, kind="prompts", columns=columns, encoder=encoder, on_bad_row=on_bad_row)
    return encode_prompts(opened, encoder=encoder, max_length=max_length, overlong=overlong, on_bad_row=on_bad_row)[0]


def encode_prompts(
    opened: Opened,
    *,
    encoder: Encoder,
    max_length: int | None,
    overlong: str,
    on_bad_row: str,
    hygiene: PromptHygiene | None = None,
    provenance: Provenance | None = None,
) -> tuple[Any, Any, dict[str, int]]:
    """The table of ``load_prompts``, the one that ``hygiene`` holds out (or None), and the counts of rows used and
    left out."""
    from datasets import Features, List, Value

    count, text = Value("int32"), Value("string")
    messages = List({"role": text, "content": text})
    features = Features(
        {"input_ids": List(count), "prompt": text, "messages": messages, "user": text, "length": count, "cut": count}
    )
    counts: Counter[str] = Counter(rows=0)
    encoded = encode_sources(
        opened,
        read=partial(_read, encoder=encoder),
        build=partial(_build, encoder=encoder),
        encoder=encoder,
        features=features,
        options="prompts",
        max_length=max_length,
        overlong=overlong,
        on_bad_row=on_bad_row,
        what="the prompt's tokens",
        key="max_prompt_length",
        counts=counts,
        provenance=provenance,
    )
    tables, sources = [rows for _, rows in encoded], [source for source, _ in opened]
    refuse_nothing(sources, counts)
    if hygiene is None or not hygiene.active:
        return join(tables, sources), None, dict(counts)
    tables, held_out, dropped, cleaned = clean_tables(tables, hygiene)
    if provenance is not None:
        provenance.split(cleaned.train, cleaned.validation)
    counts["rows"] = sum(len(table) for table in tables)
    return join(tables, sources), None if held_out is None else join(held_out), {**counts, **dropped}


def _read(row: dict[str, Any], *, encoder: Encoder) -> tuple[list[str], tuple[Prompt, str]]:
    prompt, user = read_prompt(row), row.get("user")
    return encoder.texts(prompt), (prompt, "" if user is None else str(user))


def _build(
    ids: list[list[int]], row: tuple[Prompt, str], *, encoder: Encoder, limit: int | None, overlong: str
) -> dict[str, Any]:
    prompt, user = row
    tokens = encoder.open(ids[0])
    cut = limit is not None and len(tokens) > limit
    if limit is not None and cut:
        whole, tokens = tokens, cut_prompt(tokens, limit=limit, overlong=overlong, bos=encoder.bos_token_id)
        bos = overlong == "keep_end" and len(tokens) > 1 and tokens[0] == whole[0] == encoder.bos_token_id
        kept = slice(0, limit) if overlong == "keep_start" else slice(len(whole) - len(tokens) + bos, None)
        prompt = words_left(encoder, prompt, tokens, kept)  # what a reward over text must see is what the policy saw
    text, messages = (prompt, []) if isinstance(prompt, str) else ("", list(prompt))
    return {
        "input_ids": tokens,
        "prompt": text,
        "messages": messages,
        "user": user,
        "length": len(tokens),
        "cut": int(cut),
    }
