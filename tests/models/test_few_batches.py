"""Sequences of a row as few padded batches, and passes that ``torch.compile`` reads in one piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_lightning.models.compiler import compile_passes, is_compiled
from rlhf_lightning.models.few_batches import FewBatches
from rlhf_lightning.models.forward import hidden_states
from rlhf_lightning.models.packing import PackedStates
from rlhf_lightning.models.row_layouts import moved
from rlhf_lightning.models.sequence_attention import Sequences


def causal(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, is_causal: bool) -> Any:
    """Attention as the formula has it, softmax(q kᵀ / √d) v over what stands before a token and itself."""
    assert is_causal and mask is None
    sees = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    return (scores.masked_fill(~sees, float("-inf")).softmax(-1) @ value).transpose(1, 2), None


def test_one_batch_of_few_shapes() -> None:
    layout = FewBatches.of(torch.tensor([2, 3]), 7)
    (source,) = layout.sources
    # Rows to a multiple of 4, columns to one of 16; 7 is no token, and so is place 4 · 16.
    assert source.shape == (4, 16)
    assert source[:, :4].tolist() == [[0, 1, 7, 7], [2, 3, 4, 7], [7] * 4, [7] * 4]
    assert (source[:, 4:] == 7).all()
    assert layout.place.tolist() == [0, 1, 16, 17, 18, 64, 64]


def test_lengths_far_apart_are_batches_of_their_own() -> None:
    lengths = torch.tensor([600, 20, 301, 30, 300, 10])
    layout = FewBatches.of(lengths, int(lengths.sum()))
    # In one batch 6 · 608² pairs, more than 2 · Σ l² = 1.1M and than 256 · Σ l = 323k.
    assert [tuple(source.shape) for source in layout.sources] == [(2, 608), (4, 304)]
    assert layout.sources[0][:, 0].tolist() == [0, 620]
    assert layout.sources[1][:, 0].tolist() == [600, 921, 951, 1251]


@pytest.mark.parametrize(("length", "shape"), [(128, (4, 128)), (129, (2, 144)), (513, (1, 528))])
def test_rows_are_filled_up_where_they_are_short(length: int, shape: tuple[int, int]) -> None:
    (source,) = FewBatches.of(torch.tensor([length]), length).sources
    assert source.shape == shape


def test_no_more_than_two_batches() -> None:
    lengths = torch.tensor([3200, 1560, 760, 360, 160])
    layout = FewBatches.of(lengths, int(lengths.sum()))
    assert [tuple(source.shape) for source in layout.sources] == [(1, 3200), (4, 1568)]


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([1024, 512, 512], 1),  # 3 · 1024² = 2 · (1024² + 2 · 512²)
        ([1024, 512, 511], 2),
        ([128, 43, 43, 42], 1),  # 4 · 128² = 256 · 256
        ([128, 43, 43, 41], 2),
        ([128, 48, 48, 48, 48], 2),  # 8 rows with those filled up: 8 · 128² > 256 · 320 = 5 · 128²
    ],
)
def test_how_much_padding_is_taken(lengths: list[int], batches: int) -> None:
    assert len(FewBatches.of(torch.tensor(lengths), sum(lengths)).sources) == batches


@pytest.mark.parametrize("lengths", [[3, 9, 1, 4, 8], [500, 2, 5, 260, 1]])
def test_each_attends_to_itself_and_what_is_behind_to_nothing(lengths: list[int]) -> None:
    count = sum(lengths) + 3
    states = [torch.randn(1, 2, count, 4, requires_grad=True) for _ in range(3)]
    found = FewBatches.of(torch.tensor(lengths), count).attend(causal, nn.Identity(), states, {})
    parts = [torch.split(one, [*lengths, 3], 2)[:-1] for one in states]
    alone = [causal(nn.Identity(), *one, None, is_causal=True)[0] for one in zip(*parts, strict=True)]
    expected = torch.cat([*alone, torch.zeros(1, 3, 2, 4)], 1)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), states),
        torch.autograd.grad((expected * weights).sum(), states),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("fused", "index", "back"),
    [(False, [2, 3, 0, 1], [2, 3, 0]), (True, [2, 3, 0, 1], [2, 3, 0]), (True, [2, 3, 0, 3], [2, 4, 0])],
)
def test_rows_move_and_gradients_move_back(fused: bool, index: list[int], back: list[int]) -> None:
    """Row 3 is none; in the last case row 1 goes nowhere."""
    rows = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    found = moved(rows, torch.tensor(index), torch.tensor(back), fused=fused)
    assert found.flatten().tolist() == [3.0, 0.0, 1.0, 2.0 if 1 in index else 0.0]
    (found * torch.tensor([[10.0], [20.0], [30.0], [40.0]])).sum().backward()
    assert rows.grad is not None
    assert rows.grad.flatten().tolist() == [30.0, 40.0 if 1 in index else 0.0, 10.0]


class Graphs(list[Any]):
    """What is compiled, and how often any of it ran."""

    runs = 0


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    """They run as they are, which takes no compiler."""
    found = Graphs()

    def backend(graph: Any, inputs: Any) -> Any:
        found.append(graph)

        def run(*arguments: Any) -> Any:
            found.runs += 1
            return graph(*arguments)

        return run

    monkeypatch.setattr(
        "rlhf_lightning.models.compiler.compile_options", lambda **options: options | {"backend": backend}
    )
    torch.compiler.reset()
    yield found
    torch.compiler.reset()


def make_model() -> LlamaForCausalLM:
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 40, "initializer_range": 0.2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    torch.manual_seed(3)
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, attn_implementation="sdpa"))


def read(model: LlamaForCausalLM, packed: PackedStates, lengths: list[int]) -> list[Tensor]:
    """States of one row of sequences, and gradients."""
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    ids = torch.arange(positions.shape[1]).unsqueeze(0) * 7 % 40
    model.zero_grad()
    states = packed(ids, torch.tensor([sum(lengths)]), positions)
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    return [states.detach(), *(weight.grad.clone() for weight in model.model.parameters() if weight.grad is not None)]


BATCHES = [[5, 9, 3], [7, 2, 8, 4, 11], [30, 21], [17] * 6]
FAR = [[700, 12, 360, 5, 330], [12, 640, 330, 300, 9, 4], [5, 900, 610, 410, 7]]


@pytest.mark.parametrize(("batches", "variants"), [(BATCHES, 1), (FAR, 1), ([*BATCHES, *FAR], 2)])
def test_compiled_passes_compute_the_same_in_one_piece(graphs: Graphs, batches: list[list[int]], variants: int) -> None:
    """One graph runs in a pass, and few are compiled, whatever the lengths are."""
    alone, model = make_model(), make_model()
    ways = PackedStates(alone), PackedStates(model)
    assert [way.check() for way in ways] == ["apart", "apart"]
    compile_passes(model.base_model)
    for lengths in batches:
        expected = read(alone, ways[0], lengths)
        before = graphs.runs
        found = read(model, ways[1], lengths)
        assert graphs.runs == before + 1
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
    assert len(graphs) <= variants


def called(graph: Any) -> set[str]:
    return {str(node.target) for node in graph.graph.nodes}


def attends_by_plain_products(graph: Any) -> bool:
    names = " ".join(called(graph))
    return "baddbmm" in names and "scaled_dot_product" not in names


@pytest.mark.usefixtures("in_bfloat16")
def test_compiled_passes_in_bfloat16(graphs: Graphs) -> None:
    alone, model = make_model(), make_model()
    ways = PackedStates(alone), PackedStates(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        for way in ways:
            way.check()
        compile_passes(model.base_model)
        for lengths in BATCHES:
            found, expected = read(model, ways[1], lengths), read(alone, ways[0], lengths)
            for one, other in zip(found, expected, strict=True):
                assert (one - other).abs().max() <= 0.1 * other.abs().max()
    (graph,) = graphs
    assert attends_by_plain_products(graph)


@pytest.mark.usefixtures("in_bfloat16")
def test_compiled_passes_over_padded_rows_in_bfloat16(graphs: Graphs) -> None:
    alone, model = make_model(), make_model()
    compile_passes(model.base_model)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        for width in (13, 40, 21):
            ids = torch.arange(3 * width).view(3, width) % 40
            found, expected = hidden_states(model, ids), hidden_states(alone, ids)
            assert (found - expected).abs().max() <= 0.05 * expected.abs().max()
    (graph,) = graphs
    assert graphs.runs == 3
    assert attends_by_plain_products(graph)


@pytest.mark.usefixtures("graphs")
def test_layouts_for_compiled_passes_are_made_for_those_alone() -> None:
    alone, model = make_model(), make_model()
    compile_passes(model.base_model)
    assert [is_compiled(alone), is_compiled(model), is_compiled(alone.model)] == [False, True, False]
    assert Sequences.of(torch.tensor([3, 4])).few_batches is None
    assert Sequences.of(torch.tensor([3, 4]), compiled=True).few_batches is not None


@pytest.mark.usefixtures("graphs")
def test_activations_computed_anew_in_compiled_passes() -> None:
    alone, model = make_model(), make_model()
    ways = PackedStates(alone), PackedStates(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    alone.train()
    for way in ways:
        way.check()
    compile_passes(model.base_model)
    for one, other in zip(read(model, ways[1], [5, 9, 3]), read(alone, ways[0], [5, 9, 3]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
