from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import cross_validate_labelers, labeler_folds


def rows(labelers: int = 10, each: int = 12) -> list[dict[str, Any]]:
    return [
        {"prompt": f"p{n}-{labeler}", "responses": ["good", "bad!"], "ranks": [1, 2], "labeler": f"l{labeler}"}
        for labeler in range(labelers)
        for n in range(each)
    ]


def test_every_labeler_is_held_out_once_and_trains_nothing_there() -> None:
    folds = labeler_folds(rows())
    assert sorted(name for fold in folds for name in fold.held_out) == sorted({row["labeler"] for row in rows()})
    assert [len(fold.held_out) for fold in folds] == [2] * 5
    for fold in folds:
        held_out = set(fold.held_out)
        assert {row["labeler"] for row in fold.test} == held_out
        assert not {row["labeler"] for row in [*fold.train, *fold.validation]} & held_out
        assert len(fold.train) + len(fold.validation) + len(fold.test) == 120
        assert 0 < len(fold.validation) < 30


def test_a_prompt_that_trains_is_not_tested_on() -> None:
    shared = [row | {"prompt": row["prompt"].split("-")[0]} for row in rows(each=40)]  # all labelers see all prompts
    for fold in labeler_folds(shared, validation_share=0.2):
        train, validation, test = ({row["prompt"] for row in part} for part in fold[1:])
        assert not train & validation
        assert not train & test
        assert test


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 11}, "10 labelers cannot make 11"),
        ({"groups": 1}, "groups=1"),
        ({"validation_share": 1.0}, "share=1"),
    ],
)
def test_impossible_folds_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        labeler_folds(rows(), **arguments)


def test_rows_without_a_labeler_are_refused() -> None:
    with pytest.raises(UserError, match="row 3 has no `labeler`"):
        labeler_folds([*rows()[:2], {"prompt": "x"}])


class Scorer:
    """Likes what the labelers of its training file put first most often."""

    def __init__(self, file: Path) -> None:
        trained = [json.loads(line) for line in file.read_text().splitlines()]
        self.wins = sum(row["responses"][row["ranks"].index(1)] == "good" for row in trained) * 2 > len(trained)

    def __call__(self, prompts: list[str], responses: list[str], finished: list[bool]) -> torch.Tensor:
        return torch.tensor([float((text == "good") == self.wins) for text in responses])


def test_accuracy_on_people_with_another_taste(tmp_path: Path) -> None:
    """Two of ten labelers like the other response: where they are held out together, nothing predicts them."""
    data = rows()
    odd = labeler_folds(data)[2].held_out
    for row in data:
        if row["labeler"] in odd:
            row["ranks"] = [2, 1]
    file = tmp_path / "comparisons.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in data))
    trained: list[Path] = []

    def train(comparisons: Path, folder: Path) -> Any:
        trained.append(folder)
        return Scorer(comparisons)

    found = cross_validate_labelers(file, train, out=tmp_path / "folds")
    assert [fold["accuracy"] for fold in found["heldout"]["folds"]] == [1.0, 1.0, 0.0, 1.0, 1.0]
    assert found["heldout"]["accuracy"] == 0.8
    # Four ones and a zero: standard deviation sqrt(0.2), over five folds.
    assert found["heldout"]["standard_error"] == pytest.approx(math.sqrt(0.2 / 5))
    assert found["training"]["accuracy"] == pytest.approx(1 - 4 * 0.25 / 5, abs=0.15)
    assert found["training"]["folds"][2]["accuracy"] == 1.0
    assert found["labelers"][2] == odd
    assert trained == [tmp_path / "folds" / f"fold-{n}" / "reward" for n in range(1, 6)]
    assert json.loads(json.dumps(found)) == found
