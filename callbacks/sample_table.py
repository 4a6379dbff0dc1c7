"""A look at what the policy writes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import lightning as L

from rlhf_lightning.callbacks.episodes import episodes, iterations_done, require_episodes
from rlhf_lightning.data import Prompt
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import Rollout

COLUMNS = ("prompt", "response", "score", "kl", "finished")
LONGEST = 240
"""Characters of a text that are printed; the file has all."""


def sample_rows(rollout: Rollout, rows: int) -> list[dict[str, Any]]:
    """The first ``rows`` episodes as plain values. Prompts are shuffled, so the first ones are a fair sample."""
    return [
        {
            "prompt": _as_text(rollout.prompts[row]),
            "response": rollout.responses[row],
            "score": float(rollout.scores[row]),
            "kl": float(rollout.kl[row]),
            "finished": bool(rollout.finished[row]),
        }
        for row in range(min(rows, len(rollout.prompts)))
    ]


class SampleTable(L.Callback):
    """Prompt, response, score and KL of a few episodes, after the first iteration and every ``every``-th.

    They are printed as a table above the progress bar, appended to ``samples.jsonl`` in the trainer's log folder, and
    given to loggers that take text (TensorBoard, Weights & Biases). A resumed run writes the iterations that it
    repeats anew.

    Args:
        every: iterations from one table to the next.
        rows: episodes in a table.
    """

    def __init__(self, *, every: int = 5, rows: int = 4) -> None:
        for name, count in (("every", every), ("rows", rows)):
            if count < 1:
                raise UserError(f"callbacks.sample_table.{name}={count} must be at least 1")
        self.every = every
        self.rows = rows

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Only for modules that sample."""
        require_episodes(self, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop rows of iterations that are about to be repeated."""
        file, done = _file(trainer), iterations_done(trainer)
        if not trainer.is_global_zero or not file.exists():
            return
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(line for line in lines if _iteration(line) <= done), encoding="utf-8")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the iteration's samples if it is due."""
        iteration = iterations_done(trainer)
        if iteration != 1 and iteration % self.every:
            return
        file = _file(trainer)  # which Lightning asks the first process for, so that all must
        if not trainer.is_global_zero:
            return
        rollout, _ = episodes(outputs)
        samples = sample_rows(rollout, self.rows)
        bar = trainer.progress_bar_callback
        (print if bar is None else bar.print)(_table(samples, iteration))
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            for sample in samples:
                lines.write(json.dumps({"iteration": iteration, **sample}, ensure_ascii=False) + "\n")
        for logger in trainer.loggers:
            _log_text(logger, samples, step=iteration - 1)  # Lightning numbers its metrics from 0


def _as_text(prompt: Prompt) -> str:
    """A conversation with its roles, as lines."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def _file(trainer: L.Trainer) -> Path:
    return Path(trainer.log_dir or trainer.default_root_dir) / "samples.jsonl"


def _iteration(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half a line, from a process that was killed


def _table(samples: list[dict[str, Any]], iteration: int) -> str:
    """The samples as text, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Samples of iteration {iteration}", title_justify="left", show_lines=True)
    for name in ("Prompt", "Response"):
        table.add_column(name, overflow="fold")
    for name in ("Score", "KL"):
        table.add_column(name, justify="right")
    for sample in samples:
        response = sample["response"] if len(sample["response"]) <= LONGEST else sample["response"][:LONGEST] + "…"
        prompt = sample["prompt"] if len(sample["prompt"]) <= LONGEST else "…" + sample["prompt"][-LONGEST:]
        end = "" if sample["finished"] else " [no end]"
        # Text, not str: square brackets in a sample are no markup.
        table.add_row(Text(prompt), Text(response + end), f"{sample['score']:.3f}", f"{sample['kl']:.3f}")
    text = io.StringIO()
    Console(file=text, width=Console().width, color_system=None, force_terminal=False).print(table)
    return text.getvalue().rstrip("\n")


def _log_text(logger: Any, samples: list[dict[str, Any]], *, step: int) -> None:
    """To loggers that take text, by the methods that they have for it."""
    if hasattr(logger, "log_text"):
        logger.log_text(key="samples", columns=list(COLUMNS), data=[list(s.values()) for s in samples], step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_text"):
        cells = [[_cell(value) for value in sample.values()] for sample in samples]
        lines = [list(COLUMNS), ["---"] * len(COLUMNS), *cells]
        logger.experiment.add_text("samples", "\n".join(f"| {' | '.join(line)} |" for line in lines), step)


def _cell(value: Any) -> str:
    """A value in a Markdown table."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")
