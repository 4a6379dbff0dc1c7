"""What stands on a command line of Hydra's: flags, their values, and overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

VALUED = {
    "--cfg": "-c",
    "--config-dir": "-cd",
    "--config-name": "-cn",
    "--config-path": "-cp",
    "--experimental-rerun": None,
    "--info": "-i",
    "--package": "-p",
}
"""Hydra's flags that have a value, with their short names."""


def is_override(arguments: Sequence[str], place: int) -> bool:
    """Whether the argument at ``place`` is neither a flag nor the value of one."""
    before = arguments[place - 1] if place else ""
    return not arguments[place].startswith("-") and before not in {*VALUED, *VALUED.values()}


def of_run(arguments: Sequence[str], own_folder: str = "${run_dir}") -> list[str]:
    """The arguments with what ``--config-dir RUN/.hydra`` leaves to say: the name of the config that Hydra has kept
    there, and where the new run's own goes (``own_folder``), which is kept apart from it."""
    for place, argument in enumerate(arguments):
        flag, _, folder = argument.partition("=")
        if flag not in ("--config-dir", "-cd"):
            continue
        width = 1 if folder else 2
        folder = folder or next(iter(arguments[place + 1 :]), "")
        named = any(one.partition("=")[0] in ("--config-name", "-cn") for one in arguments)
        if named or not (Path(folder) / "overrides.yaml").is_file():
            break
        rest = [*arguments[:place], *arguments[place + width :]]
        own = [f"hydra.run.dir={own_folder}", f"hydra.sweep.dir={own_folder}", "hydra.job.chdir=false"]
        # Hydra wants all key=value in one row.
        first = next((at for at in range(len(rest)) if is_override(rest, at)), len(rest))
        return ["--config-dir", folder, "--config-name", "config", *rest[:first], *own, *rest[first:]]
    return list(arguments)
