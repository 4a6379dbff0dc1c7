"""A Hydra app whose job takes no time: what a study of Optuna asks of it is written down, a line a start and an end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra_plugins.rlhf_lightning import OptunaSweeper
from omegaconf import DictConfig

Plugins.instance().register(OptunaSweeper)
CONFIG = {
    "defaults": ["_self_"],
    "x": 0.0,
    "seconds": 0.0,
    "fail": [],
    "hydra": {"searchpath": ["pkg://rlhf_lightning.sweeps"], "sweep": {"dir": "sweep"}, "output_subdir": None},
}
ConfigStore.instance().store(name="quick", node=CONFIG)


@hydra.main(version_base="1.3", config_path=None, config_name="quick")
def app(config: DictConfig) -> float:
    """The distance from 1."""
    number = HydraConfig.get().job.num
    with Path("starts.txt").open("a") as file:
        file.write(f"{number} {os.getpid()} {config.x}\n")
    time.sleep(config.seconds)
    if number in config.fail:
        raise RuntimeError("this one fails")
    with Path("ends.txt").open("a") as file:
        file.write(f"{number}\n")
    return float((config.x - 1) ** 2)


if __name__ == "__main__":
    app()
