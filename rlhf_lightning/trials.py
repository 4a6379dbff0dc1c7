"""A job of a sweep: its folder, its record, and the value that a sweeper asks for."""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, open_dict

from rlhf_lightning.cli import user_reason
from rlhf_lightning.errors import UserError, one_line
from rlhf_lightning.launching import rank
from rlhf_lightning.sweep_report import refresh_report
from rlhf_lightning.sweeps.trial import COMPLETE, FAILED, PRUNED, RUNNING, STOPPED, Trial, read_trial, write_trial

log = logging.getLogger(__name__)

PRUNED_AT = "pruned_at"
"""The metric by which a run says that it was ended as hopeless."""

OPTUNA_TRIAL = "RLHF_OPTUNA_TRIAL"


def run_trial(task: Callable[[DictConfig], Mapping[str, float]], config: DictConfig) -> Any:
    """Run a task, which returns its metrics; in a sweep (``-m``) as a trial.

    With ``sweep=...`` a trial's ``run_dir`` is its own folder in that of the sweep; a failure is recorded and does not
    end the sweep; and where the sweep is started again, trials that are complete are kept and others go on from their
    newest checkpoint. Of every trial there is a record in its folder, from which the report is made.

    Returns:
        The value of ``optimized_metric``, a list for several; ``None`` without one, and of a trial that failed.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        if config.get("sweep") is not None and rank() == 0:
            log.warning("sweep=%s without -m: one run, with what the sweep sets for all trials", _choice("sweep"))
        task(config)
        return None
    folder = Path(hydra.runtime.output_dir)
    overrides = tuple(text for text in hydra.overrides.task if not text.startswith("run_dir="))
    sweeper = hydra.sweeper
    if str(sweeper.get("_target_", "")).endswith(".OptunaSweeper"):
        if config.get("optimized_metric") is None:
            raise UserError("optimized_metric=null: name the metric that the study optimizes")
        known = {"storage": sweeper.storage, "study": sweeper.study_name, "number": hydra.job.num}
        os.environ[OPTUNA_TRIAL] = json.dumps(known)  # for the callback OptunaPruning, in whatever process
    trial = Trial(hydra.job.num, overrides, RUNNING, {}, 0.0, _shown(folder))
    started, wanted = time.perf_counter(), config.get("optimized_metric")
    if config.get("sweep") is None:
        trial = trial._replace(folder=str(config.run_dir))
        write_trial(trial, folder)
        metrics = task(config)
        write_trial(trial._replace(state=COMPLETE, metrics=metrics, seconds=time.perf_counter() - started), folder)
        return None if wanted is None else optimized(metrics, wanted)
    before = read_trial(folder)
    if before is not None and before.overrides != overrides:
        raise UserError(
            f"{folder} holds a trial of another sweep ({' '.join(before.overrides)}): choose another run_dir"
        )
    if before is not None and before.state == PRUNED:
        _tell_pruned(before)
    if before is not None and before.state == COMPLETE:
        log.info("trial %d: kept · %s", before.number, folder)
        return None if wanted is None else optimized(before.metrics, wanted)
    _place(config, folder)
    write_trial(trial, folder)
    value = None
    try:
        metrics = task(config)
        value = None if wanted is None else optimized(metrics, wanted)
        trial = trial._replace(state=COMPLETE, metrics=metrics)
        if PRUNED_AT in metrics:
            trial = trial._replace(state=PRUNED, error=f"ended as hopeless after iteration {metrics[PRUNED_AT]:.0f}")
    except Exception as error:
        reason = user_reason(error, str(hydra.job.config_name))
        log.error("trial %d failed: %s", trial.number, reason or one_line(error), exc_info=reason is None)
        trial = trial._replace(state=FAILED, error=reason or f"{type(error).__name__}: {one_line(error)}")
    except BaseException:
        write_trial(trial._replace(state=STOPPED, seconds=time.perf_counter() - started), folder)
        raise
    write_trial(trial._replace(seconds=time.perf_counter() - started), folder)
    refresh_report(hydra, wanted, config.sweep.metrics)
    if trial.state == PRUNED:
        _tell_pruned(trial)
    return value


def optimized(metrics: Mapping[str, float], wanted: str | ListConfig) -> Any:
    """The value of a metric, or the list of several.

    Raises:
        UserError: a metric that the run does not have, with the nearest that it has; one that is not a number.
    """
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in metrics:
            nearest = difflib.get_close_matches(name, metrics, n=1, cutoff=0.0)
            hint = f"did you mean {nearest[0]}? It has {', '.join(sorted(metrics))}" if nearest else "it has none"
            raise UserError(f"optimized_metric={name}: the run has no such metric; {hint}")
        if not math.isfinite(metrics[name]):
            raise UserError(f"{name} is {metrics[name]}: training diverged; a lower learning rate may help")
    values = [float(metrics[name]) for name in names]
    return values[0] if isinstance(wanted, str) else values


def _tell_pruned(trial: Trial) -> None:
    """In the words of Optuna, as its sweeper expects it."""
    from optuna import TrialPruned

    raise TrialPruned(f"trial {trial.number} was {trial.error}")


def _place(config: DictConfig, folder: Path) -> None:
    """The trial's own folder; what trials share keeps its place."""
    with open_dict(config):
        if "base_dir" in config:
            config.base_dir = str(config.base_dir)
        config.run_dir = str(folder)
        if "resume" in config and config.resume is None:
            config.resume = "auto"


def _choice(group: str) -> str:
    return str(HydraConfig.get().runtime.choices.get(group))


def _shown(folder: Path) -> str:
    """Relative to the working folder where it lies in it."""
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
