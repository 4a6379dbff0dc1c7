"""A step of a pipeline: where it lies, what it needs, and its run."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from rlhf_lightning.errors import UserError
from rlhf_lightning.fingerprints import TRAINING_CODE, step_hash, texts
from rlhf_lightning.separate_run import has_processes, train_separately
from rlhf_lightning.train import train_stage

DONE = "step.json"


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


def finished_step(name: str, step: DictConfig, folder: Path) -> dict[str, Any]:
    """What a step left, after it has run if it had not; trials of a sweep that run at once share its folder."""
    console = Console()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        done = read_json(folder / DONE)
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


def read_json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def _shown(metrics: dict[str, Any]) -> str:
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
    wanted = [k for k in numbers if k.startswith("val/") or "/" not in k or k in ("train/loss", "rollout/score")]
    return " · ".join(f"{name} {numbers[name]:.4g}" for name in sorted(wanted))
