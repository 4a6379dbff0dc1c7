"""transformers' sdpa with plain products in place of torch's fused attention, where that computes the same faster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from rlhf_lightning.functional import processor
from rlhf_lightning.models import NativeEngine
from rlhf_lightning.models.forward import hidden_states
from rlhf_lightning.models.sdpa import teach_sdpa

MODULE = sys.modules["rlhf_lightning.models.sdpa"]
Shapes = list[tuple[torch.Size, torch.Size]]
pytestmark = pytest.mark.usefixtures("in_bfloat16")


@pytest.fixture(autouse=True)
def taught() -> None:
    teach_sdpa()


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Shapes:
    """Queries and keys that plain products have read."""
    found: Shapes = []
    own = MODULE.plain_attention

    def counting(query: Tensor, key: Tensor, *others: Any, **options: Any) -> Any:
        found.append((query.shape, key.shape))
        return own(query, key, *others, **options)

    monkeypatch.setattr(MODULE, "plain_attention", counting)
    return found


def attend(
    query: Tensor, key: Tensor, mask: Tensor | None = None, *, module: nn.Module | None = None, **options: Any
) -> Tensor:
    attention = AttentionInterface()["sdpa"]  # type: ignore[no-untyped-call]  # transformers' own has no types
    found: Tensor = attention(module or nn.Identity(), query, key, key, mask, **options)[0]
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_training_in_half_precision(
    make_causal_lm: Callable[..., PreTrainedModel], name: str, plain: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = make_causal_lm(name).eval(), torch.randint(3, 30, (2, 13))
    direction = torch.randn(2, 13, model.config.hidden_size)

    def states_and_gradients() -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            states = hidden_states(model, ids)
        (states * direction).sum().backward()
        return [states, *(weight.grad for weight in model.base_model.parameters() if weight.grad is not None)]

    found = states_and_gradients()
    assert len(plain) == model.config.num_hidden_layers
    monkeypatch.setattr(MODULE, "suits_plain", lambda query, key: False)
    plain.clear()
    expected = states_and_gradients()
    assert not plain
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 0.1 * other.abs().max()
        assert (one - other).abs().mean() <= 0.02 * other.abs().max()


def test_decoding_in_half_precision(make_causal_lm: Callable[..., PreTrainedModel], plain: Shapes) -> None:
    model, ids = make_causal_lm("llama").bfloat16(), torch.randint(3, 30, (3, 5))
    NativeEngine().generate(
        model, ids, torch.tensor([5, 2, 4]), max_new_tokens=20, eos_token_id=999, pad_token_id=0, greedy=True
    )
    steps = {keys[2] for queries, keys in plain if queries[2] == 1 and queries[0] == 3}
    assert steps == {16, 32}


STATES = torch.randn(2, 2, 6, 8, dtype=torch.bfloat16)
ALL = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()


class Bidirectional(nn.Identity):
    is_causal = False


@pytest.mark.parametrize(
    ("mask", "options", "taken"),
    [
        (None, {}, True),
        (None, {"is_causal": True, "module": Bidirectional()}, True),
        (None, {"is_causal": False}, False),
        (None, {"module": Bidirectional()}, False),
        (None, {"output_attentions": False, "position_bias": None, "softcap": None}, True),
        (None, {"position_bias": torch.ones(2, 2, 6, 6, dtype=torch.bfloat16)}, False),
        (ALL, {}, True),
        (ALL[:1], {}, True),
        (ALL.expand(-1, 2, -1, -1), {}, False),
        (torch.zeros(2, 1, 6, 6, dtype=torch.bfloat16), {}, False),
    ],
)
def test_what_is_asked_for_decides(
    mask: Tensor | None, options: dict[str, Any], taken: bool, plain: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = attend(STATES, STATES, mask, **options)
    assert bool(plain) == taken
    monkeypatch.setattr(MODULE, "suits_plain", lambda query, key: False)
    torch.testing.assert_close(found, attend(STATES, STATES, mask, **options), rtol=0, atol=3e-2)


def test_float32_is_left_to_sdpa(plain: Shapes) -> None:
    attend(STATES.float(), STATES.float())
    assert not plain


def test_an_export_is_left_to_sdpa(plain: Shapes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    attend(STATES, STATES)
    assert not plain


def test_models_without_weights_are_left_to_sdpa(plain: Shapes) -> None:
    """From which the plan of a run learns what is kept."""
    assert attend(STATES.to("meta"), STATES.to("meta")).shape == (2, 6, 2, 8)
    assert not plain


def test_what_sdpa_refuses_stays_refused() -> None:
    with pytest.raises(ValueError, match="softcap"):
        attend(STATES, STATES, softcap=5.0)


def test_one_query_sees_all_keys(plain: Shapes, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        found = attend(STATES[:, :, :1], STATES)
        assert plain
        monkeypatch.setattr(MODULE, "suits_plain", lambda query, key: False)
        torch.testing.assert_close(found, attend(STATES[:, :, :1], STATES), rtol=0, atol=3e-2)


def test_fewer_keys_than_columns_before_them_are_left_to_sdpa(plain: Shapes) -> None:
    """A first pass over a static cache, whose empty columns sdpa cuts off."""
    attend(STATES[:, :, :4], STATES)
    assert not plain


def test_the_processor_is_asked_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a compiled pass it could not be."""
    monkeypatch.setattr(processor, "_answers", {})
    monkeypatch.setattr(AttentionInterface, "register", lambda *_: None)
    teach_sdpa.__wrapped__()
    assert "bf16" in processor._answers
