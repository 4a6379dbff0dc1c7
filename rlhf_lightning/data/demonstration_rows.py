"""Demonstrations as token ids, with what is learned of them."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from rlhf_lightning.data.columns import Columns, Opened, open_sources
from rlhf_lightning.data.dialogues import Prompt, read_messages, read_prompt, split_answer
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.faults import text_of
from rlhf_lightning.data.places import Provenance
from rlhf_lightning.data.preparation import join
from rlhf_lightning.data.row_encoding import encode_sources, refuse_nothing
from rlhf_lightning.data.sources import Files
from rlhf_lightning.data.truncation import cut_turns
from rlhf_lightning.data.word_places import earlier_answers
from rlhf_lightning.errors import UserError

TRAIN_ON = ("last", "all")


def load_demonstrations(
    files: Files,
    *,
    encoder: Encoder,
    max_length: int | None = None,
    overlong: str = "error",
    columns: Columns | None = None,
    on_bad_row: str = "raise",
    train_on: str = "last",
) -> Any:
    """Rows of ``input_ids`` (prompt + response + EOS), ``prompt_length`` and ``length``.

    Args: see ``DemonstrationDataModule``.
    """
    opened = open_sources(files, kind="demonstrations", columns=columns, encoder=encoder, on_bad_row=on_bad_row)
    return encode_demonstrations(
        opened,
        encoder=encoder,
        max_length=max_length,
        overlong=overlong,
        on_bad_row=on_bad_row,
        train_on=train_on,
    )[0]


def encode_demonstrations(
    opened: Opened,
    *,
    encoder: Encoder,
    max_length: int | None,
    overlong: str,
    on_bad_row: str,
    train_on: str = "last",
    key: str = "max_length",
    provenance: Provenance | None = None,
) -> tuple[Any, dict[str, int]]:
    """The table of ``load_demonstrations``, and the counts of rows used and left out; ``key`` is the argument that set
    the limit, for the error."""
    from datasets import Features, List, Value

    if train_on not in TRAIN_ON:
        raise UserError(f"train_on must be last or all, not {train_on!r}")
    count = Value("int32")
    features = Features({"input_ids": List(count), "prompt_length": count, "length": count, "cut": count})
    if train_on == "all":
        features["spans"] = List(count)
    counts: Counter[str] = Counter(rows=0)
    tables = encode_sources(
        opened,
        read=partial(_read, encoder=encoder, train_on=train_on),
        build=partial(_build, encoder=encoder),
        encoder=encoder,
        features=features,
        options=f"demonstrations {train_on}",
        max_length=max_length,
        overlong=overlong,
        on_bad_row=on_bad_row,
        what="prompt and response",
        key=key,
        counts=counts,
        provenance=provenance,
    )
    sources = [source for source, _ in opened]
    refuse_nothing(sources, counts)
    return join([rows for _, rows in tables], sources), dict(counts)


def _read(row: dict[str, Any], *, encoder: Encoder, train_on: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The texts of prompt and response, and where else in the prompt's ids something is learned."""
    prompt, response = _split(row)
    return encoder.texts(prompt, response), earlier_answers(encoder, prompt) if train_on == "all" else []


def _split(row: dict[str, Any]) -> tuple[Prompt, str]:
    """The prompt, and the answer to it."""
    field = next((name for name in ("messages", "conversations") if row.get(name) is not None), None)
    if field is not None:
        return split_answer(read_messages(row[field], field), field)
    answers = [name for name in ("response", "completion", "output", "answer") if name in row]
    if not answers:
        read_messages(None, "messages" if "messages" in row else "conversations")
    answer = next((name for name in answers if row[name] is not None), answers[0])
    if isinstance(row[answer], list) and isinstance(row.get("prompt"), list):
        return split_answer(read_messages([*row["prompt"], *row[answer]], "prompt"), "prompt")
    response = text_of(row, answer)
    return read_prompt(row), response


def _build(
    ids: list[list[int]], earlier: list[tuple[int, int]], *, encoder: Encoder, limit: int | None, overlong: str
) -> dict[str, Any]:
    prompt, response = encoder.open(ids[0]), encoder.close(ids[1])
    sequence = prompt + response
    spans = [*earlier, (len(prompt), len(sequence))]
    over = limit is not None and len(sequence) > limit
    if limit is not None and over:
        cut = cut_turns(sequence, spans, limit=limit, overlong=overlong, bos=encoder.bos_token_id)
        if cut is None:
            return {"left_out": "overlong_rows_dropped"}
        sequence, spans = cut
    return {
        "input_ids": sequence,
        "prompt_length": spans[0][0],
        "length": len(sequence),
        "cut": int(over),
        "spans": [edge for span in spans for edge in span],
    }
