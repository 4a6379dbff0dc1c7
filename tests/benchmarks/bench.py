"""Every benchmark against its peer, in float32 and bf16, and the tables of BENCHMARKS.md.

    make peers bench
    python tests/benchmarks/bench.py --only ppo_full_fp32 [--peers .peers] [--runs 5]

A row is a ratio of two medians of one run, in which both sides take turns (``duel.py``). Without --only all rows are
measured and --write gives the file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import generation
import ppo_iteration
import reward
import sft
import torch
from document import document
from machine import machine, versions

HERE = Path(__file__).parent
DTYPES = ("fp32", "bf16")


class Row(NamedTuple):
    """What is compared: a benchmark's contestants ``ours`` and ``theirs``, and the least ratio wanted in each dtype.

    ``peer`` is the folder of the peer's environment; ``None`` is that of this package.
    """

    work: str
    command: tuple[str, ...]
    peer: str | None
    ours: str
    theirs: str
    targets: tuple[float | None, float]  # None: there is no such row
    settings: tuple[str, ...] = ()
    bf16_settings: tuple[str, ...] = ()
    bf16_options: tuple[str, ...] = ()
    runs: int = 1  # times those asked for; lengths that are drawn want more


PPO, SFT = "PPO iteration, 5.6M Llama, 64 episodes", "SFT, examples of 16 to 512 tokens, packs of 512"
RM = "reward training, K = 9, prompt 128, completions 48"
FROZEN = ("model.frozen_dtype=bf16",)  # as the peer's reference and reward model
# Of both sides: on a CPU torch's fused attention is slower in bf16 than plain products at these lengths.
EAGER = ("--attention", "eager")
# All sides of PPO share a run, those that are compiled where there is a compiler.
COMPILES = ("--compile",) if shutil.which(os.environ.get("CXX", "g++")) else ()
PPO_COMMANDS = {
    "full": ("ppo_iteration.py", "--ending", "never", *COMPILES),
    "short": ("ppo_iteration.py", "--ending", "short", *COMPILES),
}
ROWS = {
    **{
        f"ppo_{ending}{suffix}": Row(
            f"{PPO}, responses of {words}{said}",
            PPO_COMMANDS[ending],
            "trl-1.12.0",
            ours,
            theirs,
            targets if theirs == ppo_iteration.PEER else (None, targets[1]),
            bf16_settings=FROZEN,
            bf16_options=EAGER,
            runs=1 if ending == "full" else 2,
        )
        for suffix, said, ours, theirs in (
            ("", "", ppo_iteration.OURS, ppo_iteration.PEER),
            ("_lean", ", lean", ppo_iteration.LEAN, ppo_iteration.PEER),
            ("_compiled", ", compiled passes", ppo_iteration.COMPILED, ppo_iteration.PEER),
            ("_as_it_comes", ", against PPOTrainer as it comes", ppo_iteration.OURS, ppo_iteration.AS_IT_COMES),
            (
                "_compiled_as_it_comes",
                ", compiled passes, against PPOTrainer as it comes",
                ppo_iteration.COMPILED,
                ppo_iteration.AS_IT_COMES,
            ),
        )
        if COMPILES or ours != ppo_iteration.COMPILED
        for ending, words, targets in (
            ("full", "full 64 tokens", (1.35, 3.0)),
            ("short", "about 20 of 64 tokens", (3.2, 5.0)),
        )
    },
    "generation": Row(
        "generation alone, 64 prompts, about 20 of 64 tokens",
        ("generation.py", "--ending", "short"),
        None,
        ppo_iteration.OURS,
        generation.PEER,
        (2.5, 3.0),
        runs=2,
    ),
    "reward_plain": Row(RM, ("reward.py",), "trl-1.16.0", reward.PLAIN, reward.PEER, (6.0, 6.0)),
    "reward_shared": Row(
        f"{RM}, prompt read once", ("reward.py",), "trl-1.16.0", reward.SHARED, reward.PEER, (15.0, 15.0)
    ),
    "sft_packing": Row(f"{SFT}, against packing", ("sft.py",), "trl-1.16.0", sft.OURS, sft.PACKED, (1.1, 1.1)),
    "sft_padding": Row(f"{SFT}, against padding", ("sft.py",), "trl-1.16.0", sft.OURS, sft.PADDED, (3.5, 3.5)),
}
SCALING = (64, 256, 1024)
# To see in a minute that everything runs.
SMALL = {
    "ppo_iteration.py": ["--episodes", "8", "--minibatch", "4", "--max-new-tokens", "16"],
    "generation.py": ["--episodes", "8"],
    "reward.py": ["--completions", "3", "--prompt", "8", "--completion", "4", "--peer-pairs", "3"],
    "sft.py": ["--count", "32", "--batch", "16", "--longest", "64"],
}


def measure(arguments: argparse.Namespace, command: list[str]) -> dict[str, Any] | None:
    """The figures of a benchmark, whose tables are printed as they come; ``None`` if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        if arguments.small:
            command = [*command, "--size", "64", "32", "48", "2", "2", *SMALL[command[0]]]
        whole = [sys.executable, str(HERE / command[0]), *command[1:], "--threads", str(arguments.threads)]
        print(f"$ python tests/benchmarks/{' '.join(command)}", flush=True)
        done = subprocess.run([*whole, "--json", str(path)], check=False)
        return json.loads(path.read_text(encoding="utf-8")) if done.returncode == 0 else None


def command_of(row: Row, dtype: str, arguments: argparse.Namespace) -> list[str]:
    """The command line of a row's benchmark. Rows with the same one share its run."""
    python = sys.executable if row.peer is None else str(arguments.peers / row.peer / "bin/python")
    found = [*row.command, "--dtype", dtype, "--runs", str(row.runs * arguments.runs), "--peer", python]
    found += row.bf16_options if dtype == "bf16" else ()
    settings = [*row.settings, *(row.bf16_settings if dtype == "bf16" else ())]
    return [*found, "--set", *settings] if settings else found


def compare(row: Row, dtype: str, figures: dict[str, Any] | None) -> dict[str, Any]:
    """A row of the table."""
    found: dict[str, Any] = {"work": row.work, "dtype": dtype, "target": row.targets[DTYPES.index(dtype)]}
    if figures is None:
        return found
    for side, name in (("ours", row.ours), ("theirs", row.theirs)):
        spent = figures["seconds"][name]
        found[side] = (statistics.median(spent), min(spent), max(spent))
    lengths = figures.get("mean_lengths")
    lengths = lengths and (lengths[row.ours], lengths[row.theirs])
    return found | {"ratio": found["theirs"][0] / found["ours"][0], "peer": row.theirs, "lengths": lengths}


def phases_of(side: str, figures: dict[str, Any] | None) -> Any:
    """The table of phases of a row's own side."""
    found = (figures or {}).get("phases")
    return {side: found[side]} if isinstance(found, dict) else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [
        f"{name}_{dtype}"
        for name, row in ROWS.items()
        for dtype, target in zip(DTYPES, row.targets, strict=True)
        if target is not None
    ]
    parser.add_argument("--only", nargs="+", choices=[*names, "scaling"], help="these rows")
    parser.add_argument("--peers", type=Path, default=Path(".peers"), help="folder of the peers' environments")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each side; twice as many of some rows")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="tiny models and batches: does everything run?")
    parser.add_argument("--write", type=Path, help="a Markdown file for the tables")
    arguments = parser.parse_args()
    if arguments.small and arguments.write:
        parser.error("--small measures nothing that is worth writing down")
    wanted = arguments.only or [*names, "scaling"]
    environments = {"this package": sys.executable} | {
        peer: str(arguments.peers / peer / "bin/python")
        for peer in sorted({row.peer for row in ROWS.values()} - {None})
    }
    missing = [python for python in environments.values() if not Path(python).exists()]
    if missing and wanted != ["scaling"]:
        raise SystemExit(f"no {', '.join(missing)}: run `make peers`, or give their folder with --peers")
    told = machine(arguments.threads)
    told |= {f"versions, {name}": versions(python) for name, python in environments.items() if Path(python).exists()}
    measured: dict[tuple[str, ...], dict[str, Any] | None] = {}
    rows: dict[str, dict[str, Any]] = {}
    told_of: set[tuple[str, ...]] = set()
    for name in wanted:
        if name == "scaling":
            continue
        stem, _, dtype = name.rpartition("_")
        command = command_of(ROWS[stem], dtype, arguments)
        if tuple(command) not in measured:
            measured[tuple(command)] = measure(arguments, command)
        figures = measured[tuple(command)]
        rows[name] = compare(ROWS[stem], dtype, figures)
        if (*command, ROWS[stem].ours) not in told_of:  # a side that two rows compare is told of once
            told_of.add((*command, ROWS[stem].ours))
            rows[name]["phases"] = phases_of(ROWS[stem].ours, figures)
    scaling = None
    if "scaling" in wanted:
        sizes = [str(size // 8 if arguments.small else size) for size in SCALING]
        scaling = measure(arguments, ["ppo_iteration.py", "--scaling", *sizes, "--runs", str(arguments.runs)])
    failed = [name for name, row in rows.items() if "ratio" not in row]
    text = document(rows, scaling, told, runs=arguments.runs)
    print(text)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    if failed or ("scaling" in wanted and scaling is None):
        raise SystemExit(f"failed: {', '.join(failed) or 'scaling'}")


if __name__ == "__main__":
    main()
