"""Sequences and trees in one row: each attends as if it stood alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from rlhf_lightning.functional import prompt_trees
from rlhf_lightning.models.packing import PackedStates
from rlhf_lightning.models.prompt_trees import PromptTreeStates
from rlhf_lightning.models.sequence_attention import Sequences, Trees, attention_arguments, reads_layouts

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "vocab_size": 40,
}
LENGTHS = [3, 9, 1, 4, 8, 20, 3]


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(3)
    return LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="sdpa")).eval()


@pytest.fixture
def states() -> list[Tensor]:
    """Queries of 4 heads, keys and values, of 48 tokens."""
    return [torch.randn(1, 4, sum(LENGTHS), 8, requires_grad=True) for _ in range(3)]


def plain(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, is_causal: bool) -> Any:
    """Attention as the formula has it: softmax(q kᵀ / √d) v over what is seen."""
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    sees = torch.ones(scores.shape[2:], dtype=torch.bool).tril() if is_causal else mask
    return (scores.masked_fill(~sees, float("-inf")).softmax(-1) @ value).transpose(1, 2), None


def check(layout: Sequences | Trees, sees: Tensor, states: list[Tensor]) -> None:
    """Outputs and gradients against one attention over all tokens under a mask [n, n]."""
    found = layout.attend(plain, nn.Identity(), states, {})
    expected, _ = plain(nn.Identity(), *states, sees, is_causal=False)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), states),
        torch.autograd.grad((expected * weights).sum(), states),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_sequences_of_like_length_share_a_batch() -> None:
    layout = Sequences.of(torch.tensor([4, 1, 5]))
    # The longest first; 4 is at least half of 5. Ten tokens, so 10 is none.
    assert layout.batches == [(2, 5), (1, 1)]
    assert layout.source.tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 10, 4]
    assert layout.place.tolist() == [5, 6, 7, 8, 10, 0, 1, 2, 3, 4]


def test_long_sequences_are_more_alike_than_short_ones() -> None:
    assert Sequences.of(torch.tensor([100, 50, 49])).batches == [(2, 100), (1, 49)]
    assert Sequences.of(torch.tensor([200, 160, 159])).batches == [(2, 200), (1, 159)]


def test_each_sequence_attends_to_itself(states: list[Tensor]) -> None:
    number = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    check(Sequences.of(torch.tensor(LENGTHS)), (number.unsqueeze(1) == number).tril(), states)


def test_sequences_of_a_tree_attend_to_their_beginning(states: list[Tensor]) -> None:
    """Three trees in a row; the second has one sequence, the third shares nothing."""
    tree = torch.tensor([0] * 20 + [1] * 16 + [2] * 12)
    branch = torch.tensor([0] * 8 + [1] * 2 + [2] * 5 + [3] * 5 + [0] * 15 + [4] + [5] * 11 + [6])
    within = (tree.unsqueeze(1) == tree).tril()
    sees = within & ((branch == 0) | (branch.unsqueeze(1) == branch))
    check(Trees.of(tree, branch), sees, states)


def test_trees_without_any_beginning(states: list[Tensor]) -> None:
    tree = torch.tensor([0] * 20 + [1] * 28)
    branch = torch.tensor([1] * 7 + [2] * 13 + [3] * 28)
    number = branch
    check(Trees.of(tree, branch), (number.unsqueeze(1) == number).tril(), states)


def test_the_masks_of_prompt_trees(states: list[Tensor]) -> None:
    """Of sequences as they come: what a layout lets a token see is what the dense mask does."""
    lengths, group = torch.tensor([9, 11, 7, 12, 12, 5]), torch.tensor([1, 0, 1, 0, 2, 2])
    ids = torch.randint(2, 5, (6, 12))
    ids[:, :4] = group.unsqueeze(1)
    trees = prompt_trees(ids, lengths, group)
    real = trees.tree >= 0
    rows = torch.arange(len(real)).unsqueeze(1).expand_as(real)[real]
    sees = trees.sees.new_zeros(int(real.sum()), int(real.sum()))
    for row in range(len(real)):
        inside, mine = rows == row, real[row]
        sees[inside.nonzero(), inside.nonzero().T] = trees.sees[row][mine][:, mine]
    count = int(real.sum())
    check(Trees.of(trees.tree[real], trees.branch[real]), sees, [one[:, :, :count] for one in states])


def read(model: LlamaForCausalLM, lengths: Tensor, ids: Tensor) -> Tensor:
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()]).unsqueeze(0)
    arguments = attention_arguments(Sequences.of(lengths))
    states: Tensor = model.model(input_ids=ids, position_ids=positions, use_cache=False, **arguments).last_hidden_state
    return states


def test_activations_computed_anew_are_laid_out_again(model: LlamaForCausalLM) -> None:
    lengths, ids = torch.tensor(LENGTHS), torch.randint(0, 40, (1, sum(LENGTHS)))
    weights, gradients = torch.randn(1, sum(LENGTHS), 32), []
    for checkpointing in (False, True):
        model.zero_grad()
        model.train()
        if checkpointing:
            model.activation_checkpointing_enable()
        (read(model, lengths, ids) * weights).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.model.parameters()])
    for mine, expected in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(mine, expected)


def test_without_a_layout_sdpa_is_what_it_was(model: LlamaForCausalLM) -> None:
    ids, mask = torch.randint(0, 40, (2, 6)), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    before = model(input_ids=ids, attention_mask=mask).logits
    read(model, torch.tensor([4, 2]), ids[:1])
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)


def test_half_precision_reads_few_sizes(model: LlamaForCausalLM) -> None:
    """Rows are filled up to multiples of 128 tokens, which change neither states nor gradients."""
    sizes: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, given: sizes.append(given[0].shape[1]))
    packed, lengths = PackedStates(model), torch.tensor([30, 23])
    ids = torch.randint(0, 40, (2, 30))
    positions = torch.arange(30).remainder(17).repeat(2, 1)
    exact = packed(ids, lengths, positions)
    weights = torch.randn_like(exact[0])
    (exact[0] * weights).sum().backward()
    expected = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    sizes.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = packed(ids, lengths, positions)
        (found[0] * weights).sum().backward()
    assert sizes == [128]
    torch.testing.assert_close(found[0].float(), exact[0], rtol=0.1, atol=0.1)
    gradient = model.model.embed_tokens.weight.grad
    assert (gradient - expected).norm() < 0.05 * expected.norm()
    trees = PromptTreeStates(model)
    group = torch.tensor([0, 0])
    sizes.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        trees(ids, lengths, group)
    assert sizes[-1] == 128


def test_windows_and_other_attentions_are_not_laid_out() -> None:
    assert reads_layouts(LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="sdpa")))
    assert not reads_layouts(LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager")))
    assert not reads_layouts(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8, attn_implementation="sdpa")))
    mixed = LlamaConfig(**SIZES, attn_implementation="sdpa")
    mixed.layer_types = ["full_attention", "chunked_attention"]
    assert not reads_layouts(LlamaForCausalLM(mixed))
    mixed.layer_types, mixed.keep_window_size = None, 8
    assert not reads_layouts(LlamaForCausalLM(mixed))


def test_compiled_passes_are_not_compiled_anew_for_every_layout(model: LlamaForCausalLM) -> None:
    """Layouts of several numbers of batches and sequences, where nobody has said that passes are compiled."""
    torch.compiler.reset()
    graphs = []

    def counting(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    found = []
    batches = [[9, 9, 8], [20, 9, 3, 1], [5, 5], [17, 3, 2]]
    rows = [torch.randint(0, 40, (1, sum(lengths))) for lengths in batches]
    with torch.no_grad():
        expected = [read(model, torch.tensor(lengths), ids) for lengths, ids in zip(batches, rows, strict=True)]
        model.model.compile(backend=counting, dynamic=True)
        counts = []
        for lengths, ids in zip(batches, rows, strict=True):
            found.append(read(model, torch.tensor(lengths), ids))
            counts.append(len(graphs))
    for mine, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, alone)
    assert counts[0] == counts[-1] > 0
