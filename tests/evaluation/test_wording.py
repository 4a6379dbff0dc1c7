from __future__ import annotations

from typing import Any

import pytest

from rlhf_lightning.evaluation.wording import Form, comparison_rows, model_title, other_rows, written, written_seconds


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (0.1234, "rate", "12.3 %"),
        ([0.05, 0.151], "interval", "5.0–15.1"),
        (-1.234, "signed", "−1.23"),
        (1.0, "signed", "+1.00"),
        (2.3456, "loss", "2.346"),
        (12.34, "length", "12.3"),
        (-0.5, "number", "−0.50"),
        (None, "rate", "–"),
    ],
)
def test_numbers_as_text(value: Any, form: Form, text: str) -> None:
    assert written(value, form) == text


def test_seconds_become_minutes() -> None:
    assert written_seconds(12.34) == "12.3 s"
    assert written_seconds(130.2) == "2 min 10 s"
    # Not "2 min 60 s".
    assert written_seconds(179.7) == "3 min 0 s"


def test_a_metric_without_any_value_is_left_out(report: dict[str, Any]) -> None:
    rows = {row.key: row.cells for row in comparison_rows(report)}
    assert "likert" not in rows
    assert rows["win_rate_vs_sft"] == ["10.0 %", "50.0 %", "75.0 %", "52.0 %"]
    assert rows["kl"] == ["30.0", "0.0", "9.0", "6.0"]


def test_the_baseline_has_no_interval_against_itself(report: dict[str, Any]) -> None:
    rows = {row.key: row.cells for row in comparison_rows(report)}
    assert rows["win_rate_interval"] == ["5.0–15.0", "–", "70.0–80.0", "47.0–57.0"]
    assert report["models"]["sft"]["win_rate_interval"] == [0.5, 0.5]


def test_flags_are_percentages_and_other_metrics_numbers(report: dict[str, Any]) -> None:
    for values in report["models"].values():
        values["words"] = 3.14159
    rows = {row.title: row.cells for row in other_rows(report)}
    assert rows == {"Harm": ["12.5 %", "25.0 %", "0.0 %", "0.0 %"], "Words": ["3.14"] * 4}


def test_an_unknown_model_keeps_its_name() -> None:
    assert (model_title("ppo_ptx"), model_title("mine")) == ("PPO-ptx", "mine")
