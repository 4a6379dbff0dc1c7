"""A model as the numbers that decide how much memory it takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What of a model takes memory.

    Args:
        parameters: numbers in all weights, a shared one counted once.
        weight_bytes: of all weights as they are stored, quantised or not.
        trained: numbers in the weights that train.
        trained_bytes: of those weights.
        matrices: numbers of ``trained`` in hidden matrices, which Muon treats in its own way.
        largest_bytes: of the largest weight that trains.
        layers: L, the decoder's blocks.
        width: d, the numbers of a hidden state.
        vocabulary: v, the logits of a token.
        cache_width: numbers that a layer keeps of a token for generation: its keys and its values.
        kept_bytes: what a forward pass in training keeps for the backward pass, for each token, all layers together
            and without activation checkpointing.
        score_bytes: the same for each pair of tokens of a row: 0 unless attention writes its scores out.
        fixed_bytes: the same whatever is read, such as the weights that DoRA makes anew.
        number_bytes: of a number in a hidden state.
        checkpointing: whether a forward pass keeps one hidden state a layer and computes the rest anew.
        block_bytes: of the weights of the largest block, which FSDP2 gathers at one time.
        rest_bytes: of the weights outside the blocks, which it gathers for a whole pass.
    """

    parameters: int
    weight_bytes: float
    trained: int
    trained_bytes: float
    matrices: int
    largest_bytes: float
    layers: int
    width: int
    vocabulary: int
    cache_width: int
    kept_bytes: float
    score_bytes: float = 0.0
    fixed_bytes: float = 0.0
    number_bytes: int = 4
    checkpointing: bool = False
    block_bytes: float = 0.0
    rest_bytes: float = 0.0
