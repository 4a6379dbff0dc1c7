"""A cache that is read in whole blocks: what is empty is masked, and no model is trusted to do so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel

from rlhf_lightning.models import Generation, NativeEngine
from rlhf_lightning.models.engines import blocks
from rlhf_lightning.models.engines.blocks import block_for
from rlhf_lightning.models.engines.kv_cache import PreallocatedLayer, block_of, preallocated_cache

LENGTHS = torch.tensor([7, 3, 10, 1])
WINDOWED = {"gemma2", "gemma3_text", "mistral"}
pytestmark = pytest.mark.usefixtures("in_bfloat16")


def autocast(enabled: bool = True) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


def _sample(model: PreTrainedModel, ids: Tensor, eos: int) -> Generation:
    return NativeEngine().generate(
        model, ids, LENGTHS, max_new_tokens=30, eos_token_id=eos, pad_token_id=1, greedy=True
    )


def test_it_is_what_a_cache_without_blocks_gives(
    model_folder: Callable[..., Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, where rounding does not hide a mistake; rows end early and late."""
    causal_lm = AutoModelForCausalLM.from_pretrained(model_folder(kind))
    ids = torch.randint(3, 30, (4, 10))
    ids[3, :3] = ids[1, :3]
    unending = _sample(causal_lm, ids, 999)
    eos = int(unending.response_ids[0, 12])
    expected = _sample(causal_lm, ids, eos)
    monkeypatch.setattr(blocks, "in_half_precision", lambda model: True)
    with torch.no_grad():
        assert block_for(causal_lm, 40) == (None if kind in WINDOWED else 16)
    for found, wanted in ((_sample(causal_lm, ids, 999), unending), (_sample(causal_lm, ids, eos), expected)):
        assert torch.equal(found.response_ids, wanted.response_ids)
        torch.testing.assert_close(found.logprobs, wanted.logprobs, rtol=0, atol=1e-5)


def test_finding_out_shows_in_no_hook(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model, ids, passes = make_causal_lm("llama").bfloat16(), torch.randint(3, 30, (1, 4)), []
    model.register_forward_hook(lambda *_: passes.append(1))
    NativeEngine().generate(model, ids, torch.tensor([4]), max_new_tokens=3, eos_token_id=999, pad_token_id=0)
    assert len(passes) == 3


def test_blocks_are_for_half_precision(
    make_causal_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_causal_lm("llama")
    with torch.no_grad():
        assert block_for(model, 20) is None
        with autocast():
            assert block_for(model, 20) == 16
        model = make_causal_lm("llama").bfloat16()
        model.config.max_position_embeddings = 60
        assert block_for(model, 48) == 16
        assert block_for(model, 49) is None  # whose last block would end at 64
        monkeypatch.setattr(blocks, "multiplies_bf16", lambda: False)
        assert block_for(model, 20) is None


def _unmasked(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: object
) -> tuple[Tensor, None]:
    found = nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    return found.transpose(1, 2).contiguous(), None


def _of_one_size(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: object
) -> tuple[Tensor, None]:
    if key.shape[2] == 16:
        raise ValueError("no such size")
    return _unmasked(module, query, key, value, attention_mask)


@pytest.mark.parametrize("attention", [_unmasked, _of_one_size])
def test_a_model_that_does_not_heed_the_mask_has_none(
    make_causal_lm: Callable[..., PreTrainedModel], attention: Callable[..., tuple[Tensor, None]]
) -> None:
    """Also where attention hardly matters yet, as in a model that has not been trained."""
    model = make_causal_lm("llama")
    AttentionInterface.register("without_mask", attention)
    model.set_attn_implementation("without_mask")
    with torch.no_grad(), autocast():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(1e-2)
        assert block_for(model, 20) is None
        model.set_attn_implementation("sdpa")
        assert block_for(model, 20) == 16


def test_what_a_layer_gives_has_no_gaps_and_ends_in_zeros() -> None:
    layer, written = PreallocatedLayer(99, block=4), torch.randn(3, 2, 9, 5)
    for start, end in ((0, 3), (3, 4), (4, 5), (5, 9)):
        whole = -(-end // 4) * 4
        assert layer.get_mask_sizes(end - start) == (whole, 0)
        part = written[:, :, start:end]
        keys, values = layer.update(part, -part)
        for found, sign in ((keys, 1), (values, -1)):
            assert found.shape == (3, 2, whole, 5)
            assert found.is_contiguous()
            assert torch.equal(found[:, :, :end], sign * written[:, :, :end])
            assert (found[:, :, end:] == 0).all()
        assert layer.get_seq_length() == end
        assert torch.equal(layer.keys, written[:, :, :end])


@pytest.mark.parametrize("rows", [[0, 2], [2, 0, 1, 1]])
def test_rows_that_stay_keep_their_blocks(rows: list[int]) -> None:
    layer, written, more = PreallocatedLayer(9, block=4), torch.randn(3, 2, 5, 5), torch.randn(len(rows), 2, 1, 5)
    layer.update(written, written)
    layer.batch_select_indices(torch.tensor(rows))
    found, _ = layer.update(more, more)
    assert found.is_contiguous()
    assert torch.equal(found[:, :, :6], torch.cat([written[rows], more], 2))
    assert (found[:, :, 6:] == 0).all()


def test_a_cache_knows_its_blocks(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    config = make_causal_lm("llama").config
    assert block_of(preallocated_cache(config, 8)) == 1
    assert block_of(preallocated_cache(config, 8, block=16)) == 16
