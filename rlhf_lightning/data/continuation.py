"""A continuation task from plain stories: the first sentences are the prompt, the next ones the demonstration."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

from rlhf_lightning.data.stories import stories
from rlhf_lightning.data.writing import write_rows
from rlhf_lightning.errors import UserError

# A sentence ends at . ! or ? with any closing quotes, where blank space and then no lower-case letter follow ("Hi!" she
# said. is one sentence), unless the point ends a title.
_SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?]+[\"'”’)]*(?=\s+[^\sa-z]|\s*$)")


def prepare_continuations(
    text: str | Path,
    out: str | Path,
    *,
    prompt_sentences: int = 1,
    response_sentences: int = 2,
    heldout: float = 0.2,
    seed: int = 0,
    separator: str = "",
) -> None:
    """Write text_*, demonstrations_* and prompts_*.jsonl to ``out``, each as train and heldout.

    The split is by story: no story of a held-out file is in a train file, and a story that occurs twice counts once.
    Stories too short for prompt and response are text only.

    Args:
        text: a file of stories. A story ends at a single newline; a blank line only parts its paragraphs.
        out: folder for the files.
        prompt_sentences, response_sentences: sentences of the prompt and of the demonstration.
        heldout: part of the stories that is held out, between 0 and 1.
        seed: which stories are held out.
        separator: put before every response. Empty for tokenizers that set a space before text by themselves
            (SentencePiece); " " for byte-level BPE (GPT-2), where a word after a space is another token.

    Errors:
        UserError: a missing file, a part outside (0, 1), too few stories.
    """
    path = Path(text)
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the path of a text file")
    if not 0 < heldout < 1:
        raise UserError(f"heldout must be between 0 and 1, not {heldout}")
    if prompt_sentences < 1 or response_sentences < 1:
        raise UserError(
            "prompt_sentences and response_sentences must be at least 1, "
            f"not {prompt_sentences} and {response_sentences}"
        )
    try:
        whole = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from error
    known = list(dict.fromkeys(stories(whole.split("\n"))))
    random.Random(seed).shuffle(known)
    count = round(len(known) * heldout)
    parts = {"heldout": known[:count], "train": known[count:]}
    for part, some in parts.items():
        rows = [
            row
            for story in some
            if (row := _demonstration(story, prompt_sentences, response_sentences, separator)) is not None
        ]
        if not rows:
            raise UserError(
                f"{path}: none of the {len(some)} {part} stories (of {len(known)}) has {prompt_sentences} + "
                f"{response_sentences} sentences: give more text (a story ends at a single newline) or ask for fewer"
            )
        write_rows(Path(out) / f"text_{part}.jsonl", ({"text": story} for story in some))
        write_rows(Path(out) / f"demonstrations_{part}.jsonl", rows)
        write_rows(Path(out) / f"prompts_{part}.jsonl", ({"prompt": row["prompt"]} for row in rows))


def _demonstration(story: str, prompt_sentences: int, response_sentences: int, separator: str) -> dict[str, Any] | None:
    ends = [match.end() for match in _SENTENCE_END.finditer(story)]
    last = prompt_sentences + response_sentences - 1
    if len(ends) <= last:
        return None
    cut = ends[prompt_sentences - 1]
    return {"prompt": story[:cut], "response": separator + story[cut : ends[last]].lstrip()}
