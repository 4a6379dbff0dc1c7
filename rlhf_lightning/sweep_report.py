"""When the report of a sweep is written: after each trial, and at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from rlhf_lightning.cli import keep_failure
from rlhf_lightning.errors import UserError
from rlhf_lightning.sweeps.report import REPORT, summary, write_sweep_report
from rlhf_lightning.sweeps.trial import FAILED, Trial, read_trials

log = logging.getLogger(__name__)


class SweepReport(Callback):
    """Writes the report of a sweep at its end and says which trials failed. A callback of Hydra, not of Lightning."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """The folder of a sweep may be named by Hydra's choices, which are known from here on."""
        HydraConfig.instance().set_config(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write it, unless it would be that of a single job."""
        folder = Path(config.hydra.sweep.dir)
        sweep = config.get("sweep")
        if sweep is None and len(read_trials(folder)) < 2:
            return
        wanted = config.get("optimized_metric")
        trials = refresh_report(config.hydra, wanted, {} if sweep is None else sweep.metrics)
        objectives = _objectives(wanted, {} if sweep is None else sweep.metrics)
        log.info("%s · %s", summary(trials, objectives), folder / REPORT)
        failed = [trial for trial in trials if trial.state == FAILED]
        if failed:
            first = f"trial {failed[0].number}: {failed[0].error}"
            keep_failure(UserError(f"{len(failed)} of {len(trials)} trials failed ({first}); see {folder / REPORT}"))


def refresh_report(hydra: Any, wanted: Any, metrics: Mapping[str, str]) -> list[Trial]:
    """Write the report of the trials so far. A fault in a drawing costs no trial: it is logged."""
    shown = OmegaConf.to_container(metrics) if isinstance(metrics, DictConfig) else dict(metrics)
    assert isinstance(shown, dict)
    trials: list[Trial]
    try:
        trials = write_sweep_report(
            hydra.sweep.dir,
            metrics={str(name): str(direction) for name, direction in shown.items()},
            objectives=list(_objectives(wanted, shown)),  # type: ignore[arg-type]  # keys of a config are texts
            script=str(hydra.help.app_name),
        )
    except (OSError, ValueError, KeyError) as error:
        log.warning("the report of the sweep could not be written: %s", error)
        trials = read_trials(Path(hydra.sweep.dir))
    return trials


def _objectives(wanted: Any, metrics: Mapping[str, str]) -> dict[str, str]:
    names = [] if wanted is None else list(wanted) if isinstance(wanted, list | ListConfig) else [wanted]
    return {name: metrics.get(name, "minimize") for name in names}
