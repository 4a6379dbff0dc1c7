"""Comparisons as token ids, with the pairs that are decided."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from rlhf_lightning.data.annotators import MERGED, MergedVotes
from rlhf_lightning.data.columns import Columns, Opened, open_sources
from rlhf_lightning.data.dialogues import Prompt, check_order, read_hh, read_messages, read_prompt, split_answer
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.faults import text_of
from rlhf_lightning.data.places import Provenance
from rlhf_lightning.data.preparation import join
from rlhf_lightning.data.rankings import ANNOTATORS, Comparison, by_majority, compare
from rlhf_lightning.data.row_encoding import encode_sources, refuse_nothing, total
from rlhf_lightning.data.sources import Files
from rlhf_lightning.data.truncation import cut_answers
from rlhf_lightning.errors import UserError


def load_comparisons(
    files: Files,
    *,
    encoder: Encoder,
    max_length: int | None = None,
    overlong: str = "error",
    columns: Columns | None = None,
    on_bad_row: str = "raise",
    annotators: str = "each",
) -> tuple[Any, dict[str, int]]:
    """Rows of ``prompt_ids``, ``response_ids`` (K lists), ``pairs``, and the counts of what was used and left out.

    Rows that give no pair (all completions tied) are left out and counted, never guessed.

    Args: see ``ComparisonDataModule``.

    Errors:
        UserError: see ``read_comparison``; no row left that gives a pair.
    """
    opened = open_sources(files, kind="comparisons", columns=columns, encoder=encoder, on_bad_row=on_bad_row)
    return encode_comparisons(
        opened,
        encoder=encoder,
        max_length=max_length,
        overlong=overlong,
        on_bad_row=on_bad_row,
        annotators=annotators,
    )


def encode_comparisons(
    opened: Opened,
    *,
    encoder: Encoder,
    max_length: int | None,
    overlong: str,
    on_bad_row: str,
    annotators: str = "each",
    provenance: Provenance | None = None,
) -> tuple[Any, dict[str, int]]:
    """``load_comparisons`` of sources that are read already."""
    import pyarrow.compute as pc
    from datasets import Features, List, Value

    if annotators not in ANNOTATORS:
        raise UserError(f"annotators must be majority or each, not {annotators!r}")
    ids, count = List(Value("int32")), Value("int32")
    features = Features({"prompt_ids": ids, "response_ids": List(ids), "pairs": List(ids)})
    features.update(dict.fromkeys(("n_pairs", "tied", "identical", "cut_to_ties", "length", "cut"), count))
    counts = Counter(rows=0, pairs=0, tied_rows_skipped=0, tied_pairs=0, overlong_rows_dropped=0)
    tables = encode_sources(
        opened,
        read=partial(_read, encoder=encoder, annotators=annotators),
        build=partial(_build, encoder=encoder),
        encoder=encoder,
        features=features,
        options=f"comparisons {annotators}",
        max_length=max_length,
        overlong=overlong,
        on_bad_row=on_bad_row,
        what="prompt and longest response",
        key="max_length",
        counts=counts,
        provenance=provenance,
        amend=partial(MergedVotes, read=_compared) if annotators == "majority" else None,
    )
    for encoded, rows in tables:
        tied = pc.equal(encoded.data.column("left_out"), "tied_rows_skipped").to_numpy()
        counts["pairs"] += total(rows, "n_pairs")
        for name, column in (
            ("tied_pairs", "tied"),
            ("identical_pairs_tied", "identical"),
            ("pairs_cut_to_ties", "cut_to_ties"),
        ):
            found = total(rows, column) + int(encoded.data.column(column).to_numpy()[tied].sum())
            if found:
                counts[name] += found
    sources = [source for source, _ in opened]
    of_ties = sum(counts[name] for name in ("tied_rows_skipped", "tied_pairs", "identical_pairs_tied"))
    if counts["tied_rows_skipped"] and sum(counts.values()) == of_ties:
        names = ", ".join(source.path for source in sources)
        raise UserError(
            f"{names}: all completions are tied in all {counts['tied_rows_skipped']} rows, which teaches no order: "
            "give rows with different ranks"
        )
    refuse_nothing(sources, counts)
    return join([rows for _, rows in tables], sources), dict(counts)


def _read(row: dict[str, Any], *, encoder: Encoder, annotators: str) -> tuple[list[str], Comparison | None]:
    """The texts of prompt and responses; no comparison where they answer different prompts."""
    merged: Comparison | None = row.pop(MERGED, None)
    found = _compared(row)
    if found is None:
        return [], None
    prompt, comparison = found
    comparison = merged or comparison
    if annotators == "majority":
        comparison = by_majority(comparison)
    return encoder.texts(prompt, *comparison.responses), comparison


def _compared(row: dict[str, Any]) -> tuple[Prompt, Comparison] | None:
    """The prompt of a row and what is said of its completions; None where they answer different prompts."""
    found = _dialogues(row)
    return None if found is None else (found[0], compare(found[1]))


def _dialogues(row: dict[str, Any]) -> tuple[Prompt, dict[str, Any]] | None:
    """The prompt, and the row with its responses as text; None where chosen and rejected have different prompts."""
    if isinstance(row.get("responses"), list):
        answers = [_last(entry, "responses") if isinstance(entry, list) else entry for entry in row["responses"]]
        return read_prompt(row), {**row, "responses": answers}
    pair: list[Any] = [row.get("chosen"), row.get("rejected")]
    has_prompt = any(row.get(name) is not None for name in ("prompt", "instruction", "question"))
    if row.get("output_1") is not None or not any(pair) or (has_prompt and not any(isinstance(p, list) for p in pair)):
        return read_prompt(row), row
    if all(isinstance(part, list) and len(part) == 1 for part in pair):  # the answers alone
        return read_prompt(row), {**row, "chosen": _last(pair[0], "chosen"), "rejected": _last(pair[1], "rejected")}
    whole = [
        read_messages(row[name], name, ordered=False)
        if isinstance(row[name], list)
        else read_hh(text_of(row, name), name)
        for name in ("chosen", "rejected")
    ]
    if whole[0][:-1] != whole[1][:-1]:
        return None
    for name, dialogue in zip(("chosen", "rejected"), whole, strict=True):
        check_order(dialogue, name)
    (prompt, chosen), (_, rejected) = (split_answer(dialogue, "chosen and rejected") for dialogue in whole)
    return prompt, {**row, "chosen": chosen, "rejected": rejected}


def _last(messages: list[Any], field: str) -> str:
    """The last assistant message, which may stand alone."""
    alone = read_messages([{"role": "user", "content": "-"}, *messages[-1:]], field)
    return split_answer(alone, field)[1]


def _build(
    ids: list[list[int]], comparison: Comparison | None, *, encoder: Encoder, limit: int | None, overlong: str
) -> dict[str, Any]:
    if comparison is None:
        return {"left_out": "different_prompts_dropped"}
    prompt = encoder.open(ids[0])
    ends = zip(ids[1:], comparison.finished, strict=True)
    responses = [encoder.close(response, finished=finished) for response, finished in ends]
    pairs, cut = _unlike(comparison.pairs, responses), False
    identical = len(comparison.pairs) - len(pairs)
    lost = 0
    if limit is not None and len(prompt) + max(map(len, responses)) > limit:
        cut = True
        left = cut_answers(prompt, responses, limit=limit, overlong=overlong, bos=encoder.bos_token_id)
        if left is None:
            return {"left_out": "overlong_rows_dropped"}
        prompt, responses = left
        lost, pairs = len(pairs), _unlike(pairs, responses)
        lost -= len(pairs)
    return {
        "prompt_ids": prompt,
        "response_ids": responses,
        "pairs": pairs,
        "n_pairs": len(pairs),
        "tied": comparison.tied + identical + lost,
        "identical": identical,
        "cut_to_ties": lost,
        "length": len(prompt) + max(map(len, responses)),
        "cut": int(cut),
        "left_out": "" if pairs else "tied_rows_skipped",
    }


def _unlike(pairs: list[tuple[int, int]], responses: list[list[int]]) -> list[tuple[int, int]]:
    """The pairs of responses that are not the same; of two equal ones none is better."""
    return [(better, worse) for better, worse in pairs if responses[better] != responses[worse]]
