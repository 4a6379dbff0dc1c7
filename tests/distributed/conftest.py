"""Starting a few processes that train together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("worker.py")
WORDS = ("cat", "dog", "sun", "rain", "tree", "boat", "a bird", "the old man", "red", "is it big?", "go!", "sea")


def start(world: int, plan: list[dict[str, Any]], out: Path) -> list[subprocess.Popen[str]]:
    """Start ``world`` processes on a plan; see worker.py."""
    out.mkdir(parents=True, exist_ok=True)
    plans = out / f"plan-{world}-{plan[0]['name']}.json"
    plans.write_text(json.dumps(plan))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(plans), str(out)],
            # What Lightning reads of a launcher that makes one process for each device.
            env=os.environ | own | {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"},
            cwd=out,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def finish(processes: list[subprocess.Popen[str]], *, limit: float = 240) -> None:
    """Wait for all; one that fails is shown."""
    try:
        errors = [process.communicate(timeout=limit)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    failed = [error[-3000:] for process, error in zip(processes, errors, strict=True) if process.returncode]
    assert not failed, "\n\n".join(failed)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, write_rows: Callable[..., dict[str, str]]) -> dict[str, str]:
    """Data of every stage, with lengths that differ much."""
    folder = tmp_path_factory.mktemp("distributed")
    answers = ["yes", "no, not at all", "maybe. ask again", "a"]
    ranks = [[1, 2], [2, 1, 3], [1, 1, 2, 3], [1, 1], [3, 2, 1], [4, 3, 2, 1]]
    prompts = [f"{a} {b}" for a in WORDS for b in WORDS[:3]]
    rows: dict[str, list[dict[str, Any]]] = {
        "demonstrations": [{"prompt": p, "response": answers[i % 4] * (1 + i % 3)} for i, p in enumerate(prompts)],
        "held_out": [{"prompt": p, "response": answers[i % 4]} for i, p in enumerate(prompts[:13])],
        "comparisons": [
            {
                "prompt": p,
                "responses": [f"{a} {p}"[: 3 + i % 9] + str(n) * 0 + "!" * n for n, a in enumerate(answers)][
                    : len(ranks[i % 6])
                ],
                "ranks": ranks[i % 6],
            }
            for i, p in enumerate(prompts)
        ],
        "prompts": [{"prompt": p} for p in prompts],
        "validation": [{"prompt": p} for p in prompts[:6]],
        "text": [{"text": f"{p} and {p}."} for p in prompts],
    }
    return write_rows(folder, rows)


Loaded = Callable[..., Any]
STRATEGIES = ("ddp", "fsdp2")
ADAPTER = {"rank": 4, "alpha": 8.0}
ON_ONE_BASE = {"lora": ADAPTER, "roles": "shared"}
STAGES: dict[str, dict[str, Any]] = {
    "sft": {"model": "gpt2"},
    "packed": {"model": "llama"},
    "reward": {"model": "llama"},
    "ppo": {"model": "gpt2"},
}
ADAPTED: dict[str, dict[str, Any]] = {
    "sft-lora": {"model": "gpt2", "lora": ADAPTER},
    "reward-lora": {"model": "llama", "lora": ADAPTER},
    "ppo-lora": {"model": "gpt2", "lora": ADAPTER},
    "ppo-shared": {"model": "llama", **ON_ONE_BASE},
}
EXPORTED = ("reward-lora", "ppo-shared")
# What one process takes for what two do; with how both go about it.
SAVED = {"auto": "ddp", "fsdp2": "fsdp2", "fsdp2-shared": "fsdp2-shared"}
SURVIVORS: dict[str, dict[str, Any]] = {
    "auto": {"strategy": "auto"},
    "ddp": {"strategy": "ddp"},
    "fsdp2": {"strategy": "fsdp2"},
    "fsdp2-shared": {"strategy": "fsdp2", **ON_ONE_BASE},
}


@pytest.fixture(scope="session")
def launch() -> Callable[..., None]:
    """Run a plan on so many processes and wait for them."""
    return lambda world, plan, out, limit=240: finish(start(world, plan, out), limit=limit)


@pytest.fixture(scope="session")
def plan(causal_lm_folders: dict[str, Path], files: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """A step of a plan on one of the tiny models."""

    def make(name: str, scenario: str, strategy: str, *, model: str = "llama", **options: Any) -> dict[str, Any]:
        own = {"name": name, "scenario": scenario, "strategy": strategy}
        return own | {"model": str(causal_lm_folders[model]), "files": files} | options

    return make


@pytest.fixture(scope="session")
def trained(
    plan: Callable[..., dict[str, Any]],
    reward_model_folders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Loaded:
    """Every stage trained by one process and by two, ``trained(name, rank)``; four launches for all tests."""
    out = tmp_path_factory.mktemp("trained")

    def run(stage: str, strategy: str, options: dict[str, Any]) -> dict[str, Any]:
        name = f"{stage}-{strategy if strategy != 'auto' else 'one'}"
        if stage in EXPORTED:
            options = options | {"folder": str(out / "folders" / name)}
        return plan(name, stage.split("-")[0], strategy, **options)

    def survivor(name: str, how: str, folder: Path, **options: Any) -> dict[str, Any]:
        return plan(f"{name}-{how}", "resumable", folder=str(folder), **SURVIVORS[how], **options)

    alone = [run(stage, "auto", options) for stage, options in (STAGES | ADAPTED).items()]
    alone += [plan("memory-one", "memory", "auto", model="gpt2")]
    alone += [survivor("saved-by-one", how, out / f"one-{how}", crash=3) for how in SAVED]
    together = [plan(f"staggered-{strategy}", "staggered", strategy) for strategy in STRATEGIES]
    together += [run(stage, strategy, options) for strategy in STRATEGIES for stage, options in STAGES.items()]
    together += [run(stage, "fsdp2", options) for stage, options in ADAPTED.items()]
    for how in SAVED.values():
        together += [
            survivor("straight", how, out / f"two-{how}-straight"),
            survivor("saved-by-two", how, out / f"two-{how}", crash=3),
            survivor("resumed", how, out / f"two-{how}", resume=True),
        ]
    together += [plan(f"{name}-fsdp2", name, "fsdp2", model="gpt2") for name in ("memory", "traffic")]
    together += [plan(f"{name}-shared", name, "fsdp2", model="gpt2", **ON_ONE_BASE) for name in ("memory", "traffic")]
    scored = {"model": "gpt2", "reward": str(reward_model_folders["gpt2"])}
    alone += [plan("scored-one", "memory", "auto", **scored)]
    together += [plan("scored-fsdp2", "memory", "fsdp2", **scored)]
    finish([*start(1, alone, out / "all"), *start(2, together, out / "all")], limit=480)
    # Each goes on from what the other number of processes left.
    fewer = [survivor("two-to-one", how, out / f"two-{SAVED[how]}", resume=True, iterations=5) for how in SAVED]
    more = [survivor("one-to-two", SAVED[how], out / f"one-{how}", resume=True) for how in SAVED]
    finish([*start(1, fewer, out / "all"), *start(2, more, out / "all")])

    def load(name: str, rank: int = 0) -> Any:
        return torch.load(out / "all" / f"{name}.{rank}.pt", weights_only=False)

    return load
