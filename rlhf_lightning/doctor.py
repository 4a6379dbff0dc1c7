"""``rlhf-doctor``: checks of a model and its data before any training."""

from __future__ import annotations

import functools
import sys
from typing import Any

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_lightning.cli import reported, require_values, run_script
from rlhf_lightning.diagnosis import Finding, diagnose, plan_of
from rlhf_lightning.doctor_plan import print_plan
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import load_scalar_model
from rlhf_lightning.planning import MemoryPlan, gigabytes, peak_line
from rlhf_lightning.train import quieten

STYLES = {"pass": "green", "fail": "bold red", "skip": "dim"}


def examine_config(config: DictConfig) -> tuple[list[Finding], MemoryPlan | None]:
    """The findings on the model that ``config`` (``conf/doctor.yaml``, composed) names, and its memory plan.

    Raises:
        UserError: a value that is needed and missing, an unknown accelerator.
    """
    rows = config.get("data")
    if rows is not None and OmegaConf.is_missing(rows, "iterations"):
        rows.iterations = 1  # of a run that does not take place
    require_values(config)
    policy = instantiate(config.model)
    reward = None if config.reward is None else _reward(policy, config.reward)
    plan = functools.cache(
        lambda: plan_of(policy, reward=config.reward, optimizer=instantiate(config.optimizer), **config.run)
    )
    findings = diagnose(
        policy=policy,
        encoder=lambda: instantiate(config.encoder),
        reward=reward,
        data=None if rows is None else lambda: instantiate(config.data),
        plan=plan,
        device=_device(config.accelerator),
        response_tokens=config.run.new_tokens,
    )
    failed = any(finding.check == "memory" and finding.result == "fail" for finding in findings)
    try:
        return findings, plan()
    except Exception:
        if failed:  # and told there
            return findings, None
        raise


def _reward(policy: Any, folder: str) -> Any:
    """Loads the reward model as the policy is loaded, without an adapter."""
    return functools.partial(
        load_scalar_model, **policy.keywords | {"name": folder, "lora": None, "init": "pretrained"}
    )


def _device(accelerator: str) -> torch.device:
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(f"accelerator={accelerator!r} is none of auto, cpu, gpu")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"accelerator={accelerator}: there is no GPU; take cpu")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def print_findings(findings: list[Finding], plan: MemoryPlan | None, console: Console) -> None:
    """The table of findings, and that of memory by role."""
    table = Table("check", "result", "found, and what to do", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for finding in findings:
        told = Text(finding.found)
        if finding.advice:
            told.append(f"\n→ {finding.advice}", style="bold")
        table.add_row(finding.check, Text(finding.result, style=STYLES[finding.result]), told)
    console.print(table)
    if plan is None:
        return
    columns = ("weights", "gradients", "optimizer", "activations", "cache")
    memory = Table("role", *columns, title=f"\nMemory of {plan.stage} by role", title_justify="left", box=None)
    for role in plan.roles:
        cells = [getattr(role, name) for name in columns]
        memory.add_row(role.role, *(gigabytes(cell) if cell else "" for cell in cells))
    console.print(memory)
    console.print(peak_line(plan))


@hydra.main(version_base="1.3", config_path="pkg://rlhf_lightning.conf", config_name="doctor")
@reported
def _app(config: DictConfig) -> Any:
    quieten()
    if config.plan:
        if not print_plan(config):
            sys.exit(1)
        return
    findings, plan = examine_config(config)
    console = Console()
    print_findings(findings, plan, console if console.is_terminal else Console(width=120))
    counts = {result: sum(finding.result == result for finding in findings) for result in STYLES}
    print(f"\n{counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped")
    if counts["fail"]:
        sys.exit(1)


def main() -> None:
    """Console script."""
    run_script(_app, name="rlhf-doctor", config_name="doctor", example="model.name=MODEL")


if __name__ == "__main__":
    main()
