"""Completions that share their prompt against the same sequences alone, on a tiny model of each architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
)
from transformers import AutoModelForCausalLM as Auto

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import PromptTreeStates, hidden_states

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "initializer_range": 0.2,
    "vocab_size": 40,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "mistral": MistralConfig(**GROUPED, sliding_window=11),
    "gemma3": Gemma3TextConfig(
        **GROUPED, head_dim=8, sliding_window=11, layer_types=["sliding_attention", "full_attention"]
    ),
    "phi3": Phi3Config(**GROUPED),
    "gpt_neox": GPTNeoXConfig(**SIZES),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=16, initializer_range=0.2, vocab_size=40),
    "opt": OPTConfig(
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        init_std=0.2,
        dropout=0.0,
        vocab_size=40,
    ),
}
# Three prompts; of the second, two completions are the same, and one of the third is as good as empty.
SEQUENCES = [
    (0, [5, 6, 7, 8, 30, 31, 32]),
    (0, [5, 6, 7, 8, 33]),
    (1, [9, 10, 20]),
    (0, [5, 6, 7, 8, 30, 34, 35, 36, 37, 38, 39]),
    (1, [9, 10, 20]),
    (1, [9, 11]),
    (2, [12, 13, 14, 15]),
    (2, [12, 13, 14]),
]


def make(architecture: str, attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(3)
    return Auto.from_config(CONFIGS[architecture], attn_implementation=attention).eval()


@pytest.fixture
def sequences() -> tuple[Tensor, Tensor, Tensor]:
    """Padded ids, lengths and prompts."""
    ids = torch.ones(len(SEQUENCES), 11, dtype=torch.long)
    for line, (_, sequence) in zip(ids, SEQUENCES, strict=True):
        line[: len(sequence)] = torch.tensor(sequence)
    return ids, torch.tensor([len(s) for _, s in SEQUENCES]), torch.tensor([number for number, _ in SEQUENCES])


def gradients(model: nn.Module, states: Tensor) -> list[Tensor]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    loss = (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum()
    return [g for g in torch.autograd.grad(loss, weights, allow_unused=True) if g is not None]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_states_and_gradients_are_those_of_the_sequences_alone(
    architecture: str, attention: str, sequences: tuple[Tensor, Tensor, Tensor]
) -> None:
    model = make(architecture, attention)
    ids, lengths, group = sequences
    tokens = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    states = PromptTreeStates(model)
    states.check()
    tokens.clear()
    found = states(ids, lengths, group)
    states(ids, lengths, group)  # measures a batch of this size
    tokens.clear()
    torch.testing.assert_close(states(ids, lengths, group), found)
    assert sum(tokens) < int(lengths.sum())  # prompts were read once
    alone = torch.stack([hidden_states(model, row[None, : int(n)])[0, -1] for row, n in zip(ids, lengths, strict=True)])
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)
    for mine, expected in zip(gradients(model, found), gradients(model, alone), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max() + 1))


@pytest.mark.parametrize("sees", ["all before it", "nothing else"])
def test_an_attention_that_ignores_the_mask_is_refused(sees: str) -> None:
    def wrong(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **_: Any) -> tuple[Tensor, None]:
        if sees == "nothing else" and mask is not None:
            return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1).transpose(1, 2), None
        output = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return output.transpose(1, 2), None

    AttentionInterface.register("wrong_tree", wrong)
    with pytest.raises(UserError, match=r"^module.share_prompt: LlamaForCausalLM .* does not keep the completions"):
        PromptTreeStates(make("llama", "wrong_tree")).check()


def test_positions_that_are_no_ids_are_refused() -> None:
    model = Auto.from_config(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=40))
    with pytest.raises(UserError, match=r"BloomForCausalLM takes no position ids.*module\.share_prompt=false$"):
        PromptTreeStates(model).check()


def test_what_a_tree_would_get_wrong_is_read_sequence_by_sequence(
    sequences: tuple[Tensor, Tensor, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    ids, lengths, group = sequences
    longer = torch.cat([ids, ids[:, :1]], 1)
    lengths[3] = 12  # one more than the window
    model = make("mistral")
    found = PromptTreeStates(model)(longer, lengths, group)
    alone = torch.stack(
        [hidden_states(model, row[None, : int(n)])[0, -1] for row, n in zip(longer, lengths, strict=True)]
    )
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)
    assert not caplog.records


@pytest.mark.parametrize("positions", [64, 16])
def test_a_window_that_counts_in_the_row_shows_on_the_batch(
    sequences: tuple[Tensor, Tensor, Tensor], caplog: pytest.LogCaptureFixture, positions: int
) -> None:
    config = GPTNeoConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=12,
        max_position_embeddings=positions,
        initializer_range=0.2,
        vocab_size=40,
        bos_token_id=2,
        eos_token_id=0,
    )
    torch.manual_seed(3)
    model = Auto.from_config(config).eval()
    ids, lengths, group = sequences
    alone = torch.stack([hidden_states(model, row[None, : int(n)])[0, -1] for row, n in zip(ids, lengths, strict=True)])
    states = PromptTreeStates(model)
    for _ in range(2):
        torch.testing.assert_close(states(ids, lengths, group), alone, rtol=1e-5, atol=1e-5)
    (record,) = caplog.records
    assert "GPTNeoForCausalLM does not give rows of" in record.getMessage()


def test_a_window_shorter_than_the_probe_is_told() -> None:
    model = Auto.from_config(MistralConfig(**GROUPED, sliding_window=2))
    with pytest.raises(UserError, match=r"sliding window of MistralForCausalLM is 2.*share_prompt=false"):
        PromptTreeStates(model).check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_gives_the_same_within_its_rounding(
    sequences: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype
) -> None:
    model = make("llama")
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        found = PromptTreeStates(model)(*sequences)
    exact = PromptTreeStates(model)(*sequences)
    assert (found.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_a_sequence_beyond_the_context_is_refused_but_not_a_tree(sequences: tuple[Tensor, Tensor, Tensor]) -> None:
    ids, lengths, _ = sequences
    states = PromptTreeStates(make("gpt2"))
    assert states(ids, lengths, torch.zeros_like(lengths)).shape == (8, 32)  # one row of more than 16 tokens
    with pytest.raises(UserError, match="17 tokens does not fit the model's context of 16"):
        states(torch.full((2, 17), 5), torch.tensor([17, 2]), torch.tensor([0, 0]))


def test_a_leak_is_seen_in_half_precision() -> None:
    def leaky(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **_: Any) -> tuple[Tensor, None]:
        seen = None if mask is None else mask.clamp(min=-9.0)  # what must not be seen weighs e⁻⁹
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, is_causal=mask is None, enable_gqa=True
        )
        return output.transpose(1, 2), None

    AttentionInterface.register("leaky_tree", leaky)
    with pytest.raises(UserError, match="does not keep the completions"):
        PromptTreeStates(make("llama", "leaky_tree").to(torch.bfloat16)).check()
    PromptTreeStates(make("llama").to(torch.bfloat16)).check()
