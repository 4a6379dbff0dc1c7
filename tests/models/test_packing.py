"""Packed rows against the same examples alone, on a tiny random model of each architecture."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    BloomConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
)
from transformers import AutoModelForCausalLM as Auto

from rlhf_lightning.data import PackedBatch, collate_packs
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import PackedStates, TokenLogprobs, hidden_states

ROTARY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 16,
    "initializer_range": 0.2,
}
IDS = {"vocab_size": 40, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 0}
# A context of 16 tokens, shorter than the packs; windows of 4, shorter than the examples.
CONFIGS = {
    "llama": LlamaConfig(**ROTARY, **IDS),
    "qwen2": Qwen2Config(**ROTARY, **IDS),
    "mistral": MistralConfig(**ROTARY, **IDS, sliding_window=4),
    "gemma3": Gemma3TextConfig(**ROTARY, **IDS, sliding_window=4, layer_types=["sliding_attention", "full_attention"]),
    "phi3": Phi3Config(**{key: value for key, value in ROTARY.items() if key != "head_dim"}, **IDS),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=16, initializer_range=0.2, **IDS),
    "gpt_neox": GPTNeoXConfig(
        **{key: value for key, value in ROTARY.items() if key not in ("head_dim", "num_key_value_heads")}, **IDS
    ),
    "opt": OPTConfig(
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        init_std=0.2,
        dropout=0.0,
        **IDS,
    ),
}
WINDOWED = {"mistral", "gemma3"}
LENGTHS = [9, 7, 5, 12, 3, 1, 8, 2]  # first-fit decreasing into 20: 12+8, 9+7+3+1, 5+2


def make(architecture: str, attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(3)
    return Auto.from_config(CONFIGS[architecture], attn_implementation=attention).eval()


@pytest.fixture
def examples() -> list[dict[str, Any]]:
    return [{"input_ids": torch.randint(2, 40, (n,)).tolist(), "prompt_length": n // 3} for n in LENGTHS]


@pytest.fixture
def packs(examples: list[dict[str, Any]]) -> PackedBatch:
    return collate_packs(examples, pad_id=1, size=20)


def spans(batch: PackedBatch) -> Iterator[tuple[int, slice]]:
    """Row and columns of every example."""
    for row, (positions, length) in enumerate(zip(batch.position_ids, batch.lengths.tolist(), strict=True)):
        starts = [*(positions[:length] == 0).nonzero().flatten().tolist(), length]
        yield from ((row, slice(a, b)) for a, b in pairwise(starts))


def packed(model: nn.Module, batch: PackedBatch) -> Tensor:
    return PackedStates(model)(batch.input_ids, batch.lengths, batch.position_ids)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_states_are_those_of_the_examples_alone(architecture: str, attention: str, packs: PackedBatch) -> None:
    model = make(architecture, attention)
    found = packed(model, packs)
    assert sorted(columns.stop - columns.start for _, columns in spans(packs)) == sorted(LENGTHS)
    for row, columns in spans(packs):
        alone = hidden_states(model, packs.input_ids[row : row + 1, columns])[0]
        torch.testing.assert_close(found[row, columns], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_another_example_in_the_same_pack_changes_nothing(architecture: str, packs: PackedBatch) -> None:
    model = make(architecture)
    states = PackedStates(model)
    before = model.get_output_embeddings()(states(packs.input_ids, packs.lengths, packs.position_ids))
    for row, columns in spans(packs):
        ids = packs.input_ids.clone()
        ids[row, columns] = (ids[row, columns] + 5) % 38 + 2
        after = model.get_output_embeddings()(states(ids, packs.lengths, packs.position_ids))
        others = torch.ones_like(ids, dtype=torch.bool)
        others[row, columns] = False
        torch.testing.assert_close(after[others], before[others], rtol=0, atol=0)
        assert not torch.equal(after[row, columns], before[row, columns])


@pytest.mark.parametrize("architecture", CONFIGS)
def test_log_probabilities_and_gradients_are_those_of_the_examples_alone(
    architecture: str, examples: list[dict[str, Any]], packs: PackedBatch
) -> None:
    model, other = make(architecture), make(architecture)
    found, _ = TokenLogprobs(model)(packs.input_ids, packs.loss_mask, hidden=packed(model, packs))
    found.mean().backward()
    expected = []
    for example in examples:
        ids = torch.tensor([example["input_ids"]])
        logits = other(input_ids=ids).logits[0, :-1].log_softmax(-1)
        chosen = logits.gather(1, ids[0, 1:, None]).squeeze(1)
        expected.append(chosen[max(example["prompt_length"], 1) - 1 :])
    loss = torch.cat(expected).mean()
    loss.backward()
    assert found.numel() == sum(part.numel() for part in expected) == 32
    assert found.mean().item() == pytest.approx(loss.item(), rel=1e-5)
    size = torch.stack([parameter.grad.norm() for parameter in other.parameters()]).norm()
    for (name, parameter), twin in zip(model.named_parameters(), other.parameters(), strict=True):
        # The gradient of a bias of keys is 0 but for rounding, hence the second term.
        assert (parameter.grad - twin.grad).norm() <= 1e-5 * max(twin.grad.norm(), 1e-2 * size), name


def test_the_way_that_each_model_understands_is_found() -> None:
    """OPT takes position ids and does not make its mask of them: restarted positions alone would leak."""
    ways = {name: PackedStates(make(name, "eager")).check() for name in CONFIGS}
    assert ways.pop("opt") == "masked"
    assert set(ways.values()) == {"rows"}


def test_on_a_cpu_fused_attention_is_given_the_examples_as_batches() -> None:
    ways = {name: PackedStates(make(name)).check() for name in CONFIGS}
    assert {name for name, way in ways.items() if way == "rows"} == WINDOWED
    assert {way for name, way in ways.items() if name not in WINDOWED} == {"apart"}


def test_a_leak_is_seen_in_half_precision_and_under_weak_weights() -> None:
    weak = OPTConfig(**{**CONFIGS["opt"].to_dict(), "init_std": 5e-4})
    for seed in range(3):
        torch.manual_seed(seed)
        assert (
            PackedStates(Auto.from_config(weak, dtype=torch.bfloat16, attn_implementation="eager")).check() == "masked"
        )


def _one_row_only(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, position_ids: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """What FlashAttention does with position ids: it looks for restarts in a batch of one row, otherwise in none."""
    starts = (position_ids[0] == 0).nonzero().flatten().tolist() if len(query) == 1 else [0]
    sizes = [b - a for a, b in zip(starts, [*starts[1:], query.shape[2]], strict=True)]
    parts = zip(*(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
    scale, grouped = options.get("scaling"), query.shape[1] != key.shape[1]
    outputs = [
        nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
        for q, k, v in parts
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "opt"])
def test_packs_are_joined_for_an_attention_that_reads_restarts_in_one_row_only(
    architecture: str, packs: PackedBatch
) -> None:
    AttentionInterface.register("one_row_only", _one_row_only)
    model = make(architecture, "one_row_only")
    rows: list[torch.Size] = []
    found = PackedStates(model)
    assert found.check() == "flat"
    model.get_input_embeddings().register_forward_pre_hook(lambda module, args: rows.append(args[0].shape))
    states = found(packs.input_ids, packs.lengths, packs.position_ids)
    assert rows == [torch.Size([1, 47])]  # all tokens of the three packs and no padding
    expected = packed(make(architecture), packs)
    for row, columns in spans(packs):
        torch.testing.assert_close(states[row, columns], expected[row, columns], rtol=1e-5, atol=1e-5)


def test_a_given_mask_is_not_used_where_it_would_replace_a_sliding_window(packs: PackedBatch) -> None:
    def given(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **_: Any) -> tuple[Tensor, None]:
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        return output.transpose(1, 2), None

    AttentionInterface.register("given_mask", given)
    assert PackedStates(make("llama", "given_mask")).check() == "masked"
    wide = MistralConfig(**ROTARY, **IDS, sliding_window=8)  # wider than the examples that it is tried on
    with pytest.raises(UserError, match="MistralForCausalLM with this attention does not keep the examples"):
        PackedStates(Auto.from_config(wide, attn_implementation="given_mask")).check()


@pytest.mark.parametrize("rows_see", ["the whole row", "nothing but themselves"])
def test_an_attention_that_ignores_restarts_is_refused(rows_see: str) -> None:
    def wrong(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any) -> tuple[Tensor, None]:
        if rows_see == "nothing but themselves" and len(query) > 1:
            return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1).transpose(1, 2), None
        output = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return output.transpose(1, 2), None

    AttentionInterface.register("wrong", wrong)
    with pytest.raises(UserError, match=r"LlamaForCausalLM with this attention does not keep the examples .* apart"):
        PackedStates(make("llama", "wrong")).check()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BloomConfig(hidden_size=32, n_layer=2, n_head=4, **IDS), "BloomForCausalLM takes no position ids"),
        (
            FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, **IDS),
            "FalconForCausalLM with this attention does not keep",
        ),
    ],
    ids=["bloom", "falcon"],
)
def test_positions_that_are_no_ids_are_refused(config: Any, reason: str) -> None:
    model = Auto.from_config(config)
    with pytest.raises(UserError, match=rf"^data\.packing: {reason}.*data\.packing=null$"):
        PackedStates(model).check()


def test_a_pack_may_be_longer_than_the_context_but_no_example() -> None:
    model = make("gpt2")
    states = PackedStates(model)
    short = collate_packs([{"input_ids": [5] * 16, "prompt_length": 1}] * 2, pad_id=1, size=32)
    assert states(short.input_ids, short.lengths, short.position_ids).shape == (1, 32, 32)
    long = collate_packs([{"input_ids": [5] * 17, "prompt_length": 1}], pad_id=1, size=32)
    with pytest.raises(UserError, match="17 tokens does not fit the model's context of 16"):
        states(long.input_ids, long.lengths, long.position_ids)


def test_the_probe_leaves_the_model_as_it_was() -> None:
    config = GPT2Config(**{**CONFIGS["gpt2"].to_dict(), "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5})
    model = Auto.from_config(config).train()
    before = torch.get_rng_state()
    assert PackedStates(model).check() == "apart"
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("architecture", ["llama", "opt"])
def test_mixed_precision_keeps_examples_apart(architecture: str, packs: PackedBatch) -> None:
    model = make(architecture)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        found = packed(model, packs)
    exact = packed(model, packs)
    for row, columns in spans(packs):
        torch.testing.assert_close(found[row, columns].float(), exact[row, columns], rtol=0.2, atol=0.2)
