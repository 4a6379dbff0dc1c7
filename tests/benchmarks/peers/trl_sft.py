"""TRL 1.16.0's SFTTrainer on the work of ``sft.py``, with packing or without; a run is one pass over the examples.

Given a file of settings as JSON. Packing is its default strategy (best-fit decreasing, examples whole). It lays the
packs of a forward pass into one row, whose attention mask is as large as the row squared, so that few packs a pass
serve it best. The optimizer steps as often in a pass over the examples as on the other side.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from turns import Turns

SETTINGS = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))


def examples(tokenizer) -> list[dict[str, list[int]]]:
    """Ids, and which of them are the response."""
    rows = []
    for line in Path(SETTINGS["demonstrations"]).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt = tokenizer(row["prompt"])["input_ids"]
        response = [*tokenizer(row["response"])["input_ids"], tokenizer.eos_token_id]
        mask = [0] * len(prompt) + [1] * len(response)
        rows.append({"input_ids": prompt + response, "completion_mask": mask})
    return rows


def make(tokenizer, folder: str, accumulation: int) -> SFTTrainer:
    """The trainer, with as many forward passes a step."""
    arguments = SFTConfig(
        output_dir=folder,
        use_cpu=not torch.cuda.is_available(),
        bf16=SETTINGS["dtype"] == "bf16",
        per_device_train_batch_size=SETTINGS["rows_per_pass"],
        gradient_accumulation_steps=accumulation,
        num_train_epochs=100_000,
        packing=SETTINGS["packing"],
        max_length=SETTINGS["longest"],
        completion_only_loss=True,
        learning_rate=SETTINGS["learning_rate"],
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(SETTINGS["model"], dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(examples(tokenizer)),
        processing_class=tokenizer,
        callbacks=[Turns()],
    )


def main() -> None:
    torch.set_num_threads(SETTINGS["threads"])
    tokenizer = AutoTokenizer.from_pretrained(SETTINGS["model"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(tokenizer, folder, 1)
        # How many packs there are is known once they are made.
        passes = math.ceil(len(trainer.train_dataset) / SETTINGS["rows_per_pass"])
        accumulation = math.ceil(passes / SETTINGS["steps"])
        if accumulation > 1:
            trainer = make(tokenizer, folder, accumulation)
        trainer.train()


if __name__ == "__main__":
    main()
