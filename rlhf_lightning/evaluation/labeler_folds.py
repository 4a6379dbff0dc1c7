"""Does a reward model predict people whom it was not trained on? Cross-validation over groups of labelers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from rlhf_lightning.data import load_rows, write_rows
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.reward_model import evaluate_reward_model
from rlhf_lightning.models import RewardModelScorer

TrainReward = Callable[[Path, Path], RewardModelScorer]
"""(comparisons file, empty folder) -> the reward model trained on that file."""


class Fold(NamedTuple):
    """One split: ``held_out`` labelers, whose rows train nothing, and the rows of all others, of which a share is kept
    for validation. No prompt is both trained and tested on."""

    held_out: list[str]
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    test: list[dict[str, Any]]


def labeler_folds(
    rows: Sequence[Mapping[str, Any]], *, groups: int = 5, validation_share: float = 0.1, seed: int = 0
) -> list[Fold]:
    """Divide the labelers into groups; each is held out once.

    Args:
        rows: comparisons with a ``labeler`` and a ``prompt``.
        groups: of labelers (the paper: 5); they are as large as possible alike in labelers.
        validation_share: share of prompts whose rows by the other labelers are kept for validation.
        seed: of both divisions.

    Raises:
        UserError: a row without a labeler, fewer labelers than groups, a share outside (0, 1), an empty part.
    """
    if groups < 2 or not 0 < validation_share < 1:
        raise UserError(f"groups={groups} must be at least 2, validation_share={validation_share} within 0 and 1")
    missing = next((number for number, row in enumerate(rows, 1) if not row.get("labeler")), None)
    if missing is not None:
        raise UserError(
            f"row {missing} has no `labeler`: folds over labelers need to know who ranked each row; add the column"
        )
    labelers = sorted({str(row["labeler"]) for row in rows})
    if len(labelers) < groups:
        raise UserError(f"{len(labelers)} labelers cannot make {groups} groups: set groups={max(len(labelers), 2)}")
    Random(f"folds {seed}").shuffle(labelers)
    folds = []
    for group in range(groups):
        held_out = set(labelers[group::groups])
        parts: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
        for row in rows:
            kept = _share(f"{seed} {row['prompt']}") < validation_share
            if str(row["labeler"]) not in held_out:
                parts["validation" if kept else "train"].append(dict(row))
        trained = {_prompt(row) for row in parts["train"]}
        parts["test"] = [dict(row) for row in rows if str(row["labeler"]) in held_out and _prompt(row) not in trained]
        empty = next((name for name, own in parts.items() if not own), None)
        if empty is not None:
            raise UserError(
                f"fold {group + 1} of {groups} has no row for {empty}: give more comparisons, or fewer groups"
            )
        folds.append(Fold(sorted(held_out), **parts))
    return folds


def cross_validate_labelers(
    comparisons: str | Path,
    train: TrainReward,
    *,
    out: str | Path,
    groups: int = 5,
    validation_share: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a reward model without each group of labelers in turn, and test it on them and on its own labelers.

    Source: InstructGPT, section 4.1: 69.6 ± 0.9 % on held-out groups, 72.4 ± 0.4 % on the labelers of training.

    Args:
        comparisons: a comparisons file with a ``labeler`` in each row.
        train: trains a reward model.
        out: folder for the files and models of the folds.
        groups, validation_share, seed: see :func:`labeler_folds`.

    Returns:
        ``heldout`` and ``training``: mean accuracy over folds, its standard error over folds and ``folds``, the
        accuracy of each with its interval, pairs and prompts; and ``labelers`` of each fold.
    """
    rows = list(load_rows(str(comparisons), fields=("prompt",)))
    found: dict[str, list[dict[str, Any]]] = {"heldout": [], "training": []}
    folds = labeler_folds(rows, groups=groups, validation_share=validation_share, seed=seed)
    for number, fold in enumerate(folds, 1):
        folder = Path(out) / f"fold-{number}"
        files = {name: folder / f"{name}.jsonl" for name in ("train", "validation", "test")}
        for name, file in files.items():
            write_rows(file, getattr(fold, name))
        scorer = train(files["train"], folder / "reward")
        for kind, name in (("heldout", "test"), ("training", "validation")):
            result = evaluate_reward_model(scorer, files[name])
            found[kind].append({key: result[key] for key in ("accuracy", "accuracy_interval", "pairs", "prompts")})
    return {kind: _summary(results) for kind, results in found.items()} | {
        "labelers": [fold.held_out for fold in folds],
        "groups": groups,
    }


def _summary(folds: list[dict[str, Any]]) -> dict[str, Any]:
    known = [fold["accuracy"] for fold in folds if fold["accuracy"] is not None]
    mean = sum(known) / len(known) if known else None
    error = None
    if mean is not None and len(known) > 1:
        error = math.sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1) / len(known))
    return {"accuracy": mean, "standard_error": error, "folds": folds}


def _prompt(row: Mapping[str, Any]) -> str:
    return str(row["prompt"])


def _share(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") / 2**64
