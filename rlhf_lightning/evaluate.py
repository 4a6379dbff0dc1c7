"""``rlhf-evaluate``: the paper's automatic evaluations of one or several models, from local files."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from rlhf_lightning.cli import command_line, reported, require_values, run_script
from rlhf_lightning.evaluation.benchmarks import write_benchmark_report
from rlhf_lightning.train import quieten

_PACKAGES = ("rlhf-lightning", "torch", "transformers")


@hydra.main(version_base="1.3", config_path="pkg://rlhf_lightning.conf", config_name="evaluate")
@reported
def _app(config: DictConfig) -> Any:
    require_values(config)
    quieten()
    report = instantiate(config.evaluate, out=config.out)
    report["command"] = command_line("rlhf-evaluate")
    report["versions"] = {name: importlib.metadata.version(name) for name in _PACKAGES}
    page = write_benchmark_report(report, config.out)
    Console().print(f"Report: {page}", soft_wrap=True)


def main() -> None:
    """Console script."""
    # The names of models are the user's, and Hydra takes keys that a config has not only with a sign.
    sys.argv[1:] = [f"++{argument}" if argument.startswith("models.") else argument for argument in sys.argv[1:]]
    run_script(_app, name="rlhf-evaluate", config_name="evaluate", example="benchmarks=[crows_pairs]")


if __name__ == "__main__":
    main()
