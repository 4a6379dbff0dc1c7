"""The options that all benchmarks of a stage share."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import worlds


def parser(description: str | None) -> argparse.ArgumentParser:
    """With --dtype, --runs, --threads, --peer, --compile, --set, --size, --folder and --json."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="bf16: trainer.precision=bf16-mixed")
    made.add_argument("--runs", type=int, default=5, help="counted ones; one before them is not counted")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--peer", help="the Python of the peer's environment (make peers); runs alternate with ours")
    made.add_argument("--compile", action="store_true", help="our side with compiled_passes; of PPO one more side")
    made.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the configuration of our side")
    size, default = ("VOCABULARY", "WIDTH", "INNER", "LAYERS", "HEADS"), list(worlds.Size())
    made.add_argument("--size", type=int, nargs=5, default=default, metavar=size, help="of the models that are made")
    made.add_argument("--folder", type=Path, help="where the work is written; default: a temporary folder")
    made.add_argument("--json", type=Path, help="a file for the figures")
    return made


@contextlib.contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """The folder that was asked for, or one for this benchmark alone."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def lines(path: str | Path) -> int:
    """Rows of a file."""
    return len(Path(path).read_text(encoding="utf-8").splitlines())
