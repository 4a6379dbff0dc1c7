"""The preallocated cache against transformers' own, which copies everything in every step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlhf_lightning.models.engines.kv_cache import PreallocatedLayer, can_be_joined, joined, preallocated_cache
from rlhf_lightning.models.engines.next_logits import NextLogits


def _states(rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4)


@pytest.mark.parametrize("width", [1, 6, 20])
def test_it_holds_what_was_written_whatever_room_there_was(width: int) -> None:
    layer, written = PreallocatedLayer(width), [_states(3, tokens) for tokens in (4, 1, 1, 3)]
    assert layer.get_seq_length() == 0
    for keys, values in written:
        found = layer.update(keys, values)
    for number in (0, 1):
        assert torch.equal(found[number], torch.cat([states[number] for states in written], 2))
    assert layer.get_seq_length() == 9


@pytest.mark.parametrize("rows", [[0, 2], [2, 0], [1], [0, 0, 1, 2, 2], [0, 1, 2]])
def test_rows_that_stay_keep_their_tokens_and_take_more(rows: list[int]) -> None:
    layer = PreallocatedLayer(8)
    keys, values = _states(3, 5)
    layer.update(keys, values)
    layer.batch_select_indices(torch.tensor(rows))
    more = _states(len(rows), 1)
    found = layer.update(*more)
    for number, states in enumerate((keys, values)):
        assert torch.equal(found[number], torch.cat([states[rows], more[number]], 2))


def test_a_step_allocates_nothing() -> None:
    layer = PreallocatedLayer(8)
    first = layer.update(*_states(3, 5))[0].data_ptr()
    layer.batch_select_indices(torch.tensor([0, 2]))
    assert layer.update(*_states(2, 1))[0].data_ptr() == first


def test_after_a_reset_it_is_empty() -> None:
    layer = PreallocatedLayer(4)
    layer.update(*_states(2, 3))
    layer.reset()
    assert layer.get_seq_length() == 0
    keys, values = _states(1, 2)
    assert torch.equal(layer.update(keys, values)[0], keys)


def test_models_give_the_same_logits_with_it(causal_lm: PreTrainedModel) -> None:
    ids, positions = torch.randint(3, 30, (2, 6)), torch.arange(6).expand(2, 6)
    read = NextLogits(causal_lm)
    mine, theirs = preallocated_cache(causal_lm.config, 6), DynamicCache(config=causal_lm.config)
    with torch.no_grad():
        for start, end in ((0, 4), (4, 5), (5, 6)):
            part = (ids[:, start:end], positions[:, start:end], None)
            torch.testing.assert_close(read(*part, mine), read(*part, theirs), rtol=0, atol=1e-6)


def test_rows_of_several_caches_in_one(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm("llama")
    read, caches = NextLogits(model), []
    prompts = [torch.randint(3, 30, (2, 3)), torch.randint(3, 30, (1, 7))]
    step = torch.randint(3, 30, (3, 1))
    expected = []
    with torch.no_grad():
        for prompt, token in zip(prompts, (step[:2], step[2:]), strict=True):
            positions = torch.arange(prompt.shape[1]).expand_as(prompt)
            caches.append(DynamicCache(config=model.config))
            read(prompt, positions, None, caches[-1])
            both = torch.cat([prompt, token], 1)
            expected.append(model(both).logits[:, -1])
        whole = joined(caches, model.config, 8)
        assert can_be_joined(whole)
        mask = torch.arange(8) >= torch.tensor([4, 4, 0]).unsqueeze(1)
        found = read(step, torch.tensor([[3], [3], [7]]), mask, whole)
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)
    assert whole.get_seq_length() == 8


def test_layers_with_a_window_are_left_as_they_are(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    config = make_causal_lm("llama").config
    config.sliding_window, config.layer_types = 4, ["sliding_attention"] * config.num_hidden_layers
    cache = preallocated_cache(config, 8)
    assert not can_be_joined(cache)
    assert not any(isinstance(layer, PreallocatedLayer) for layer in cache.layers)
