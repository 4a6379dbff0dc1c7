"""This package's side of a comparison."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from arguments import lines
from duel import Contestant


def stage(
    name: str,
    kind: str,
    arguments: argparse.Namespace,
    overrides: list[str],
    callback: dict[str, Any],
    *,
    compiled: bool = False,
) -> Contestant:
    """``rlhf-train stage=kind`` with a callback of ``phases.py``, and ``compiled_passes`` if asked for; what was given
    with --set comes last."""
    settings = {"stage": kind, "dtype": arguments.dtype, "overrides": [*overrides, *arguments.set]}
    callbacks = {"measure": callback}
    if compiled:
        callbacks["compiled_passes"] = {"_target_": "rlhf_lightning.callbacks.CompiledPasses"}
    return Contestant(name, sys.executable, "ours.py", settings | {"callbacks": callbacks})


def passes(name: str, kind: str, arguments: argparse.Namespace, rows: str, overrides: list[str]) -> Contestant:
    """A stage that trains on a file of rows; one pass over it a run."""
    common = [
        f"data.train={rows}",
        f"data.batch_size={arguments.batch}",
        f"module.learning_rate={arguments.learning_rate}",
        "module.schedule=constant",
        "trainer.max_epochs=100000",
    ]
    callback = {"_target_": "phases.Phases", "every": -(-lines(rows) // arguments.batch)}
    return stage(name, kind, arguments, [*common, *overrides], callback, compiled=arguments.compile)
