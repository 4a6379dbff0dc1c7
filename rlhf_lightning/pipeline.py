"""``rlhf-pipeline``: every stage from a base model to the report."""

from __future__ import annotations

import json
import logging
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from rlhf_lightning.arguments import check_arguments, nearest
from rlhf_lightning.cli import command_line, reported, require_values, run_script
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.report import write_report
from rlhf_lightning.evaluation.table import print_table
from rlhf_lightning.seeds import run_seeds
from rlhf_lightning.separate_run import METRICS, check_one_node, has_processes
from rlhf_lightning.sizes import check_sizes
from rlhf_lightning.steps import DONE, check_inputs, finished_step, read_json, step_folder
from rlhf_lightning.train import check_combination, quieten
from rlhf_lightning.trials import run_trial

log = logging.getLogger(__name__)
console = Console()


def run_pipeline(config: DictConfig) -> Path:
    """Run the steps of ``config.steps`` that are not done yet, then write the report; returns the report's path
    (without a step `evaluate`, the folder).

    Each step has a folder of its own, ``base_dir/steps/NAME-HASH``, and is done when ``step.json`` is there. A step
    that was stopped goes on from its newest checkpoint; one that another process is at is waited for. The metrics of
    all steps are written to ``run_dir/metrics.json``.

    Raises:
        UserError: what :func:`~rlhf_lightning.train.train_stage` or a step raises; a value that is missing.
    """
    run_dir = Path(config.run_dir)
    started = time.perf_counter()
    seconds: dict[str, float] = {}
    curves: dict[str, Path] = {}
    result: dict[str, Any] = {}
    training: dict[str, dict[str, Any]] = {}
    folds: dict[str, Any] = {}
    data: dict[str, dict[str, Any]] = {}
    metrics: dict[str, float] = {}
    require_values(config)
    check_arguments(config.steps, "steps.")
    for key in ("order", "skip"):
        unknown = [name for name in config[key] if name not in config.steps]
        if unknown:
            hint = nearest(unknown[0], config.steps)
            raise UserError(
                f"{key}: there is no step {unknown[0]!r}; {hint + ' ' if hint else ''}the steps are "
                f"{', '.join(config.steps)}"
            )
    check_stages(config)
    if config.dry_run:
        say_steps(config)
        return run_dir
    for name in config.order:
        if config.steps[name] is None or name in config.skip:
            continue
        step = config.steps[name]
        check_inputs(config, name)
        folder = step_folder(config, name)
        done = finished_step(name, step, folder)
        seconds[name] = done["seconds"]
        if "module" in step:
            curves[name] = folder / "csv" / "metrics.csv"
            training[name] = _settings(step)
            data[name] = read_json(folder / "data.json") or {}
        if name == "evaluate":
            result = done["metrics"]
        if name == "folds":
            folds = {"labeler_folds": done["metrics"]}
        metrics |= flat_metrics(name, done["metrics"])
        with open_dict(config.outputs):
            config.outputs[name] = str(folder / "model" if "module" in step else folder)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / METRICS).write_text(json.dumps(metrics, indent=1))
    if not result:
        steps = Path(config.base_dir) / "steps"
        console.print(f"No step evaluated the models: there is no report. Steps: {steps}", soft_wrap=True)
        return run_dir
    report = (
        result
        | folds
        | {
            "seed": config.seed,
            "seconds": {
                **seconds,
                "total": round(sum(seconds.values()), 1),
                "this_call": time.perf_counter() - started,
            },
            "versions": {name: version(name) for name in ("rlhf-lightning", "torch", "lightning", "transformers")},
            "command": command_line("rlhf-pipeline"),
            "training": training,
            "data": data,
            "steps": {name: str(path) for name, path in config.outputs.items() if path is not None},
        }
    )
    write_report(report, run_dir, curves=curves)
    print_table(report, run_dir)
    return run_dir / "report.md"


def say_steps(config: DictConfig) -> None:
    """Print which steps are done and kept, and which would run, in their order."""
    for name in config.order:
        if config.steps[name] is None or name in config.skip:
            continue
        check_inputs(config, name)
        folder = step_folder(config, name)
        state = "kept" if (folder / DONE).is_file() else "would run"
        console.print(f"[bold]{name}[/bold] [dim]{state} · {folder}[/dim]", soft_wrap=True)
        with open_dict(config.outputs):
            config.outputs[name] = str(folder / "model" if "module" in config.steps[name] else folder)
    console.print("dry_run=true: nothing was run")


def check_stages(config: DictConfig) -> None:
    """Refuse stages that cannot train as they are configured, before the first one does.

    Raises:
        UserError: names the step.
    """
    for name in config.order:
        step = config.steps[name]
        if step is None or name in config.skip or "module" not in step:
            continue
        if isinstance(step.strategy, str):
            raise UserError(
                f"steps.{name}.strategy={step.strategy}: a strategy is chosen from its group; "
                f"give strategy@steps.{name}.strategy={step.strategy}"
            )
        try:
            check_combination(step)
            check_sizes(OmegaConf.to_container(step, resolve=True))  # type: ignore[arg-type]  # its keys are texts
        except UserError as error:
            raise UserError(f"steps.{name}: {error}") from error
        if has_processes(step):
            check_one_node(f"steps.{name}", step)


def flat_metrics(name: str, found: dict[str, Any]) -> dict[str, float]:
    """The numbers that a step left, each by one name: ``STEP/METRIC``, of an evaluation ``MODEL/METRIC`` and
    ``reward_model/METRIC``."""
    nodes = {name: found}
    if "models" in found:
        nodes = {**found["models"], "reward_model": found.get("reward_model") or {}}
    return {
        f"{node}/{metric}": float(value)
        for node, values in nodes.items()
        for metric, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _settings(step: DictConfig) -> dict[str, Any]:
    """The numbers and switches of a stage, for the model card."""
    found: dict[str, Any] = {}
    for part in ("module", "data", "trainer"):
        values = OmegaConf.to_container(step[part], resolve=True)
        assert isinstance(values, dict)
        found |= {f"{part}.{k!s}": v for k, v in values.items() if isinstance(v, bool | int | float)}
    return found


@hydra.main(version_base="1.3", config_path="pkg://rlhf_lightning.conf", config_name="pipeline")
@reported
def _app(config: DictConfig) -> Any:
    quieten()
    if config.seeds is not None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise UserError(f"seeds={list(config.seeds)} in a sweep: sweep over seed instead, seed=0,1,2")
        run_seeds(config, run_pipeline)
        return None
    return run_trial(_run, config)


def _run(config: DictConfig) -> dict[str, float]:
    run_pipeline(config)
    if config.dry_run:
        return {}
    metrics: dict[str, float] = json.loads((Path(config.run_dir) / METRICS).read_text())
    return metrics


def main() -> None:
    """Console script."""
    run_script(_app, name="rlhf-pipeline", config_name="pipeline", example="experiment=quickstart")


if __name__ == "__main__":
    main()
