"""The terms of a memory plan, in bytes.

Letters: b rows, s tokens of a row, L layers, d width, v vocabulary, n trained numbers.
"""

from __future__ import annotations

from typing import Literal

from rlhf_lightning.planning.model_size import ModelSize

Optimizer = Literal["adamw", "adamw8bit", "muon", "none"]
CHUNK = 1024
"""Tokens whose logits exist at one time (``TokenLogprobs``)."""
BLOCK = 256
"""Numbers that share a scale in a moment of 8 bits (bitsandbytes)."""


def gradient_bytes(size: ModelSize) -> float:
    """A gradient has the type of its weight: ``n · bytes of a weight``."""
    return size.trained_bytes


def optimizer_bytes(size: ModelSize, optimizer: Optimizer) -> float:
    """The optimizer's state.

    - ``adamw``: two moments of the weight's type, ``2 · n · bytes of a weight``.
    - ``adamw8bit``: two moments of one byte and a scale of 4 bytes for each 256 of their numbers,
      ``2 · n · (1 + 4/256)``; the few weights of fewer than 4,096 numbers, which keep 32 bits, are counted alike.
    - ``muon``: one momentum for hidden matrices, two moments for the rest.
    - ``none``: nothing.
    """
    match optimizer:
        case "adamw":
            return 2 * size.trained_bytes
        case "adamw8bit":
            return 2 * size.trained * (1 + 4 / BLOCK)
        case "muon":
            share = size.matrices / size.trained if size.trained else 0.0
            return (2 - share) * size.trained_bytes
        case "none":
            return 0.0


def layer_bytes(size: ModelSize, rows: int, tokens: int) -> float:
    """Activations of one layer: ``(b · s · kept + b · s² · scores + fixed) / L``.

    It is also what a pass without gradients holds at most, which frees a layer before it reads the next.
    """
    kept = rows * tokens * size.kept_bytes + rows * tokens**2 * size.score_bytes + size.fixed_bytes
    return kept / size.layers


def activation_bytes(size: ModelSize, rows: int, tokens: int) -> float:
    """What a forward pass over b rows of s tokens keeps for the backward pass.

    Without activation checkpointing ``L`` times :func:`layer_bytes`; with it ``b · s · L · d · bytes`` for the input of
    every layer, and one layer that is computed anew.
    """
    layer = layer_bytes(size, rows, tokens)
    if not size.checkpointing:
        return size.layers * layer
    return rows * tokens * size.layers * size.width * size.number_bytes + layer


def logits_bytes(size: ModelSize, tokens: int) -> float:
    """The vocabulary projection of ``min(tokens, 1024)`` positions: logits, their log-softmax, its exponential for the
    entropy, and one product or gradient of that shape: ``4 · min(tokens, 1024) · v · 4``, in float32. Logits in 16 bits
    exist once more."""
    copies = 4 * 4 + (size.number_bytes if size.number_bytes < 4 else 0)
    return copies * min(tokens, CHUNK) * size.vocabulary


def cache_bytes(size: ModelSize, rows: int, tokens: int) -> float:
    """Keys and values of b rows of s tokens: ``b · s · (L + 1) · cache width · bytes``. The one layer more is that
    to which a token is being appended, which exists twice."""
    return rows * tokens * (size.layers + 1) * size.cache_width * size.number_bytes
