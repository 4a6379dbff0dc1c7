"""FlexAttention's masks against dense ones, and models that attend with it.

FlexAttention has no backward pass on a CPU. There a stand-in that reads the same ``BlockMask`` takes its place for
gradients; a GPU runs the real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers import AttentionInterface, AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from rlhf_lightning.functional import prompt_trees
from rlhf_lightning.models import PackedStates, PromptTreeStates, hidden_states
from rlhf_lightning.models.block_masks import example_block_mask, reads_block_masks, tree_block_mask

SEQUENCES = [
    (0, [5, 6, 7, 8, 30, 31, 32]),
    (0, [5, 6, 7, 8, 33]),
    (1, [9, 10, 20]),
    (0, [5, 6, 7, 8, 30, 34, 35, 36, 37]),
    (1, [9, 11]),
]


@pytest.fixture
def eagerly() -> Iterator[None]:
    """transformers compiles FlexAttention, which takes seconds for every shape; what it computes is the same."""
    with torch.compiler.set_stance("force_eager"):
        yield


def make(attention: str, device: str = "cpu") -> PreTrainedModel:
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        vocab_size=40,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval().to(device)


def batch(device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Padded ids, lengths and prompts."""
    ids = torch.ones(len(SEQUENCES), 9, dtype=torch.long)
    for line, (_, sequence) in zip(ids, SEQUENCES, strict=True):
        line[: len(sequence)] = torch.tensor(sequence)
    lengths, group = torch.tensor([len(s) for _, s in SEQUENCES]), torch.tensor([number for number, _ in SEQUENCES])
    return ids.to(device), lengths.to(device), group.to(device)


def alone(model: PreTrainedModel, ids: Tensor, lengths: Tensor) -> Tensor:
    return torch.stack(
        [hidden_states(model, row[None, : int(n)])[0, -1] for row, n in zip(ids, lengths.tolist(), strict=True)]
    )


def gradients(model: PreTrainedModel, states: Tensor) -> list[Tensor]:
    loss = (states * torch.linspace(-1, 1, states.numel(), device=states.device).view_as(states)).sum()
    used = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [gradient for gradient in used if gradient is not None]


def dense(mask: BlockMask) -> Tensor:
    rows, _, queries, keys = mask.shape
    return create_mask(mask.mask_mod, rows, 1, queries, keys, device=str(mask.kv_indices.device))[:, 0]


def test_a_tree_of_blocks_is_the_tree() -> None:
    """300 tokens of a prompt and three completions of 40: rows of several blocks, some of them empty."""
    prompt = torch.randint(0, 40, (300,))
    ids = torch.cat([prompt.expand(3, -1), torch.randint(0, 40, (3, 40))], 1)
    ids[:, 300] = torch.arange(3)  # where they part
    trees = prompt_trees(ids, torch.full((3,), 340), torch.zeros(3, dtype=torch.long))
    mask = tree_block_mask(trees.tree, trees.branch)
    assert mask.shape == (1, 1, 420, 420)
    assert torch.equal(dense(mask), trees.sees)
    padded = nn.functional.pad(trees.sees[0], (0, 512 - 420, 0, 512 - 420))
    blocks = padded.view(4, 128, 4, 128).any(3).any(1)
    assert torch.equal(mask.to_dense()[0, 0].bool(), blocks)
    assert int(blocks.sum()) == 10  # of 16: what lies behind a token is skipped


def test_a_pack_of_blocks_is_the_pack() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 0], [0, 1, 0, 1, 2, 3, 4]])
    own = torch.tensor([[0, 0, 0, 1, 1, 2, 3], [0, 0, 1, 1, 1, 1, 1]])
    expected = (own.unsqueeze(2) == own.unsqueeze(1)).tril()
    assert torch.equal(dense(example_block_mask(positions)), expected)


@pytest.mark.usefixtures("eagerly")
def test_flex_attention_reads_prompts_once() -> None:
    flexible, plain = make("flex_attention"), make("sdpa")
    assert reads_block_masks(flexible)
    assert not reads_block_masks(plain)
    ids, lengths, group = batch()
    seen: list[Any] = []
    flexible.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    with torch.no_grad():
        states = PromptTreeStates(flexible)
        states.check()
        found = states(ids, lengths, group)
        torch.testing.assert_close(found, alone(plain, ids, lengths), rtol=1e-5, atol=1e-5)
    assert any(isinstance(mask, BlockMask) for mask in seen)
    assert not any(isinstance(mask, Tensor) for mask in seen)


@pytest.mark.usefixtures("eagerly")
def test_flex_attention_reads_packs() -> None:
    flexible, plain = make("flex_attention"), make("sdpa")
    ids, lengths, _ = batch()
    pack = torch.cat([row[:n] for row, n in zip(ids, lengths.tolist(), strict=True)]).unsqueeze(0)
    positions = torch.cat([torch.arange(n) for n in lengths.tolist()]).unsqueeze(0)
    with torch.no_grad():
        found = PackedStates(flexible)(pack, lengths.sum().view(1), positions)
        last = found[0, lengths.cumsum(0) - 1]
        torch.testing.assert_close(last, alone(plain, ids, lengths), rtol=1e-5, atol=1e-5)


def test_gradients_through_a_block_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> tuple[Tensor, None]:
        if isinstance(mask, BlockMask):
            mask = dense(mask).unsqueeze(1)
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=options["scaling"], enable_gqa=True
        )
        return output.transpose(1, 2), None

    flexible, plain = make("flex_attention"), make("sdpa")
    original = AttentionInterface()["flex_attention"]
    AttentionInterface.register("flex_attention", stand_in)
    try:
        with torch.compiler.set_stance("force_eager"):
            ids, lengths, group = batch()
            found = gradients(flexible, PromptTreeStates(flexible)(ids, lengths, group))
    finally:
        AttentionInterface.register("flex_attention", original)
    for mine, expected in zip(found, gradients(plain, alone(plain, ids, lengths)), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max() + 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_flex_attention_on_a_gpu_has_the_states_and_gradients_of_sdpa() -> None:
    flexible, plain = make("flex_attention", "cuda"), make("sdpa", "cuda")
    ids, lengths, group = batch("cuda")
    found = PromptTreeStates(flexible)(ids, lengths, group)
    expected = alone(plain, ids, lengths)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    for mine, theirs in zip(gradients(flexible, found), gradients(plain, expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3 * float(theirs.abs().max() + 1))
