"""A PPO run that test_kill.py starts in processes of its own and kills; no test by itself.

It is told on standard input: each line is a checkpoint folder and a number of iterations, and starts a run in a
fork, so that the imports are paid for once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

from rlhf_lightning.callbacks import IterationCheckpoint, PolicyEMA, newest_checkpoint
from rlhf_lightning.data import Encoder, PromptDataModule
from rlhf_lightning.models import load_causal_lm, load_scalar_model
from rlhf_lightning.modules import PPOModule


class Ballast(L.Callback):
    """Makes a save take long enough to be hit."""

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["ballast"] = torch.full((8, 1024, 1024), float(pl_module.iterations))


def train(model: str, prompts: str, folder: Path, iterations: int) -> None:
    """Go on from the newest checkpoint of the folder, if there is one."""
    torch.set_num_threads(1)
    encoder = Encoder.from_pretrained(model)
    module = PPOModule(
        policy=lambda: load_causal_lm(name=model),
        value=lambda: load_scalar_model(name=model, head="new"),
        reward=lambda prompts, responses: [float(len(response)) for response in responses],
        encoder=encoder,
        max_new_tokens=4,
        minibatch_size=4,
        learning_rate=1e-3,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[PolicyEMA(), Ballast(), IterationCheckpoint(folder=folder)],
    )
    data = PromptDataModule(encoder=encoder, train=prompts, rollout_batch_size=4, iterations=iterations)
    trainer.fit(module, data, ckpt_path=newest_checkpoint(folder))


if __name__ == "__main__":
    model, prompts = sys.argv[1:]
    for line in sys.stdin:
        folder, iterations = line.split()
        child = os.fork()
        if child == 0:
            train(model, prompts, Path(folder), int(iterations))
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
