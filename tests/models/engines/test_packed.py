"""Linear layers over packed copies of their weights: the same numbers, and the layers as they were behind it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_lightning.functional.processor import multiplies_bf16
from rlhf_lightning.models import NativeEngine
from rlhf_lightning.models.engines import packed as packing
from rlhf_lightning.models.engines.packed import packed_weights

pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="packed on x86 alone"),
    pytest.mark.usefixtures("own_precision"),
]


@pytest.fixture(autouse=True)
def _small_weights_too(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "least" not in request.fixturenames:
        monkeypatch.setattr(packing, "_LEAST", 1)


@pytest.mark.parametrize(("inputs", "least"), [(256, True), (255, False)])
def test_weights_worth_a_call_are_packed(inputs: int, least: bool, multiplied: list[torch.Size]) -> None:
    """From 2¹⁵ numbers on."""
    model = nn.Linear(inputs, 128)
    with torch.no_grad(), packed_weights(model):
        model(torch.randn(5, inputs))
    assert bool(multiplied) == least


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of what packed layers have read."""
    found: list[torch.Size] = []
    own: Callable[..., Tensor] = packing._linear

    def counting(*arguments: object) -> Tensor:
        assert isinstance(arguments[-1], Tensor)
        found.append(arguments[-1].shape)
        return own(*arguments)

    monkeypatch.setattr(packing, "_linear", counting)
    return found


def layers(bias: bool, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(24, 40, bias=bias), nn.GELU(), nn.Linear(40, 7, bias=bias)).to(dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 24), (3, 1, 24), (0, 24)])
def test_results_are_those_of_the_layers(bias: bool, shape: tuple[int, ...], multiplied: list[torch.Size]) -> None:
    model, x = layers(bias), torch.randn(shape)
    with torch.no_grad():
        expected = model(x)
        with packed_weights(model):
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)
        assert len(multiplied) == 2
        assert torch.equal(model(x), expected)
    assert len(multiplied) == 2
    assert not any("forward" in vars(layer) for layer in model)


needs_bf16 = pytest.mark.skipif(not multiplies_bf16(), reason="this processor does not multiply bfloat16")


@needs_bf16
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_that_of_autocast_or_of_the_model(dtype: torch.dtype, multiplied: list[torch.Size]) -> None:
    model, x = layers(True, dtype), torch.randn(5, 24)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
        x = x.to(dtype)
        expected = model(x)
        with packed_weights(model):
            found = model(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)
    assert len(multiplied) == 2


class Router(nn.Module):
    """A part that is computed in float32, whatever autocast says."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            found: Tensor = self.layer(x.float())
        return found


@needs_bf16
def test_what_autocast_is_kept_from_stays_exact() -> None:
    model, x = Router(), torch.randn(5, 24)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), packed_weights(model):
        found = model(x)
    assert torch.equal(found, nn.functional.linear(x, model.layer.weight, model.layer.bias))
    assert found.dtype == torch.float32


@needs_bf16
def test_what_a_layer_refuses_stays_refused() -> None:
    model = layers(True, torch.bfloat16)
    with torch.no_grad(), packed_weights(model), pytest.raises(RuntimeError, match="dtype"):
        model(torch.randn(5, 24))


def test_processors_without_bfloat16_are_left_alone(
    multiplied: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "multiplies_bf16", lambda: False)
    model = layers(True, torch.bfloat16)
    with torch.no_grad(), packed_weights(model):
        model(torch.randn(5, 24).bfloat16())
    assert not multiplied


def test_weights_are_read_as_they_are_when_it_begins() -> None:
    model, x = layers(False), torch.randn(5, 24)
    with torch.no_grad():
        for _ in range(2):
            with packed_weights(model):
                torch.testing.assert_close(model(x), model[2](model[1](x @ model[0].weight.T)), rtol=0, atol=1e-6)
            for parameter in model.parameters():
                parameter.add_(1.0)


def test_gradients_go_to_the_weights() -> None:
    model, x = layers(True), torch.randn(5, 24)
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    with packed_weights(model):
        found = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_after_an_exception_the_layers_are_as_they_were() -> None:
    model = layers(True)
    with pytest.raises(KeyError), packed_weights(model):
        raise KeyError
    assert not any("forward" in vars(layer) for layer in model)


class Own(nn.Linear):
    """Not what it is called."""


@pytest.mark.parametrize("model", [Own(24, 8), nn.Linear(24, 8).double(), nn.Linear(24, 0)])
def test_other_layers_are_left_alone(model: nn.Linear, multiplied: list[torch.Size]) -> None:
    x = torch.randn(5, 24, dtype=model.weight.dtype)
    with torch.no_grad(), packed_weights(model):
        assert torch.equal(model(x), nn.functional.linear(x, model.weight, model.bias))
    assert not multiplied


def test_a_forward_of_ones_own_stays(multiplied: list[torch.Size]) -> None:
    model = nn.Linear(24, 8)
    model.forward = own = lambda input: input  # type: ignore[method-assign]
    with packed_weights(model):
        assert model.forward is own
    assert model.forward is own
    assert not multiplied


def test_less_than_full_precision_is_left_to_torch(multiplied: list[torch.Size]) -> None:
    model, x = layers(True), torch.randn(5, 24)
    torch.set_float32_matmul_precision("medium")
    with torch.no_grad(), packed_weights(model):
        model(x)
        assert not multiplied
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), packed_weights(model):
        torch.set_float32_matmul_precision("highest")
        model(x)
    assert not multiplied


@pytest.mark.parametrize(("options", "used"), [({}, True), ({"pack_weights": False}, False)])
def test_the_engine_decodes_with_them(
    make_causal_lm: Callable[..., PreTrainedModel],
    options: dict[str, bool],
    used: bool,
    multiplied: list[torch.Size],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, ids, lengths = make_causal_lm("llama"), torch.randint(3, 30, (3, 5)), torch.tensor([5, 2, 4])
    found = NativeEngine(**options).generate(
        model, ids, lengths, max_new_tokens=6, eos_token_id=999, pad_token_id=0, greedy=True
    )
    assert bool(multiplied) == used
    assert not any("forward" in vars(layer) for layer in model.modules())
    own: ModuleType = packing
    monkeypatch.setattr(own, "_can_pack", lambda model: False)
    expected = NativeEngine().generate(
        model, ids, lengths, max_new_tokens=6, eos_token_id=999, pad_token_id=0, greedy=True
    )
    assert torch.equal(found.response_ids, expected.response_ids)
