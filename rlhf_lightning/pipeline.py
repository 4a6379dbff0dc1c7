"""``rlhf-pipeline``: every stage from a base model to the report."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from rlhf_lightning.arguments import check_arguments, nearest
from rlhf_lightning.cli import command_line, reported, require_values, run_script
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.report import write_report
from rlhf_lightning.evaluation.table import print_table
from rlhf_lightning.fingerprints import TRAINING_CODE, step_hash, texts
from rlhf_lightning.seeds import run_seeds
from rlhf_lightning.separate_run import METRICS, check_one_node, has_processes, train_separately
from rlhf_lightning.train import check_combination, quieten, train_stage
from rlhf_lightning.trials import run_trial

log = logging.getLogger(__name__)
console = Console()
DONE = "step.json"


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
        done = _done(name, step, folder)
        seconds[name] = done["seconds"]
        if "module" in step:
            curves[name] = folder / "csv" / "metrics.csv"
            training[name] = _settings(step)
            data[name] = _read(folder / "data.json") or {}
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
        except UserError as error:
            raise UserError(f"steps.{name}: {error}") from error
        if has_processes(step):
            check_one_node(f"steps.{name}", step)


def check_inputs(config: DictConfig, name: str) -> None:
    """Refuse a step that reads the output of one that was left out. A model that is not there is only not compared.

    Raises:
        UserError: names both steps.
    """
    step = OmegaConf.to_container(config.steps[name], resolve=False)
    if isinstance(step, dict):
        step.pop("models", None)
    for text in texts(step):
        for needed in re.findall(r"\$\{outputs\.(\w+)\}", text):
            if config.outputs.get(needed) is None:
                raise UserError(f"the step {name} needs the output of {needed}, which is left out; skip both or none")


def step_folder(config: DictConfig, name: str) -> Path:
    """The folder of a step, named by what it depends on."""
    resolved = OmegaConf.to_container(config.steps[name], resolve=True)
    code = TRAINING_CODE if "module" in config.steps[name] else (*TRAINING_CODE, "evaluation")
    assert isinstance(resolved, dict)
    # Keys of a config are texts.
    digest = step_hash(resolved, Path(config.base_dir), code=code)  # type: ignore[arg-type]
    return Path(config.base_dir) / "steps" / f"{name}-{digest}"


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


def _done(name: str, step: DictConfig, folder: Path) -> dict[str, Any]:
    """What a step left, after it has run if it had not; trials of a sweep that run at once share its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        done = _read(folder / DONE)
        if done is not None:
            console.print(f"[bold]{name}[/bold] [dim]kept · {folder}[/dim]", soft_wrap=True)
            return done
        console.print(f"[bold]{name}[/bold]")
        done = run_step(step, folder)
        console.print(f"  {_shown(done['metrics'])} [dim]{done['seconds']:.0f} s · {folder}[/dim]", soft_wrap=True)
        return done


def run_step(step: DictConfig, folder: Path) -> dict[str, Any]:
    """Run one step in its folder and mark it done. A stage that trains with several processes is a command of its own;
    everything else happens in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    if "module" in step:
        with open_dict(step):
            step.run_dir = str(folder)
            step.resume = "auto"
        metrics: Any = train_separately(step, folder.name) if has_processes(step) else train_stage(step)
    else:
        metrics = instantiate(step, out=folder) or {}
    done = {"metrics": metrics, "seconds": round(time.perf_counter() - started, 2)}
    partial = folder / f".{DONE}.partial"
    partial.write_text(json.dumps(done, indent=1))
    os.replace(partial, folder / DONE)
    return done


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def _settings(step: DictConfig) -> dict[str, Any]:
    """The numbers and switches of a stage, for the model card."""
    found: dict[str, Any] = {}
    for part in ("module", "data", "trainer"):
        values = OmegaConf.to_container(step[part], resolve=True)
        assert isinstance(values, dict)
        found |= {f"{part}.{k!s}": v for k, v in values.items() if isinstance(v, bool | int | float)}
    return found


def _shown(metrics: dict[str, Any]) -> str:
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
    wanted = [k for k in numbers if k.startswith("val/") or "/" not in k or k in ("train/loss", "rollout/score")]
    return " · ".join(f"{name} {numbers[name]:.4g}" for name in sorted(wanted))


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
