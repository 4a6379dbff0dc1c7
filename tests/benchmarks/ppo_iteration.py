"""Seconds per phase and tokens per second of PPO iterations, for any model folder and prompts file.

    python tests/benchmarks/ppo_iteration.py --model FOLDER --prompts prompts.jsonl [--text corpus.jsonl]

The reward is a constant and the value model starts from the policy with a new head, so that a folder of a language
model is all it needs. Phases are timed inside the real training step.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table

from rlhf_lightning.data import Encoder, PromptDataModule
from rlhf_lightning.models import load_causal_lm, load_scalar_model
from rlhf_lightning.modules import PPOModule

TIMED = ("rollout", "score", "evaluate", "advantages")
PHASES = (*TIMED, "update")


class Timer(L.Callback):
    """Wraps the phases of a module and keeps the seconds of each iteration."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.tokens: list[dict[str, int]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for phase in TIMED:
            setattr(pl_module, phase, self._timed(phase, getattr(pl_module, phase)))

    def on_train_batch_start(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        seconds = time.perf_counter() - self._started
        self.seconds["iteration"].append(seconds)
        # What is left is the update: its forward and backward passes and optimizer steps.
        self.seconds["update"].append(seconds - sum(self.seconds[phase][-1] for phase in TIMED))
        trajectory = outputs["trajectory"]
        self.tokens.append(
            {
                "rollout": int(trajectory.response_lengths.sum()),
                "all": int((trajectory.prompt_lengths + trajectory.response_lengths).sum()),
            }
        )

    def _timed(self, phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = method(*arguments, **options)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds[phase].append(time.perf_counter() - started)
            return result

        return run


def constant_reward(prompts: list[str], responses: list[str]) -> torch.Tensor:
    """A reward that costs nothing."""
    return torch.zeros(len(responses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of a causal language model")
    parser.add_argument("--prompts", required=True, help='file of rows {"prompt"}')
    parser.add_argument("--text", help='file of rows {"text"} for PPO-ptx')
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--minibatch", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=None)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=6, help="the first one warms up and is not counted")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = Encoder.from_pretrained(arguments.model)
    module = PPOModule(
        policy=functools.partial(load_causal_lm, name=arguments.model),
        value=functools.partial(load_scalar_model, name=arguments.model, head="new"),
        reward=constant_reward,
        encoder=encoder,
        max_new_tokens=arguments.max_new_tokens,
        minibatch_size=arguments.minibatch,
        micro_batch_size=arguments.micro_batch,
        epochs=arguments.epochs,
        learning_rate=1e-6,
    )
    data = PromptDataModule(
        encoder=encoder,
        train=arguments.prompts,
        text=arguments.text,
        ptx_ratio=1,
        rollout_batch_size=arguments.episodes,
        iterations=arguments.iterations,
    )
    timer = Timer()
    trainer = L.Trainer(
        max_epochs=1,
        devices=1,
        precision=arguments.precision,
        callbacks=[timer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    report(timer, arguments)


def report(timer: Timer, arguments: argparse.Namespace) -> None:
    """Medians over the counted iterations."""
    counted = {phase: seconds[1:] for phase, seconds in timer.seconds.items()}
    tokens = {kind: statistics.median(entry[kind] for entry in timer.tokens[1:]) for kind in ("rollout", "all")}
    total = statistics.median(counted["iteration"])
    table = Table(
        title=f"PPO iteration: {arguments.episodes} episodes, {arguments.threads} threads", title_justify="left"
    )
    for column in ("phase", "seconds", "share", "tokens/s"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in PHASES:
        seconds = statistics.median(counted[phase])
        rate = tokens["rollout" if phase == "rollout" else "all"] / max(seconds, 1e-9)
        table.add_row(phase, f"{seconds:.3f}", f"{seconds / total:.0%}", f"{rate:,.0f}")
    table.add_row("iteration", f"{total:.3f}", "100%", f"{tokens['all'] / total:,.0f}")
    console = Console()
    console.print(table)
    console.print(f"mean response {tokens['rollout'] / arguments.episodes:.1f} of {arguments.max_new_tokens} tokens")


if __name__ == "__main__":
    main()
