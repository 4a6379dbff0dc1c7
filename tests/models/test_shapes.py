"""Batches come in few sizes where a new size is dear, and nothing that is read depends on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import MptConfig, MptForCausalLM, PreTrainedModel

from rlhf_lightning.models import TokenLogprobs
from rlhf_lightning.models.engines.kv_cache import preallocated_cache
from rlhf_lightning.models.engines.next_logits import NextLogits
from rlhf_lightning.models.engines.prompts import Prompts
from rlhf_lightning.models.engines.steps import EagerSteps
from rlhf_lightning.models.forward import hidden_states, logits_head
from rlhf_lightning.models.shapes import filled, filled_states


def autocast(enabled: bool = True) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


@pytest.mark.parametrize(
    ("shape", "wanted"), [((5, 17), (8, 32)), ((4, 16), (4, 16)), ((1, 50), (4, 60)), ((3, 60), (4, 60))]
)
def test_half_precision_on_a_cpu_sees_few_shapes(
    make_causal_lm: Callable[..., PreTrainedModel], shape: tuple[int, int], wanted: tuple[int, int]
) -> None:
    model = make_causal_lm("llama")
    model.config.max_position_embeddings = 60  # no position behind the context
    ids = torch.randint(3, 30, shape)
    assert filled(ids, model) is ids
    assert filled_states(torch.zeros(5, 8), model).shape == (5, 8)
    for reduced in (model, model.to(torch.bfloat16)):
        with autocast(reduced.dtype == torch.float32):
            whole = filled(ids, reduced)
            assert whole.shape == wanted
            assert torch.equal(whole[: shape[0], : shape[1]], ids)
            assert filled_states(torch.ones(130, 8), reduced).shape == (256, 8)
            assert filled_states(torch.ones(130, 8), reduced).sum() == 130 * 8


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_read_does_not_depend_on_the_filling(
    make_causal_lm: Callable[..., PreTrainedModel], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_causal_lm(name).eval().requires_grad_(False)
    ids, targets = torch.randint(3, 30, (3, 13)), torch.rand(3, 13) < 0.5
    targets[:, 0] = False
    seen: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(inputs[0].shape))
    )
    with autocast():
        states, logprobs = hidden_states(model, ids), TokenLogprobs(model)(ids, targets)
        assert seen[0] == (4, 16)
        monkeypatch.setattr("rlhf_lightning.models.shapes.few_shapes", lambda *_: False)
        seen.clear()
        plain, expected = hidden_states(model, ids), TokenLogprobs(model)(ids, targets)
        assert seen[0] == (3, 13)
    assert states.shape == plain.shape == (3, 13, states.shape[-1])
    torch.testing.assert_close(states.float(), plain.float(), rtol=2e-2, atol=2e-2)
    for found, one in zip(logprobs, expected, strict=True):
        assert found.shape == one.shape == (int(targets.sum()),)
        torch.testing.assert_close(found, one, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize(
    ("remaining", "rows", "plain", "reduced"),
    [(64, 64, 64, 64), (50, 64, 50, 64), (41, 64, 41, 48), (30, 48, 30, 32), (3, 5, 3, 5), (0, 16, 1, 8)],
)
def test_rows_that_have_ended_fill_a_batch_up(
    make_causal_lm: Callable[..., PreTrainedModel], remaining: int, rows: int, plain: int, reduced: int
) -> None:
    model = make_causal_lm("llama")
    cache = preallocated_cache(model.config, 4)
    prompts = Prompts(torch.zeros(rows, 4), cache, torch.ones(rows, 3, dtype=torch.bool), torch.zeros(rows))
    steps = EagerSteps(NextLogits(model), prompts, 4)
    assert steps.going_on(remaining, rows) == plain
    with autocast():
        assert steps.going_on(remaining, rows) == reduced


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_head_of_a_model_is_found_under_autocast(
    make_causal_lm: Callable[..., PreTrainedModel], name: str, seed: int
) -> None:
    model = make_causal_lm(name).requires_grad_(False)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    with autocast():
        head = logits_head(model)  # which compares two passes as closely as float32 allows
        states = hidden_states(model, torch.arange(4).unsqueeze(0))
        assert head(states).shape == (1, 4, model.get_output_embeddings().weight.shape[0])


def test_a_model_that_names_no_context_gets_no_more_columns() -> None:
    # MPT names it otherwise, and its attention has no biases beyond it.
    model = MptForCausalLM(MptConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=40, max_seq_len=20)).bfloat16()
    assert filled(torch.zeros(3, 13, dtype=torch.long), model).shape == (4, 13)
    assert hidden_states(model, torch.ones(3, 20, dtype=torch.long)).shape == (3, 20, 16)
