"""A stage of this package as a process that takes turns: ``rlhf-train`` itself, without its reports and checkpoints.

Given a file of settings as JSON: stage, overrides (of the configuration, as on the command line), callbacks (one of
``phases.py`` among them), threads.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf, open_dict

from rlhf_lightning.train import train_stage

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def main() -> None:
    settings: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    quiet = ["trainer.enable_progress_bar=false", f"trainer.precision={PRECISIONS[settings['dtype']]}"]
    with tempfile.TemporaryDirectory() as folder:
        # What a run prepares of its data is not kept from one benchmark to the next.
        os.environ.setdefault("HF_DATASETS_CACHE", f"{folder}/cache")
        overrides = [f"stage={settings['stage']}", f"run_dir={folder}/run", *quiet, *settings["overrides"]]
        with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
            config = compose("train", overrides=overrides)
        with open_dict(config):
            config.callbacks = OmegaConf.create(settings["callbacks"])
            config.logger = {}
            config.trainer.enable_checkpointing = False
        train_stage(config)


if __name__ == "__main__":
    main()
