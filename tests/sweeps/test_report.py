"""Which trials are best, and what the report of a sweep says of all of them."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import pytest

from rlhf_lightning.sweeps import plots
from rlhf_lightning.sweeps.ranking import best_trials
from rlhf_lightning.sweeps.report import write_sweep_report
from rlhf_lightning.sweeps.trial import Trial, read_trial, read_trials, varied, write_trial


def trial(number: int, kl_coef: str, **options: object) -> Trial:
    overrides = ("stage=ppo", f"module.kl_coef={kl_coef}", "model.name=my model")
    made = Trial(number, overrides, "complete", {"reward": 1.0, "kl": 2.0}, 12.5, f"sweep/{number}")
    return made._replace(**options)


TRIALS = [
    trial(0, "0.01", metrics={"reward": 3.0, "kl": 9.0}),
    trial(1, "0.1", metrics={"reward": 2.0, "kl": 4.0}),
    trial(2, "0.3", metrics={"reward": 1.5, "kl": 5.0}),  # trial 1 has more reward and less KL
    trial(3, "1", metrics={"reward": 1.0, "kl": 1.0}),
    trial(4, "3", state="failed", metrics={}, error="kl is nan"),
]
WISHES = {"reward": "maximize", "kl": "minimize"}


@pytest.mark.parametrize(
    ("objectives", "numbers"),
    [
        (WISHES, [0, 1, 3]),
        ({"reward": "maximize"}, [0]),
        ({"reward": "minimize"}, [3]),
        ({"kl": "minimize", "reward": "maximize"}, [3, 1, 0]),
        ({"other": "maximize"}, []),
        ({}, []),
    ],
)
def test_the_best_are_those_that_no_other_beats(objectives: dict[str, str], numbers: list[int]) -> None:
    assert [found.number for found in best_trials(TRIALS, objectives)] == numbers


def test_equal_trials_are_best_together() -> None:
    assert [found.number for found in best_trials([trial(0, "1"), trial(1, "2")], WISHES)] == [0, 1]


def test_a_trial_comes_back_as_it_was_written(tmp_path: Path) -> None:
    for made in (TRIALS[4], TRIALS[0]):
        write_trial(made, tmp_path / str(made.number))
    assert read_trials(tmp_path) == [TRIALS[0], TRIALS[4]]
    assert read_trial(tmp_path) is None
    write_trial(trial(1, "1", metrics={"kl": float("nan"), "reward": 0.5}), tmp_path / "1")
    assert read_trials(tmp_path)[1].metrics == {"reward": 0.5}


def test_what_varies_is_told_from_what_does_not() -> None:
    assert varied(TRIALS) == ["module.kl_coef"]
    assert varied([trial(0, "1"), trial(1, "1")._replace(overrides=("+new=1",))]) == [
        "stage",
        "module.kl_coef",
        "model.name",
        "new",
    ]


def test_the_report_has_every_trial_the_best_and_the_failed(tmp_path: Path) -> None:
    for made in TRIALS:
        write_trial(made, tmp_path / str(made.number))
    assert write_sweep_report(tmp_path, metrics=WISHES, objectives=["reward"]) == TRIALS
    text = (tmp_path / "sweep_report.md").read_text()
    assert "5 trials: 4 complete, 1 failed." in text
    assert "| 2 | 0.3 | 1.5 | 5 | complete | 12 | sweep/2 |" in text
    assert "- trial 4: kl is nan (sweep/4)" in text
    (line,) = [line for line in text.splitlines() if line.startswith("rlhf-train ")]
    assert shlex.split(line) == [
        "rlhf-train",
        "stage=ppo",
        "module.kl_coef=0.01",
        "model.name=my model",
        "run_dir=runs/best",
    ]
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "trial": "1",
        "state": "complete",
        "seconds": "12.5",
        "folder": "sweep/1",
        "module.kl_coef": "0.1",
        "reward": "2.0",
        "kl": "4.0",
        "error": "",
        "overrides": "stage=ppo module.kl_coef=0.1 'model.name=my model'",
    }
    assert rows[4]["state"] == "failed"
    for name in ("effects", "pareto", "parallel_coordinates"):
        assert (tmp_path / "plots" / f"{name}.png").stat().st_size > 5000
        assert f"plots/{name}.png" in text


def test_a_report_without_a_complete_trial(tmp_path: Path) -> None:
    write_trial(TRIALS[4], tmp_path / "4")
    write_sweep_report(tmp_path, metrics=WISHES, objectives=["reward"])
    text = (tmp_path / "sweep_report.md").read_text()
    assert "No trial is complete" in text
    assert not list((tmp_path / "plots").iterdir())


def test_effects_join_trials_that_differ_in_one_number_alone() -> None:
    grid = [
        Trial(number, (f"a.x={x}", f"b.x={y}"), "complete", {"m": 10.0 * x + y}, 1.0, "f")
        for number, (x, y) in enumerate([(1, 5), (2, 5), (1, 6), (2, 6)])
    ]
    drawing = plots.effects(grid, ["m"])
    assert drawing is not None
    first, second = drawing.axes
    assert (first.get_xlabel(), second.get_xlabel()) == ("a.x", "b.x")
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in first.lines] == [
        ([1, 2], [15, 25]),
        ([1, 2], [16, 26]),
    ]
    assert [line.get_label() for line in first.lines] == ["b.x=5", "b.x=6"]


def test_parallel_coordinates_have_a_line_a_trial_and_the_best_is_bold() -> None:
    drawing = plots.parallel_coordinates(TRIALS, {"reward": "maximize"}, ["reward", "kl"])
    assert drawing is not None
    lines = [line for line in drawing.axes[0].lines if len(line.get_xdata()) == 3]
    assert [line.get_linewidth() for line in lines] == [3, 1.2, 1.2, 1.2]
    assert [round(float(y), 3) for y in lines[1].get_ydata()] == [0.5, 0.5, 0.375]  # 0.1 is half way from 0.01 to 1


def test_the_front_of_the_pareto_plot_is_drawn() -> None:
    drawing = plots.pareto(TRIALS, WISHES)
    assert drawing is not None
    front = drawing.axes[0].lines[0]
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == [(1.0, 1.0), (4.0, 2.0), (9.0, 3.0)]
    assert plots.pareto(TRIALS, {"reward": "maximize"}) is None


def test_values_that_were_tried_are_named_on_the_axis() -> None:
    """A logarithmic axis would name its own, some over one another."""
    drawing = plots.effects([trial(number, value) for number, value in enumerate(("0.05", "0.2", "0.8"))], ["reward"])
    assert drawing is not None
    (axes,) = drawing.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.05", "0.2", "0.8"]
    assert not [label for label in axes.get_xticklabels(minor=True) if label.get_text()]
