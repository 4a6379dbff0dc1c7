"""A study of Optuna that is killed and goes on, and that two processes work on: exact counts, no trial twice."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from rlhf_lightning.errors import UserError
from rlhf_lightning.sweeps.study import SharedStudy

APP = Path(__file__).with_name("quick_app.py")


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(APP), "-m", "hydra/sweeper=optuna", "x=interval(-5, 5)", *overrides]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []


def stored(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/sweep/study.db").trials


def test_a_study_killed_after_three_trials_ends_with_the_asked_number(tmp_path: Path) -> None:
    first = start(tmp_path, "seconds=0.4", "hydra.sweeper.n_trials=8")
    deadline = time.monotonic() + 100
    while len(lines(tmp_path / "starts.txt")) < 4 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    first.kill()
    first.communicate()
    assert lines(tmp_path / "ends.txt") == ["0", "1", "2"]
    again = start(tmp_path, "hydra.sweeper.n_trials=8")
    output = again.communicate(timeout=100)[0]
    assert again.returncode == 0, output
    trials = stored(tmp_path)
    assert [trial.number for trial in trials] == list(range(8))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert lines(tmp_path / "ends.txt") == [str(number) for number in range(8)]
    asked = [line.split() for line in lines(tmp_path / "starts.txt")]
    cut_off = [x for number, _, x in asked if number == "3"]
    assert len(cut_off) == 2  # begun once more, with what it had been given
    assert len(set(cut_off)) == 1
    assert len({x for _, _, x in asked}) == 8
    assert all(trial.value == pytest.approx((trial.params["x"] - 1) ** 2) for trial in trials)


def test_two_processes_on_one_study_never_run_the_same_trial(tmp_path: Path) -> None:
    both = [start(tmp_path, "seconds=0.15", "hydra.sweeper.n_trials=16", "fail=[5]") for _ in range(2)]
    for process in both:
        output = process.communicate(timeout=150)[0]
        assert process.returncode == 0, output
    asked = [line.split() for line in lines(tmp_path / "starts.txt")]
    assert sorted(int(number) for number, _, _ in asked) == list(range(16))
    assert len({x for _, _, x in asked}) == 16  # nor the same point, as one seed would give both
    assert len({process for _, process, _ in asked}) == 2
    states = [trial.state for trial in stored(tmp_path)]
    assert states.count(TrialState.COMPLETE) == 15
    assert states[5] == TrialState.FAIL


# Asks for a trial of the study that `shared` makes, and ends it once it is told to.
OTHER = """
import sys
from pathlib import Path
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from rlhf_lightning.sweeps.study import SharedStudy

folder = Path(sys.argv[1])
study = SharedStudy(
    name="s", storage=f"sqlite:///{folder}/s.db", directions=["minimize"], sampler=RandomSampler(seed=1),
    space={"x": FloatDistribution(0, 1)}, n_trials=6, folder=folder,
)
(claim,) = study.claim(1)
print(claim.number, flush=True)
sys.stdin.readline()
study.tell(claim.number, [0.5])
print("told", flush=True)
"""


def test_a_trial_that_ends_while_another_process_looks_is_not_taken_for_one_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the moment that a process reads which trials run and the one that it asks who holds them."""
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "0\n"
        study = shared(tmp_path)
        read = study.study.get_trials

        def get_trials(**options: Any) -> list[optuna.trial.FrozenTrial]:
            found = read(**options)
            other.stdin.write("\n")
            other.stdin.flush()
            select.select([other.stdout], [], [], 1.0)  # the other has ended its trial, or waits for this one
            return found

        monkeypatch.setattr(study.study, "get_trials", get_trials)
        (claim,) = study.claim(1)
        assert claim.number == 1
        assert other.stdout.readline() == "told\n"
    monkeypatch.undo()
    assert [trial.state for trial in study.study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]


def shared(folder: Path, **options: object) -> SharedStudy:
    import functools

    settings: dict[str, object] = {
        "name": "s",
        "storage": f"sqlite:///{folder}/s.db",
        "directions": ["minimize"],
        "sampler": functools.partial(optuna.samplers.TPESampler, seed=0, n_startup_trials=3),
        "space": {"x": FloatDistribution(0, 1)},
        "n_trials": 6,
        "folder": folder,
    }
    return SharedStudy(**settings | options)  # type: ignore[arg-type]


def run(study: SharedStudy, most: int = 100) -> list[float]:
    found: list[float] = []
    while len(found) < most and (batch := study.claim(1)):
        found.append(batch[0].params["x"])
        study.tell(batch[0].number, [found[-1] ** 2])
    return found


def test_what_is_tried_does_not_depend_on_stops(tmp_path: Path) -> None:
    """A sampler with a fixed seed, made anew at each start, would draw the first points again."""
    whole = run(shared(tmp_path))
    parts = run(shared(tmp_path, name="t"), 2) + run(shared(tmp_path, name="t"))
    assert parts == whole
    assert len(set(whole)) == 6


def test_batches_are_whole_and_the_last_is_what_is_left(tmp_path: Path) -> None:
    study = shared(tmp_path, n_trials=5)
    batches = []
    while batch := study.claim(3):
        batches.append([claim.number for claim in batch])
        for claim in batch:
            study.tell(claim.number, [None])
    assert batches == [[0, 1, 2], [3, 4]]  # trials that fail count
    assert study.results() == {"name": "optuna"}


def test_a_grid_is_tried_once_also_over_stops(tmp_path: Path) -> None:
    import functools

    options = {
        "sampler": functools.partial(optuna.samplers.GridSampler, seed=0),
        "space": {"x": CategoricalDistribution([1, 2, 3]), "y": CategoricalDistribution(["a", "b"])},
        "n_trials": 100,
    }
    points = []
    for _ in range(2):
        study = shared(tmp_path, **options)
        while len(points) != 3 and (batch := study.claim(1)):
            points.append((batch[0].params["x"], batch[0].params["y"]))
            study.tell(batch[0].number, [0.0])
        points.append(None)
    assert sorted(point for point in points if point) == [(x, y) for x in (1, 2, 3) for y in "ab"]


def test_several_objectives(tmp_path: Path) -> None:
    study = shared(tmp_path, directions=["maximize", "minimize"], n_trials=3)
    for values in ([1.0, 1.0], [2.0, 2.0], [0.5, 3.0]):
        study.tell(study.claim(1)[0].number, values)
    assert sorted(solution["values"] for solution in study.results()["solutions"]) == [[1.0, 1.0], [2.0, 2.0]]
    with pytest.raises(UserError, match=r"has \['maximize', 'minimize'\]; choose another"):
        shared(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), None, "good"])
def test_what_is_no_number_has_failed(tmp_path: Path, value: object) -> None:
    study = shared(tmp_path)
    assert not study.tell(study.claim(1)[0].number, [value])
    assert study.study.trials[0].state == TrialState.FAIL


def test_a_study_keeps_its_search_space(tmp_path: Path) -> None:
    run(shared(tmp_path, space={"x": CategoricalDistribution([1, 2])}), 1)
    with pytest.raises(UserError, match="keeps its search space"):
        shared(tmp_path, space={"x": CategoricalDistribution([1, 2, 3])}).claim(1)


def test_nothing_to_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is searched"):
        shared(tmp_path, space={})
