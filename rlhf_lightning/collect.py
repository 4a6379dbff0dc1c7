"""``rlhf-collect``: rankings of sampled responses, for a reward model to train on."""

from __future__ import annotations

import logging
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from rlhf_lightning.cli import reported, require_values, run_script
from rlhf_lightning.models import choose_cpu_matmul
from rlhf_lightning.train import quieten

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="pkg://rlhf_lightning.conf", config_name="collect")
@reported
def _app(config: DictConfig) -> Any:
    require_values(config)
    quieten()
    choose_cpu_matmul()
    summary = instantiate(config.collect, out=config.out)
    log.info("%s", ", ".join(f"{name}: {value}" for name, value in summary.items()))


def main() -> None:
    """Console script."""
    folder = "runs/collect/${now:%Y-%m-%d_%H-%M-%S}"
    run_script(_app, name="rlhf-collect", config_name="collect", example="labeler=vader", own_folder=folder)


if __name__ == "__main__":
    main()
