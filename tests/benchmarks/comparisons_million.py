"""Seconds and memory from a large file of comparisons to the first batch of reward training.

    python tests/benchmarks/comparisons_million.py [--rows 1000000] [--folder FOLDER]

Writes the file (about 1 kB a row) and a tokenizer, then starts two processes, as a user starts two runs. The first one
finds nothing prepared; its preparation is timed apart. The second one is timed from the start of its process. Memory
is what the data add to the process after its imports: the most that was resident at any time, and at the first batch
what belongs to the process alone; the rest are pages of mapped files, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WORDS = "time river stone light paper window garden morning answer question because between never always little large"


def write_comparisons(path: Path, rows: int) -> None:
    """Rows of prompt, chosen and rejected, about 1 kB each."""
    rng = random.Random(0)
    words = [f"{word}{ending}" for word in WORDS.split() for ending in ("", "s", "ing", "ed", "er", "ly")]
    texts = [" ".join(rng.choices(words, k=rng.randrange(35, 50))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            prompt, chosen, rejected = (rng.choice(texts) for _ in range(3))
            row = {"prompt": f"{number} {prompt}", "chosen": chosen, "rejected": f"{rejected} {number}"}
            file.write(json.dumps(row) + "\n")


def write_tokenizer(folder: Path, sample: Path) -> None:
    """A byte-level BPE of 2,000 tokens, as fast and as fine as one of a real model on plain words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    with sample.open(encoding="utf-8") as file:
        lines = [line for line, _ in zip(file, range(2000), strict=False)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=["</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator(lines, trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(str(folder))


def start(folder: Path, began: float) -> None:
    """One run up to its first batch; prints the figures as JSON."""
    import lightning as L
    import torch

    from rlhf_lightning.data import ComparisonDataModule, Encoder

    class Probe(L.LightningModule):
        """Stops the clock at its first batch."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            clock["first batch"] = time.time()
            return self.weight.sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    clock: dict[str, float] = {}
    encoder = Encoder.from_pretrained(folder / "tokenizer")
    trainer = L.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = ComparisonDataModule(encoder=encoder, train=folder / "comparisons.jsonl", batch_size=64)
    before = memory()
    clock["imported"] = time.time()
    data.prepare_data()
    clock["prepared"] = time.time()
    trainer.fit(Probe(), datamodule=data)
    after = memory()
    figures = {
        "imports": clock["imported"] - began,
        "data": clock["prepared"] - clock["imported"],
        "first batch": clock["first batch"] - clock["prepared"],
        "all": clock["first batch"] - began,
        "peak MB": (after["VmHWM"] - before["VmRSS"]) / 1024,
        "own MB": (after["RssAnon"] - before["RssAnon"]) / 1024,
    }
    print(json.dumps(figures))


def memory() -> dict[str, int]:
    """The kilobytes of this process, by the names of /proc."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1] == "kB"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--start", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start is not None:
        start(arguments.folder, arguments.start)
        return
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        path = folder / "comparisons.jsonl"
        write_comparisons(path, arguments.rows)
        write_tokenizer(folder / "tokenizer", path)
        print(f"{arguments.rows} comparisons, {path.stat().st_size / 1e9:.2f} GB")
        environment = os.environ | {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        for run in ("first", "second"):
            command = [sys.executable, __file__, "--folder", str(folder), "--start", str(time.time())]
            result = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            figures = json.loads(result.stdout.splitlines()[-1])
            seconds = {name: figures[name] for name in ("imports", "data", "first batch", "all")}
            print(f"{run} start, seconds: {', '.join(f'{name} {value:.1f}' for name, value in seconds.items())}")
            print(f"{run} start, memory: peak {figures['peak MB']:.0f} MB, own {figures['own MB']:.0f} MB")


if __name__ == "__main__":
    main()
