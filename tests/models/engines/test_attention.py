"""Decoding with another attention than the model is trained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import NativeEngine


def _generate(engine: NativeEngine, model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(3, 30, (4, 7), generator=torch.Generator().manual_seed(5))
    lengths = torch.tensor([7, 2, 5, 1])
    options: Any = {"max_new_tokens": 6, "eos_token_id": 999, "pad_token_id": 1, "greedy": True}
    return engine.generate(model, ids, lengths, **options).response_ids


@pytest.fixture
def eager(make_causal_lm: Callable[[str], PreTrainedModel], architecture: str) -> PreTrainedModel:
    model = make_causal_lm(architecture)
    model.set_attn_implementation("eager")
    return model


def test_it_decodes_with_what_is_asked_for_and_the_model_keeps_its_own(eager: PreTrainedModel) -> None:
    expected = _generate(NativeEngine(), eager)
    seen: set[str] = set()
    eager.register_forward_pre_hook(lambda module, _: seen.add(module.config._attn_implementation))
    engine = NativeEngine(attn_implementation="sdpa")
    engine.check(eager)
    seen.clear()
    assert torch.equal(_generate(engine, eager), expected)
    assert seen == {"sdpa"}
    assert eager.config._attn_implementation == "eager"


def test_the_model_keeps_its_own_after_an_error(
    make_causal_lm: Callable[[str], PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_causal_lm("llama")
    model.set_attn_implementation("eager")

    def fails(*_: Any, **__: Any) -> None:
        assert model.config._attn_implementation == "sdpa"
        raise KeyboardInterrupt

    monkeypatch.setattr(model.model.layers[1], "forward", fails)
    with pytest.raises(KeyboardInterrupt):
        _generate(NativeEngine(attn_implementation="sdpa"), model)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["sdpaa", "flash_attention_2"])
def test_what_the_model_does_not_have_is_named(make_causal_lm: Callable[[str], PreTrainedModel], name: str) -> None:
    model = make_causal_lm("llama")
    with pytest.raises(UserError, match=rf"rollout\.engine\.attn_implementation={name}: LlamaForCausalLM does not"):
        NativeEngine(attn_implementation=name).check(model)
    assert model.config._attn_implementation == "sdpa"


def test_another_result_is_refused_before_training(eager: PreTrainedModel) -> None:
    def other(module: nn.Module, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> tuple[Any, None]:
        groups = query.shape[1] // value.shape[1]
        return value[:, :, -query.shape[2] :].repeat_interleave(groups, 1).transpose(1, 2).contiguous(), None

    AttentionInterface.register("other", other)
    with pytest.raises(UserError, match="attn_implementation=other computes .* otherwise .*; set it to null"):
        NativeEngine(attn_implementation="other").check(eager)
