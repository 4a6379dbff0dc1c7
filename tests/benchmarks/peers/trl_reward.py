"""TRL 1.16.0's RewardTrainer on the work of ``reward.py``: every pair of every prompt; a run is one pass over them.

Given a file of settings as JSON. Both completions of a pair are read with their prompt. The optimizer steps as often in
a pass as on the other side.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer
from turns import Turns

SETTINGS = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))


def pairs(tokenizer) -> list[dict[str, list[int]]]:
    """Every pair of completions of a prompt, the better one first."""
    rows = []
    for line in Path(SETTINGS["comparisons"]).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        ordered = [response for _, response in sorted(zip(row["ranks"], row["responses"], strict=True))]
        ids = [tokenizer(f"{row['prompt']} {response}")["input_ids"] + [tokenizer.eos_token_id] for response in ordered]
        rows += [{"chosen_ids": one, "rejected_ids": other} for one, other in itertools.combinations(ids, 2)]
    return rows


def main() -> None:
    torch.set_num_threads(SETTINGS["threads"])
    tokenizer = AutoTokenizer.from_pretrained(SETTINGS["model"])
    rows = pairs(tokenizer)
    device = SETTINGS["pairs_per_pass"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = RewardConfig(
            output_dir=folder,
            use_cpu=not torch.cuda.is_available(),
            bf16=SETTINGS["dtype"] == "bf16",
            per_device_train_batch_size=device,
            gradient_accumulation_steps=len(rows) // SETTINGS["steps"] // device,
            num_train_epochs=100_000,
            max_length=None,
            learning_rate=SETTINGS["learning_rate"],
            gradient_checkpointing=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = RewardTrainer(
            model=AutoModelForSequenceClassification.from_pretrained(SETTINGS["model"], dtype=torch.float32),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Turns()],
        )
        trainer.train()


if __name__ == "__main__":
    main()
