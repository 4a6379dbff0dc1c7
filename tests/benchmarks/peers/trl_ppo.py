"""TRL 1.12.0's PPOTrainer on the work of ``ppo_iteration.py``; a run is one iteration. Given a file of settings (JSON).

Its settings are meant to serve it well: no gradient checkpointing (its default is on), one forward pass a minibatch,
no reports, no saving. ``per_device_train_batch_size`` is a whole rollout, because its optimizer steps only once in
``gradient_accumulation_steps`` minibatches. In bf16 the autocast of ``accelerate launch --mixed_precision bf16`` is on,
which PPOTrainer reads from the environment alone and applies to the passes of the update, and with ``frozen_bf16`` the
two frozen models are loaded in bf16.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from pace import Pace
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

SETTINGS = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
BF16 = SETTINGS["dtype"] == "bf16"
LENGTHS: list[float] = []


class Turns(TrainerCallback):
    """Takes turns between iterations."""

    def __init__(self) -> None:
        self.pace = Pace()

    def on_train_begin(self, args, state, control, **_):
        self.pace.start()

    def on_step_end(self, args, state, control, **_):
        self.pace.end(mean_length=sum(LENGTHS) / len(LENGTHS))
        LENGTHS.clear()


def watch_lengths() -> None:
    """Keep the mean length of the responses, EOS counted, which PPOTrainer tells nobody."""
    truncate = ppo_trainer.truncate_response

    def truncate_response(stop, pad, responses):
        found = truncate(stop, pad, responses)
        LENGTHS.append(float((found != pad).sum(1).float().mean()))
        return found

    ppo_trainer.truncate_response = truncate_response


def main() -> None:
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if BF16 else "no"
    torch.set_num_threads(SETTINGS["threads"])
    watch_lengths()
    tokenizer = AutoTokenizer.from_pretrained(SETTINGS["policy"], padding_side="left")
    lines = Path(SETTINGS["prompts"]).read_text(encoding="utf-8").splitlines()
    rows = Dataset.from_list([{"input_ids": tokenizer(json.loads(line)["prompt"])["input_ids"]} for line in lines])
    trained = {"dtype": torch.float32, "attn_implementation": SETTINGS["attention"]}
    frozen = trained | {"dtype": torch.bfloat16} if BF16 and SETTINGS["frozen_bf16"] else trained
    with tempfile.TemporaryDirectory() as folder:
        arguments = PPOConfig(
            output_dir=folder,
            use_cpu=not torch.cuda.is_available(),
            bf16=BF16,
            per_device_train_batch_size=SETTINGS["episodes"],
            gradient_accumulation_steps=1,
            num_mini_batches=SETTINGS["minibatches"],
            num_ppo_epochs=SETTINGS["epochs"],
            local_rollout_forward_batch_size=SETTINGS.get("rollout_forward_batch_size", SETTINGS["episodes"]),
            total_episodes=SETTINGS["episodes"] * 100_000,
            response_length=SETTINGS["max_new_tokens"],
            stop_token="eos",
            temperature=1.0,
            missing_eos_penalty=1.0,
            kl_coef=0.02,
            learning_rate=SETTINGS["learning_rate"],
            num_sample_generations=0,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = PPOTrainer(
            args=arguments,
            processing_class=tokenizer,
            model=AutoModelForCausalLM.from_pretrained(SETTINGS["policy"], **trained),
            ref_model=AutoModelForCausalLM.from_pretrained(SETTINGS["policy"], **frozen),
            reward_model=AutoModelForSequenceClassification.from_pretrained(SETTINGS["reward"], **frozen),
            value_model=AutoModelForSequenceClassification.from_pretrained(SETTINGS["reward"], **trained),
            train_dataset=rows,
            callbacks=[Turns()],
        )
        trainer.train()


if __name__ == "__main__":
    main()
