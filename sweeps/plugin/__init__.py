"""``hydra/sweeper=optuna``: a sweeper of Hydra on today's Optuna.

It ships as ``hydra_plugins.rlhf_lightning``, where Hydra looks for plug-ins, and imports Optuna only to sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf

if TYPE_CHECKING:
    from rlhf_lightning.sweeps.study import SharedStudy

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Searches with Optuna for the overrides whose job returns the best value, or the best values.

    The study is stored: a sweep that is started again goes on, and several processes may work on one study. A job that
    raises ``optuna.TrialPruned`` is pruned; one that raises anything else, or returns no number, has failed.

    Args:
        sampler: makes a sampler of Optuna; one made by ``_partial_: true`` gets a seed of its own for each trial, so
            that what a study tries does not depend on how often it was stopped nor on the number of processes.
        direction: ``minimize`` or ``maximize``, or a list of them, one for each value that a job returns.
        study_name: of the study in the storage.
        storage: URL of Optuna's; ``null`` keeps the study in memory.
        n_trials: of the whole study, whoever runs them.
        n_jobs: trials that the launcher gets at a time.
        max_failure_rate: the sweep ends once a larger share of this process's trials has failed.
        params: overrides by key, as on the command line, which comes last.
        custom_search_space: name of a function ``(config, trial)`` that suggests parameters of its own.
    """

    def __init__(
        self,
        sampler: Any,
        direction: Any,
        study_name: str | None = None,
        storage: str | None = None,
        n_trials: int = 20,
        n_jobs: int = 1,
        max_failure_rate: float = 1.0,
        params: DictConfig | None = None,
        custom_search_space: str | None = None,
    ) -> None:
        self.sampler = sampler
        self.directions = list(direction) if isinstance(direction, list | tuple | ListConfig) else [direction]
        self.study_name = study_name or "sweep"
        self.storage = storage
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.max_failure_rate = max_failure_rate
        self.params: Mapping[Any, Any] = params or {}
        self.custom_search_space = custom_search_space
        self.launcher: Launcher
        self.context: HydraContext
        self.config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run what is left of the study's trials."""
        from hydra.utils import get_method

        from rlhf_lightning.errors import UserError
        from rlhf_lightning.sweeps.search_space import split_overrides
        from rlhf_lightning.sweeps.study import SharedStudy

        texts = [f"{key!s}={value!s}" for key, value in self.params.items()] + arguments
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        space, fixed = split_overrides(parser.parse_overrides(texts))
        custom = None if self.custom_search_space is None else get_method(self.custom_search_space)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        study = SharedStudy(
            name=self.study_name,
            storage=self.storage,
            directions=self.directions,
            sampler=self.sampler,
            space=space,
            suggest=None if custom is None else self._custom(custom),
            n_trials=self.n_trials,
            folder=folder,
        )
        log.info("study %s: %s", self.study_name, study.state())
        failed = done = 0
        while batch := study.claim(self.n_jobs):
            jobs = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in batch]
            returns = self.launcher.launch(jobs, initial_job_idx=batch[0].number)
            for trial, job in zip(batch, returns, strict=True):
                failed += not self._tell(study, trial.number, job)
                done += 1
            if failed > self.max_failure_rate * done:
                raise UserError(
                    f"{failed} of {done} trials failed, more than hydra.sweeper.max_failure_rate="
                    f"{self.max_failure_rate} allows; see {folder}"
                )
        log.info("study %s: %s", self.study_name, study.state())
        OmegaConf.save(OmegaConf.create(study.results()), folder / "optimization_results.yaml")

    def _custom(self, suggest: Callable[[DictConfig, Any], None]) -> Callable[[Any], None]:
        return lambda trial: suggest(self.config, trial)

    def _tell(self, study: SharedStudy, number: int, job: JobReturn) -> bool:
        """Hand a job's value on; whether it had one or was pruned."""
        import optuna

        try:
            values = job.return_value
        except optuna.TrialPruned:
            study.tell_pruned(number)
            return True
        except Exception as error:
            log.error("trial %d failed: %s: %s", number, type(error).__name__, error)
            values = None
        fine: bool = study.tell(number, values if isinstance(values, Sequence) else [values])
        return fine
