"""A stage of training as a command of its own.

Lightning starts the other processes of a run by giving this process's command once more. Where that is not
``rlhf-train``, the stage needs a process that has it: in a pipeline, and in a job that submitit runs on this machine.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from omegaconf import DictConfig, OmegaConf

from rlhf_lightning.cli import environment_of_user, runs_script
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules.checkpoints import REQUEUE
from rlhf_lightning.parent import start_child

METRICS = "metrics.json"
"""A run's last metrics, in its folder."""

COMMAND = ".command"
SUBMITIT = "SUBMITIT_EXECUTOR"
PATIENCE = 60.0  # seconds for a run to leave by itself after Ctrl-C, which reaches it as well


def has_processes(config: DictConfig) -> bool:
    """Whether a stage may train with more than one process."""
    trainer = config.trainer
    return trainer.get("devices", 1) not in (1, "1") or trainer.get("num_nodes", 1) != 1


def check_one_node(where: str, config: DictConfig) -> None:
    """Refuse a stage whose processes would not all be started here.

    Args:
        where: of the config, for the message.
        config: of the stage.

    Raises:
        UserError: the stage wants several nodes, or a launcher has started several processes.
    """
    if config.trainer.get("num_nodes", 1) != 1:
        raise UserError(
            f"{where}.trainer.num_nodes={config.trainer.num_nodes}: a pipeline starts the processes of its steps on "
            "one node; run the stages by themselves with rlhf-train"
        )
    launched = TorchElasticEnvironment.detect() or (SLURMEnvironment.detect() and SLURMEnvironment().world_size() > 1)
    if launched:
        raise UserError(
            f"{where}.trainer.devices={config.trainer.devices}: a pipeline starts the processes of its steps itself; "
            "start it once (under SLURM in one task that has all devices of the node), without torchrun"
        )


def train_separately(config: DictConfig, name: str) -> dict[str, float]:
    """Train the stage that ``config`` describes as a command of its own; returns its last metrics.

    The command prints to where this process prints. SIGTERM is handed on to it, and this process then leaves with the
    same code. If this process is killed, the command saves and leaves.

    Args:
        config: what :func:`~rlhf_lightning.train.train_stage` takes.
        name: of the stage, for the message.

    Raises:
        UserError: the command failed; it has said why.
    """
    run_dir = Path(config.run_dir).resolve()
    folder = run_dir / COMMAND
    folder.mkdir(parents=True, exist_ok=True)
    (run_dir / METRICS).unlink(missing_ok=True)
    own: Any = _literal(OmegaConf.to_container(config, resolve=True))
    hydra = {"run": {"dir": str(run_dir)}, "output_subdir": None, "job": {"chdir": False}}
    places: Any = _literal({"run_dir": str(run_dir), "hydra": hydra})
    OmegaConf.save(OmegaConf.create({**own, **places}), folder / "step.yaml")
    command = [sys.executable, "-m", "rlhf_lightning.train", "--config-dir", str(folder), "--config-name", "step"]
    code = _finished(start_child(command, _environment()))
    if code in (REQUEUE, -signal.SIGTERM):
        raise SystemExit(REQUEUE)
    if code == 130:
        raise KeyboardInterrupt
    if code:
        ended = f"was ended by signal {-code}" if code < 0 else f"left with code {code}"
        raise UserError(f"{name} {ended}; what its processes said of it stands above this line")
    metrics: dict[str, float] = json.loads((run_dir / METRICS).read_text())
    return metrics


def check_job(resume: str | None) -> None:
    """Refuse a job of submitit that could not go on when it is started again.

    Raises:
        UserError: ``resume`` is ``None``.
    """
    if SUBMITIT in os.environ and resume is None:
        raise UserError(
            "resume=null: the job may be started again, and would then begin anew; give resume=auto and a run_dir"
        )


def in_foreign_job() -> bool:
    """Whether this process is a launcher's, whose command is not ``rlhf-train``, and that starts its processes itself:
    a job that submitit runs on this machine, or a worker of joblib."""
    return os.environ[SUBMITIT] == "local" if SUBMITIT in os.environ else not runs_script()


def _literal(node: Any) -> Any:
    """A resolved config whose texts are read back as they are: a ``${`` that is left in one is meant so."""
    if isinstance(node, dict):
        return {key: _literal(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_literal(value) for value in node]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", node) if isinstance(node, str) else node


def _environment() -> dict[str, str]:
    given = {name: value for name, value in environment_of_user().items() if name != SUBMITIT}
    if "SLURM_NTASKS" in given:
        given["SLURM_JOB_NAME"] = "interactive"  # else Lightning waits for SLURM to start the other processes
    return given


def _finished(run: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a run, whose code this is."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: run.terminate()) if in_main else None
    try:
        return run.wait()
    except BaseException as leaving:
        if isinstance(leaving, KeyboardInterrupt):
            _wait(run)
        run.terminate()  # it saves and leaves
        _wait(run)
        run.kill()
        raise
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _wait(run: subprocess.Popen[bytes]) -> None:
    try:
        run.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return
