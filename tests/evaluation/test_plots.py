from __future__ import annotations

from typing import Any

import pytest

from rlhf_lightning.evaluation import plots


def test_win_rates_with_their_intervals(report: dict[str, Any]) -> None:
    (ax,) = plots.win_rates(report).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["PPO-ptx", "PPO", "Base"]
    lines = [[list(line.get_xdata()), list(line.get_ydata())] for line in ax.get_lines()]
    assert lines[2] == [pytest.approx([70, 80]), [1, 1]]
    assert lines[3] == [pytest.approx([75]), [1]]
    assert "win rate against SFT" in ax.get_xlabel()


def test_the_alignment_tax_by_model(report: dict[str, Any]) -> None:
    report["models"]["base_prompted"] = report["models"]["base"]
    drawing = plots.alignment_tax(report)
    assert drawing is not None
    (ax,) = drawing.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["PPO-ptx", "PPO", "SFT", "Base"]
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [2.2, 3.0, 2.0, 2.0, 2.0]
    assert "nats per token" in ax.get_xlabel()


def test_reward_against_kl_has_the_models_and_the_way_there(report: dict[str, Any]) -> None:
    curves = {"ppo": {"rollout/kl": ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]), "rollout/score": ([0.0, 2.0], [0.5, 1.5])}}
    drawing = plots.reward_against_kl(report, curves)
    assert drawing is not None
    proxy, gold = drawing.axes
    # Only steps that have both.
    points = [(list(line.get_xdata()), list(line.get_ydata())) for line in proxy.get_lines()]
    assert points == [([0.0, 2.0], [0.5, 1.5]), ([0.0], [0.5]), ([9.0], [2.0]), ([6.0], [0.5])]
    assert [line.get_ydata()[0] for line in gold.get_lines()] == [1.0, 0.75, 1.5]
    assert proxy.get_xlabel() == "KL from SFT (nats per response)"


def test_calibration_at_certainty(report: dict[str, Any]) -> None:
    # A bin in which every pair is right has no room above it.
    drawing = plots.calibration(report)
    assert drawing is not None
    (ax,) = drawing.axes
    line = next(line for line in ax.get_lines() if len(line.get_xdata()) == 2 and line.get_xdata()[0] == 62)
    assert list(line.get_ydata()) == [60, 100]


def test_what_was_not_measured_is_not_drawn(report: dict[str, Any]) -> None:
    for values in report["models"].values():
        values["pretrain_loss"] = values["gold_reward"] = values["proxy_reward"] = None
    assert plots.alignment_tax(report) is None
    assert plots.reward_against_kl(report, {}) is None
    assert plots.calibration(report | {"reward_model": None}) is None


def test_wilson_interval() -> None:
    # 8 of 10: the textbook value.
    assert plots.wilson_interval(0.8, 10) == pytest.approx((0.490, 0.943), abs=5e-4)


def test_models_have_colours_and_markers_of_their_own() -> None:
    styles = [plots.style(name) for name in ("base", "base_prompted", "sft", "ppo", "ppo_ptx", "mine")]
    assert len({color for color, _ in styles}) == len({marker for _, marker in styles}) == 6
