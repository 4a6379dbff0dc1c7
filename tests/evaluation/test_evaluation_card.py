"""The card of an evaluation: nothing in its tables but what report.json says."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.evaluation import (
    TABLE_3,
    Verdicts,
    card_drift,
    evaluation_card,
    labeling_instructions,
    summarize_preferences,
    write_report,
)


@pytest.fixture
def whole(report: dict[str, Any]) -> dict[str, Any]:
    """The report with all that a card tells."""
    fold = {"accuracy": 0.6875, "accuracy_interval": [0.625, 0.75], "pairs": 31, "prompts": 9}
    verdicts = {
        name: {("sft", "ppo"): Verdicts([1.0, 0.0, 0.0, 0.5], [True, False, True, False])} for name in ("x", "y")
    }
    preferences = summarize_preferences(verdicts, anchor="sft")
    labels = {"agreement": 0.71875, "interval": [0.6875, 0.8125], "decided": 64, "ties": 5, "pairs": 69}
    preferences["judges"]["x"]["labels"] = labels
    return report | {
        "command": "rlhf-pipeline experiment=quickstart",
        "training": {"ppo": {"module.kl_coef": 0.15, "data.iterations": 14, "module.whiten_rewards": False}},
        "data": {"sft": {"sources": {"train": [{"path": "d.jsonl", "rows": 13, "hash": "ab" * 8}]}, "counts": {}}},
        "intervals": {
            name: {"kl": [0.125, 7.75], "pretrain_loss": [1.625, 3.5], "rude": [0.0, 0.375]}
            for name in report["models"]
        },
        "preferences": preferences,
        "labeler_folds": {
            kind: {"accuracy": 0.6875, "standard_error": 0.015625, "folds": [fold]} for kind in ("heldout", "training")
        },
    }


def test_every_number_has_its_row_and_its_interval(whole: dict[str, Any]) -> None:
    card = evaluation_card(whole)
    for line in (
        "rlhf-pipeline experiment=quickstart",
        "| PPO | module.kl_coef | 0.15 |",
        "| PPO | module.whiten_rewards | False |",
        "| train | `d.jsonl` | 13 | none | abababababab |",
        "## Evaluation: PPO-ptx",
        "| Win rate vs SFT | 52.0 % | 47.0 % to 57.0 % |",
        "| KL from SFT (nats) | 6.0 | 0.1 to 7.8 |",
        "| Pretraining loss | 2.200 | 1.625 to 3.500 |",
        "| Harm | 12.5 % | – |",
        "| SFT | +0.00 | +0.00 to +0.00 |",
        "| SFT | PPO | 37.5 % |",
        "| 64 pairs decided, 5 tied | 71.9 % | 68.8 % to 81.2 % |",
        "| x and y | 100.0 % | 100.0 % to 100.0 % | 3 |",
        "| Accuracy on held-out comparisons | 70.0 % | 65.0 % to 75.0 % |",
        "| Fold 1, held-out labelers, 31 pairs | 68.8 % | 62.5 % to 75.0 % |",
        "| Mean, held-out labelers | 68.8 % | standard error 1.6 % |",
        "| torch | 2.9 |",
        "## Intended use",
        "## Limits",
    ):
        assert line in card, line


def other(node: Any) -> Any:
    """The same report with every number another one."""
    if isinstance(node, dict):
        return {key: other(value) for key, value in node.items()}
    if isinstance(node, list):
        return [other(value) for value in node]
    if isinstance(node, bool) or not isinstance(node, int | float):
        return node
    return node + 1234 if isinstance(node, int) else node + 1234.5


def table_numbers(card: str) -> list[str]:
    """Numbers in the cells behind the first, those of names left out."""
    rows = [line.strip("| ").split(" | ")[1:] for line in card.splitlines() if line.startswith("|")]
    return [number for row in rows for cell in row for number in re.findall(r"(?<![\w.\-])[+−]?\d+(?:\.\d+)?", cell)]


def test_no_number_of_a_table_is_the_cards_own(whole: dict[str, Any]) -> None:
    """With every number of the report changed, not one cell keeps its number."""
    before = evaluation_card(whole)
    after = evaluation_card(other(copy.deepcopy(whole)))
    rows = list(zip(before.splitlines(), after.splitlines(), strict=True))
    heads = {index for index, (a, _) in enumerate(rows[1:]) if a.startswith("| ---")}
    changed = [(a, b) for i, (a, b) in enumerate(rows) if i not in heads and a.startswith("|") and table_numbers(a)]
    assert len(changed) > 60
    for a, b in changed:
        if "torch" not in a:  # a version is a text
            assert not set(table_numbers(a)) & set(table_numbers(b)), (a, b)


def test_the_card_on_disk_is_that_of_the_report_on_disk(whole: dict[str, Any], tmp_path: Path) -> None:
    write_report(whole, tmp_path)
    assert card_drift(tmp_path) == []
    text = (tmp_path / "MODEL_CARD.md").read_text()
    assert text == evaluation_card(json.loads((tmp_path / "report.json").read_text()))
    (tmp_path / "MODEL_CARD.md").write_text(text.replace("| Win rate vs SFT | 52.0 %", "| Win rate vs SFT | 62.0 %"))
    drift = card_drift(tmp_path)
    assert [line[0] for line in drift[-2:]] == ["-", "+"]
    assert "62.0 %" in drift[-2] and "52.0 %" in drift[-1]


def test_a_small_report_makes_a_card_too(report: dict[str, Any]) -> None:
    for key in ("reward_model", "versions", "settings"):
        report.pop(key)
    card = evaluation_card(report)
    assert "## Evaluation: SFT" in card
    assert "## Training" not in card


def test_the_instructions_ask_every_question(tmp_path: Path, report: dict[str, Any]) -> None:
    write_report(report, tmp_path)
    text = (tmp_path / "labeling_instructions.md").read_text()
    assert text == labeling_instructions()
    assert len(TABLE_3) == 11
    for name, question in TABLE_3.items():
        assert f"`{name}`: {question}" in text
