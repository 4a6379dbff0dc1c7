"""A study of Optuna that can be stopped and gone on with, and that several processes can work on at once.

Optuna numbers trials; what it does not know is who runs them. A process holds a lock on a file for each trial that it
runs; the operating system drops it with the process, however that ends. A running trial that nobody holds is
taken over, with the parameters that it was given.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from rlhf_lightning.errors import UserError


class Claim(NamedTuple):
    """A trial that this process is to run."""

    number: int
    params: dict[str, Any]


class SharedStudy:
    """The study and this process's share in it.

    Args:
        name: of the study.
        storage: URL; ``None`` for this process's memory.
        directions: ``minimize`` or ``maximize`` for each value.
        sampler: a sampler, or what makes one (``functools.partial``), anew for each trial with a seed that follows
            from the trial's number: two processes with one seed would else draw the same first trials.
        space: distributions by key.
        suggest: suggests further parameters.
        n_trials: of the study; a trial that failed counts.
        folder: for the locks, unless the storage is a file, beside which they are.

    Raises:
        UserError: the study is there and has other directions; nothing is searched.
    """

    def __init__(
        self,
        *,
        name: str,
        storage: str | None,
        directions: Sequence[str],
        sampler: Any,
        space: Mapping[str, BaseDistribution],
        suggest: Callable[[Any], None] | None = None,
        n_trials: int,
        folder: Path,
    ) -> None:
        if not space and suggest is None:
            raise UserError("nothing is searched: give hydra.sweeper.params, or KEY=interval(...) on the command line")
        self.space, self.suggest, self.sampler, self.n_trials = dict(space), suggest, sampler, n_trials
        wished: Any = list(directions)  # Optuna checks the words
        self.locks = _beside(storage, folder) / name
        self.locks.mkdir(parents=True, exist_ok=True)
        self.held: dict[int, IO[str]] = {}
        if self._is(optuna.samplers.GridSampler):
            self.n_trials = min(n_trials, math.prod(len(values) for values in self._grid().values()))
        with self._alone():  # two processes that make the tables at once would fail
            self.study = optuna.create_study(study_name=name, storage=storage, directions=wished, load_if_exists=True)
        stored = [direction.name.lower() for direction in self.study.directions]
        if stored != list(directions):
            raise UserError(
                f"hydra.sweeper.direction={list(directions)}: the study {name} in {storage} has {stored}; choose "
                "another hydra.sweeper.study_name or run_dir"
            )

    def claim(self, count: int) -> list[Claim]:
        """At most ``count`` trials for this process to run, with numbers that follow each other: those that a process
        left behind, or new ones. None are left once the study has its trials, others' running ones included."""
        with self._alone():
            trials = self.study.get_trials(deepcopy=False)
            left = [trial for trial in trials if trial.state == TrialState.RUNNING and self._hold(trial.number)]
            for trial in left:
                if not self._whole(trial):  # its process ended while it was asked for
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    self._drop(trial.number)
            found = [Claim(trial.number, dict(trial.params)) for trial in left if self._whole(trial)]
            if found:
                return self._first_run(found, count)
            counted = sum(trial.state.is_finished() and self._whole(trial) for trial in trials)
            counted += sum(trial.state == TrialState.RUNNING for trial in trials) - len(left)
            return [self._ask(len(trials) + index) for index in range(min(count, self.n_trials - counted))]

    def tell(self, number: int, values: Sequence[Any]) -> bool:
        """Store the values of a trial, or that it failed if they are no numbers; whether they were."""
        fine = len(values) == len(self.study.directions) and all(
            isinstance(value, int | float) and math.isfinite(value) for value in values
        )
        self._finish(number, {"values": [float(v) for v in values]} if fine else {"state": TrialState.FAIL})
        return fine

    def tell_pruned(self, number: int) -> None:
        """Store that a trial was ended early; its value is what it reported last."""
        self._finish(number, {"state": TrialState.PRUNED})

    def state(self) -> str:
        """How many trials are in which state, in words."""
        counts = Counter(trial.state.name.lower() for trial in self.study.get_trials(deepcopy=False))
        told = ", ".join(f"{count} {state}" for state, count in counts.items())
        return f"{told or 'no trials yet'}, of {self.n_trials}"

    def results(self) -> dict[str, Any]:
        """The best parameters, in the words of Hydra's other sweepers."""
        done = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        if not done:
            return {"name": "optuna"}
        if len(self.study.directions) > 1:
            best = self.study.best_trials
            return {"name": "optuna", "solutions": [{"params": t.params, "values": list(t.values)} for t in best]}
        return {"name": "optuna", "best_params": self.study.best_params, "best_value": self.study.best_value}

    def _finish(self, number: int, outcome: dict[str, Any]) -> None:
        # Alone: a process that has just read that the trial runs must not find it held by nobody.
        with self._alone():
            try:
                self.study.tell(number, **outcome)
            except RuntimeError:
                # At the last point of the grid its sampler calls Study.stop, which belongs into Study.optimize; the
                # trial is stored by then.
                if not self._is(optuna.samplers.GridSampler):
                    raise
            self._drop(number)

    def _ask(self, number: int) -> Claim:
        self.study.sampler = self._sampler(number)
        try:
            trial = self.study.ask(self.space)
        except ValueError as error:
            raise UserError(
                f"study {self.study.study_name}: {error}; a study keeps its search space, choose another "
                "hydra.sweeper.study_name or run_dir for another one"
            ) from error
        if not self._hold(trial.number):
            raise UserError(f"trial {trial.number} is held by another process: two studies share {self.locks}")
        if self.suggest is not None:
            self.suggest(trial)
        return Claim(trial.number, dict(trial.params))

    def _first_run(self, found: list[Claim], count: int) -> list[Claim]:
        taken = [claim for index, claim in enumerate(found) if claim.number == found[0].number + index][:count]
        for claim in found[len(taken) :]:
            self._drop(claim.number)
        return taken

    def _whole(self, trial: FrozenTrial) -> bool:
        return set(self.space) <= set(trial.params)

    def _sampler(self, number: int) -> Any:
        if not isinstance(self.sampler, functools.partial):
            return self.sampler
        if self._is(optuna.samplers.GridSampler):
            return self.sampler(search_space=self._grid())
        seed = self.sampler.keywords.get("seed")
        return self.sampler() if seed is None else self.sampler(seed=(1_000_003 * seed + number) % 2**32)

    def _is(self, kind: type) -> bool:
        return isinstance(self.sampler, functools.partial) and self.sampler.func is kind

    def _grid(self) -> dict[str, list[Any]]:
        grid: dict[str, list[Any]] = {}
        for key, values in self.space.items():
            if isinstance(values, CategoricalDistribution):
                grid[key] = list(values.choices)
            elif isinstance(values, IntDistribution) and not values.log:
                grid[key] = list(range(values.low, values.high + 1, values.step))
            else:
                raise UserError(f"hydra/sweeper/sampler=grid: {key} is an interval; give a list or a range")
        return grid

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process asks for trials or ends one meanwhile."""
        with (self.locks / "study.lock").open("w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    def _hold(self, number: int) -> bool:
        """Hold a trial, unless a process does, be it this one: a lock is the process's, who always gets it again."""
        if number in self.held:
            return False
        file = (self.locks / f"trial-{number}.lock").open("w")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self.held[number] = file
        return True

    def _drop(self, number: int) -> None:
        self.held.pop(number).close()


def _beside(storage: str | None, folder: Path) -> Path:
    scheme, found, path = (storage or "").partition(":///")
    if found and scheme.startswith("sqlite") and path and ":memory:" not in path:
        file = Path(path.partition("?")[0])
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.with_name(f".{file.name}.locks")
    return folder / ".study.locks"
