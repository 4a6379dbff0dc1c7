"""What a comparison is given: models, prompts, few-shot files."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_lightning.data import load_rows
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.loaded import ModelSource


def check_models(models: Mapping[str, Mapping[str, Any]], baseline: str) -> None:
    """Refuse a comparison without its baseline, with a baseline that is prompted, or of a model without a folder.

    Raises:
        UserError: what is wrong.
    """
    if baseline not in models:
        raise UserError(
            f"baseline={baseline} is none of the models ({', '.join(models) or 'none'}): name one that is compared"
        )
    for name, spec in models.items():
        if not spec.get("name") or set(spec) - {"prefix", *ModelSource._fields}:
            others = ", ".join(ModelSource._fields[1:])
            raise UserError(f"models.{name} needs `name` and may have `prefix`, {others}; got {dict(spec)}")
    if models[baseline].get("prefix") is not None:
        raise UserError(f"models.{baseline}.prefix: the baseline answers without few-shot examples, remove it")


def prompt_rows(prompts: str, limit: int | None, seed: int) -> list[dict[str, Any]]:
    """The rows of a prompts file; with a limit so many of them, drawn by the seed.

    Raises:
        UserError: no such file, a row without a prompt, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit} must be at least 1, or null for all prompts")
    rows = load_rows(prompts, fields=("prompt",))
    if limit is None or limit >= len(rows):
        return list(rows)
    # Drawn, not the first: a prompts file may be sorted by use case.
    return list(rows.select(sorted(random.Random(seed).sample(range(len(rows)), limit))))


def read_prefix(name: str, prefix: Any) -> str | None:
    """The text of a model's few-shot file, which ends its last line.

    Raises:
        UserError: no such file.
    """
    if prefix is None:
        return None
    path = Path(prefix)
    if not path.is_file():
        raise UserError(f"models.{name}.prefix={prefix} does not exist: give a text file of solved examples")
    text = path.read_text(encoding="utf-8")
    return text if text.endswith("\n") else text + "\n"
