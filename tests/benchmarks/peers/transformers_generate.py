"""``generate`` of transformers on the work of ``generation.py``; a run is one batch. Given a file of settings as JSON.

Prompts are padded on the left; the model is loaded in the dtype asked for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from pace import Pace
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if settings["dtype"] == "bf16" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(settings["policy"], padding_side="left")
    model = (
        AutoModelForCausalLM.from_pretrained(settings["policy"], dtype=dtype, attn_implementation=settings["attention"])
        .to(device)
        .eval()
    )
    lines = Path(settings["prompts"]).read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["prompt"] for line in lines]
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False).to(device)
    pace = Pace()
    pace.start()
    while True:
        with torch.inference_mode():
            found = model.generate(
                **batch, do_sample=True, top_k=0, top_p=1.0, max_new_tokens=settings["max_new_tokens"]
            )
        response = found[:, batch["input_ids"].shape[1] :]
        lengths = (response != tokenizer.pad_token_id).sum(1)
        pace.end(mean_length=float(lengths.float().mean()))


if __name__ == "__main__":
    main()
