"""A pipeline for several seeds, and what holds over all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, ListConfig
from rich.console import Console

from rlhf_lightning.cli import command_line
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import write_claims


def run_seeds(config: DictConfig, run_pipeline: Callable[[DictConfig], Path]) -> Path:
    """The whole pipeline for each of ``config.seeds``, in ``run_dir/seed-N``, and the table of the paper's claims over
    all of them; returns the table's path.

    Raises:
        UserError: a seed that is given twice or is no whole number, and what ``run_pipeline`` raises.
    """
    console = Console()
    seeds = list(config.seeds) if isinstance(config.seeds, ListConfig) else [config.seeds]
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int for seed in seeds):
        raise UserError(f"seeds={config.seeds} must be different whole numbers, such as [0,1,2]")
    folders = {}
    for seed in seeds:
        console.rule(f"seed {seed}")
        one = copy.deepcopy(config)
        one.seed, one.seeds, one.run_dir = seed, None, str(Path(config.run_dir) / f"seed-{seed}")
        report = run_pipeline(one)
        if report.suffix == ".md":
            folders[seed] = report.parent
    if not folders:
        return Path(config.run_dir)
    page = write_claims(folders, config.run_dir, command=command_line("rlhf-pipeline"))
    console.print(f"Claims: {page}", soft_wrap=True)
    return page
