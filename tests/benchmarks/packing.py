"""Tokens per second of supervised fine-tuning: padded batches against packs of several sizes.

    python tests/benchmarks/packing.py [--model FOLDER] [--batch 32] [--longest 512] [--packs 512 1024 2048]

Each step draws examples whose lengths are spread evenly on a logarithmic scale, then trains on the very same ones in
every layout, one layout after the other, so that whatever else the machine does weighs on all of them. Without --model
a random Llama is trained.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from rlhf_lightning.data import PackedBatch, TokenBatch, collate_packs, collate_tokens
from rlhf_lightning.models import load_causal_lm
from rlhf_lightning.modules import SFTModule
from rlhf_lightning.modules.batching import micro_batches, token_rows

Layout = tuple[str, Callable[[list[dict[str, Any]]], TokenBatch | PackedBatch], int | None]


def random_llama(arguments: argparse.Namespace) -> PreTrainedModel:
    """A Llama of the given width and depth with a vocabulary of 512."""
    return AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=512,
            hidden_size=arguments.width,
            intermediate_size=3 * arguments.width,
            num_hidden_layers=arguments.layers,
            num_attention_heads=max(arguments.width // 64, 1),
            max_position_embeddings=max(arguments.longest, *arguments.packs),
        ),
        attn_implementation=arguments.attention,
    )


def layouts(arguments: argparse.Namespace) -> list[Layout]:
    """Name, how a batch is made of examples, and rows per forward and backward pass."""
    padded = partial(collate_tokens, pad_id=0)
    few = max(arguments.batch // 8, 1)
    found: list[Layout] = [
        ("padded, whole batch", padded, None),
        (f"padded, by length in micro-batches of {few}", padded, few),
    ]
    for size in arguments.packs:
        rows = max(arguments.packs[0] * few // size, 1)  # about as many tokens a pass in every layout
        found.append((f"packs of {size}, micro-batches of {rows}", partial(collate_packs, pad_id=0, size=size), rows))
    return found


def train(module: SFTModule, optimizer: torch.optim.Optimizer, batch: TokenBatch | PackedBatch, size: Any) -> float:
    """Seconds of one optimizer step."""
    device = next(module.policy.parameters()).device
    started = time.perf_counter()
    batch = type(batch)(*(field.to(device) for field in batch))
    count = batch.loss_mask.sum()
    for rows in micro_batches(batch.lengths, size):
        module.loss(token_rows(batch, rows), count).backward()
    optimizer.step()
    optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id of a causal language model")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--attention", default="sdpa", help="attn_implementation")
    parser.add_argument("--batch", type=int, default=32, help="examples of an optimizer step")
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--packs", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--steps", type=int, default=4, help="the first one warms up and is not counted")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    load = partial(load_causal_lm, name=arguments.model, attn_implementation=arguments.attention)
    module = SFTModule(policy=load if arguments.model else partial(random_llama, arguments))
    module.configure_model()
    module.policy.to("cuda" if torch.cuda.is_available() else "cpu").train()
    optimizer = torch.optim.AdamW(module.policy.parameters(), lr=1e-5)
    vocabulary = module.policy.get_input_embeddings().weight.shape[0]
    draw = random.Random(0)
    seconds: dict[str, list[float]] = {}
    widths: dict[str, list[int]] = {}
    tokens: list[int] = []
    for _ in range(arguments.steps):
        scale = [draw.uniform(math.log(16), math.log(arguments.longest)) for _ in range(arguments.batch)]
        lengths = [int(math.exp(value)) for value in scale]
        examples = [
            {"input_ids": [draw.randrange(3, vocabulary) for _ in range(length)], "prompt_length": length // 2}
            for length in lengths
        ]
        tokens.append(sum(lengths))
        for name, collate, size in layouts(arguments):
            batch = collate(examples)
            parts = [token_rows(batch, rows) for rows in micro_batches(batch.lengths, size)]
            widths.setdefault(name, []).append(sum(part.input_ids.numel() for part in parts))
            seconds.setdefault(name, []).append(train(module, optimizer, batch, size))
    report(arguments, seconds, widths, tokens)


def report(
    arguments: argparse.Namespace, seconds: dict[str, list[float]], widths: dict[str, list[int]], tokens: list[int]
) -> None:
    """Medians over the counted steps, and the ratio to the first layout."""
    table = Table(
        title=f"SFT on {arguments.batch} examples of 16 to {arguments.longest} tokens, {arguments.attention}, "
        f"{arguments.threads} threads",
        title_justify="left",
    )
    for column in ("layout", "tokens/s", "ratio", "padding"):
        table.add_column(column, justify="left" if column == "layout" else "right")
    rates = {
        name: statistics.median(count / spent for count, spent in zip(tokens[1:], times[1:], strict=True))
        for name, times in seconds.items()
    }
    base = next(iter(rates.values()))
    for name, rate in rates.items():
        padding = 1 - sum(tokens) / sum(widths[name])
        table.add_row(name, f"{rate:,.0f}", f"{rate / base:.2f}", f"{padding:.0%}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
