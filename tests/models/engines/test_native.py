"""What the native engine adds to sampling: log-probabilities, prompts in groups, casts under autocast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import NativeEngine, TokenLogprobs
from rlhf_lightning.models.engines.next_logits import NextLogits
from rlhf_lightning.models.engines.prompts import read_prompts

LENGTHS = torch.tensor([7, 3, 10, 1, 5, 3])


def _sample(model: PreTrainedModel, ids: Tensor, lengths: Tensor, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    settings = {"max_new_tokens": 8, "eos_token_id": 2, "pad_token_id": 1} | options
    found = NativeEngine().generate(model, ids, lengths, **settings)  # type: ignore[arg-type]  # options by name
    assert found.logprobs is not None
    return found.response_ids, found.lengths, found.logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_those_of_the_training_forward(causal_lm: PreTrainedModel, temperature: float) -> None:
    ids = torch.randint(3, 30, (6, 10))
    responses, ends, found = _sample(causal_lm, ids, LENGTHS, temperature=temperature)
    assert found.shape == responses.shape
    score = TokenLogprobs(causal_lm, temperature=temperature)
    for row, (start, steps) in enumerate(zip(LENGTHS.tolist(), ends.tolist(), strict=True)):
        whole = torch.cat([ids[row, :start], responses[row, :steps]]).unsqueeze(0)
        expected, _ = score(whole, torch.arange(whole.shape[1]).unsqueeze(0) >= start)
        torch.testing.assert_close(found[row, :steps], expected.detach(), rtol=0, atol=1e-4)
        assert (found[row, steps:] == 0).all()


def test_greedy_log_probabilities_are_those_of_the_best_tokens_at_temperature_one(causal_lm: PreTrainedModel) -> None:
    ids = torch.randint(3, 30, (6, 10))
    responses, _, found = _sample(causal_lm, ids, LENGTHS, greedy=True, eos_token_id=999)
    whole = torch.cat([ids[2, :10], responses[2]]).unsqueeze(0)
    expected, _ = TokenLogprobs(causal_lm)(whole, torch.arange(18).unsqueeze(0) >= 10)
    torch.testing.assert_close(found[2], expected.detach(), rtol=0, atol=1e-4)


def test_prompts_of_like_length_are_read_together(
    make_causal_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_causal_lm("llama")
    ids, read = torch.randint(3, 30, (6, 10)), NextLogits(model)
    ids[5, :3] = ids[1, :3]  # one prompt twice
    with torch.no_grad():
        together = read_prompts(model, read, ids, LENGTHS, room=1)
        monkeypatch.setattr("rlhf_lightning.functional.grouping.PASS", 0)
        shapes: list[tuple[int, ...]] = []
        model.register_forward_pre_hook(
            lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        apart = read_prompts(model, read, ids, LENGTHS, room=1)
    assert shapes == [(1, 1), (1, 3), (1, 5), (1, 7), (1, 10)]
    torch.testing.assert_close(apart.logits, together.logits, rtol=0, atol=1e-5)
    assert torch.equal(apart.mask, together.mask)
    for mine, other in zip(apart.cache.layers, together.cache.layers, strict=True):
        for row, length in enumerate(LENGTHS.tolist()):
            assert torch.allclose(mine.keys[row, :, -length:], other.keys[row, :, -length:], atol=1e-5)


def test_under_autocast_a_weight_is_converted_once(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    """As often as in a single pass, not in each of eight; and the passes that follow convert anew."""
    model = make_causal_lm("llama")
    weights = {p.data_ptr() for p in model.parameters()}
    casts = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: object, types: object, args: tuple = (), kwargs: dict | None = None
        ) -> object:
            if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in weights:
                casts.append(args[0].data_ptr())
            return func(*args, **(kwargs or {}))  # type: ignore[operator]

    ids = torch.randint(3, 30, (6, 10))
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        with Casts():
            _sample(model, ids, LENGTHS, eos_token_id=999)
        assert casts
        assert len(casts) == len(set(casts))
        before = model(ids).logits
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)
        assert not torch.equal(model(ids).logits, before)


def test_a_batch_of_no_prompts_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size=0"):
        NativeEngine(batch_size=0)
