"""How fast this machine multiplies matrices of a model's shapes, and how many multiplications a stage needs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoConfig

from rlhf_lightning.models import choose_cpu_matmul

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Shapes(NamedTuple):
    """The matrices that a token meets: (inputs, outputs) of every linear map of the blocks, and of the head."""

    blocks: list[tuple[int, int]]
    head: tuple[int, int]
    layers: int
    attended: int
    """Numbers of all heads together, in which attention multiplies queries with keys and weights with values."""

    @classmethod
    def of(cls, folder: str | Path) -> Shapes:
        """Those of a decoder with gated feed-forward blocks (Llama and its kin) in a model folder."""
        config = AutoConfig.from_pretrained(folder)
        width, inner = config.hidden_size, config.intermediate_size
        size = getattr(config, "head_dim", None) or width // config.num_attention_heads
        queries, keys = size * config.num_attention_heads, size * config.num_key_value_heads
        block = [(width, queries), (width, keys), (width, keys), (queries, width)]
        block += [(width, inner), (width, inner), (inner, width)]
        layers = config.num_hidden_layers
        return cls(block * layers, (width, config.vocab_size), layers, queries)

    def forward(self, lengths: Iterable[int], heads: float = 0.0) -> float:
        """Floating-point operations of a causal forward pass over sequences of these lengths, without padding, where
        ``heads`` tokens have logits."""
        lengths = list(lengths)
        linear = 2.0 * sum(a * b for a, b in self.blocks)
        # A token attends to those before it and itself: n(n + 1)/2 pairs, each multiplied twice.
        pairs = sum(length * (length + 1) / 2 for length in lengths)
        return (
            linear * sum(lengths)
            + 4.0 * self.attended * self.layers * pairs
            + 2.0 * heads * self.head[0] * self.head[1]
        )


def matmul_rate(
    shapes: Shapes, rows: int, dtype: str, *, head: bool = True, backward: bool = False, library: str = "auto"
) -> float:
    """Floating-point operations per second of the model's linear maps on ``rows`` tokens: the forward products, or
    those of the backward pass (gradients of inputs and of weights). The median of several passes, by what
    ``trainer.cpu_matmul=library`` chooses."""
    choose_cpu_matmul(library)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kinds = {shape: shapes.blocks.count(shape) for shape in shapes.blocks}
    if head:
        kinds[shapes.head] = kinds.get(shapes.head, 0) + 1
    spent, operations = 0.0, 0.0
    for (inputs, outputs), count in kinds.items():
        x = torch.randn(rows, inputs, dtype=DTYPES[dtype], device=device)
        weight = torch.randn(outputs, inputs, dtype=DTYPES[dtype], device=device)
        gradient = torch.randn(rows, outputs, dtype=DTYPES[dtype], device=device)
        times = []
        for _ in range(9):
            _wait()
            began = time.perf_counter()
            _ = (gradient @ weight, gradient.T @ x) if backward else x @ weight.T
            _wait()
            times.append(time.perf_counter() - began)
        spent += count * statistics.median(times[2:])
        operations += count * 2.0 * rows * inputs * outputs * (2 if backward else 1)
    return operations / spent


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
