"""Products by oneDNN against float64, and what is left to torch against torch."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import choose_cpu_matmul
from rlhf_lightning.models.shapes import few_shapes
from rlhf_lightning.modules import make_trainer

Calls = list[tuple[torch.Size, torch.Size]]
MODULE = sys.modules["rlhf_lightning.models.cpu_matmul"]
pytestmark = pytest.mark.usefixtures("own_precision")
ROWS, INNER, COLUMNS = 128, 192, 160  # enough to be worth it


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The shapes that oneDNN has multiplied."""
    found: Calls = []
    product = MODULE._product

    def counting(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        found.append((a.shape, b.shape))
        result: Tensor = product(a, b, bias)
        return result

    monkeypatch.setattr(MODULE, "_product", counting)
    return found


def matrices() -> tuple[Tensor, Tensor]:
    return torch.randn(ROWS, INNER), torch.randn(INNER, COLUMNS)


@pytest.mark.parametrize("left", ["rows", "columns"])
@pytest.mark.parametrize("right", ["rows", "columns"])
def test_products_are_those_of_float64(left: str, right: str, calls: Calls) -> None:
    choose_cpu_matmul("onednn")
    a, b = matrices()
    bias = torch.randn(COLUMNS)
    expected = a.double() @ b.double()
    a = a if left == "rows" else a.t().contiguous().t()
    b = b if right == "rows" else b.t().contiguous().t()
    out = torch.empty(ROWS, COLUMNS)
    assert torch.mm(a, b, out=out) is out
    for found, wanted in ((a @ b, expected), (out, expected), (torch.addmm(bias, a, b), expected + bias)):
        assert (found - wanted).abs().max() < 1e-4
        assert found.is_contiguous()
        assert found.dtype == torch.float32
    assert calls == [((ROWS, INNER), (INNER, COLUMNS))] * 3


def odd() -> list[tuple[Tensor, Tensor]]:
    """What oneDNN is not asked for: other dtypes, gaps between rows, repeated rows, few or no numbers."""
    a, b = matrices()
    wide = torch.randn(ROWS, 2 * INNER)
    return [
        (a.double(), b.double()),
        (a.bfloat16(), b.bfloat16()),
        (torch.complex(a, a).conj(), torch.complex(b, b)),
        (wide[:, ::2], b),
        (wide[:, :INNER], b),
        (a[:1].expand(ROWS, INNER), b),
        (a[:2], b),
        (a[:, :0], b[:0]),
        (a[:0], b),
    ]


def test_the_rest_is_torchs_own(calls: Calls) -> None:
    choose_cpu_matmul("torch")
    pairs = odd()
    expected = [(a @ b, torch.addmm(b[:1].sum(0), a, b, beta=0.5)) for a, b in pairs]
    a, b = matrices()
    plain, weighted = a @ b, torch.addmm(b[0], a, b, beta=0.5)
    choose_cpu_matmul("onednn")
    for (left, right), (product, sum_) in zip(pairs, expected, strict=True):
        assert torch.equal(left @ right, product)
        assert torch.equal(torch.addmm(right[:1].sum(0), left, right, beta=0.5), sum_)
    assert torch.equal(torch.addmm(b[0], a, b, beta=0.5), weighted)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        _ = a @ a
    with pytest.raises(RuntimeError):
        torch.mm(a, b[:, 0])
    torch.set_float32_matmul_precision("medium")
    _ = a @ b
    torch.set_float32_matmul_precision("highest")
    choose_cpu_matmul("torch")
    assert torch.equal(a @ b, plain)
    assert calls == []


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_a_linear_layer(bias: bool, calls: Calls) -> None:
    layer = nn.Linear(INNER, COLUMNS, bias=bias)
    exact = nn.Linear(INNER, COLUMNS, bias=bias, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(4, ROWS // 4, INNER)
    weight = torch.randn(4, ROWS // 4, COLUMNS)

    def derivatives(model: nn.Module, x: Tensor, weight: Tensor) -> list[Tensor]:
        """Of first and, through a penalty on the first, of second order."""
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad((model(x).pow(2) * weight).sum(), x, create_graph=True)
        first.pow(2).sum().backward()
        return [first.detach(), x.grad, *(parameter.grad for parameter in model.parameters())]

    choose_cpu_matmul("onednn")
    found = derivatives(layer, x, weight)
    assert len(calls) >= 6
    for one, other in zip(found, derivatives(exact, x.double(), weight.double()), strict=True):
        assert (one - other).abs().max() < 1e-4 * other.abs().max()


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_f": True, "avx_vnni": True}, "onednn"),
        ({"cpu_name": "AMD EPYC", "avx512_f": True, "avx512_vp2intersect": True}, "onednn"),
        ({"cpu_name": "AMD EPYC", "avx512_f": True}, "torch"),  # Zen 4
        ({"cpu_name": "AMD EPYC", "avx512_f": False, "avx_vnni": True}, "torch"),
        ({"cpu_name": "Intel(R) Xeon(R) Processor", "avx512_f": True, "avx_vnni": True}, "torch"),
        ({}, "torch"),
    ],
)
def test_auto_goes_by_the_processor(
    processor: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch, calls: Calls
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert choose_cpu_matmul("auto") == expected
    a, b = matrices()
    _ = a @ b
    assert len(calls) == (expected == "onednn")


def test_the_trainer_chooses() -> None:
    make_trainer(cpu_matmul="onednn", max_epochs=1, logger=False, accelerator="cpu")
    assert MODULE._enabled
    make_trainer(cpu_matmul="torch", max_epochs=1, logger=False, accelerator="cpu")
    assert not MODULE._enabled


@pytest.mark.parametrize(
    ("precision", "choice", "chosen"),
    [
        ("32-true", "auto", True),
        ("64-true", "auto", True),
        ("bf16-mixed", "auto", False),
        ("16-true", "auto", False),
        ("bf16-mixed", "onednn", True),
        ("32-true", "torch", False),
    ],
)
def test_where_half_precision_multiplies_it_chooses_for_nothing(
    precision: str, choice: str, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "_half_idle", lambda: True)
    make_trainer(cpu_matmul=choice, precision=precision, max_epochs=1, logger=False, accelerator="cpu")
    assert MODULE._enabled == chosen


class Chosen(BaseException):
    """Nothing that a command would report."""


@pytest.mark.parametrize("command", ["collect", "evaluate"])
def test_commands_without_a_trainer_choose_too(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"rlhf_lightning.{command}")

    def choose(choice: str = "auto") -> str:
        raise Chosen(choice)

    monkeypatch.setattr(module, "choose_cpu_matmul", choose)
    with pytest.raises(Chosen, match="auto"):
        module._app(OmegaConf.create({}))


def test_what_cannot_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"trainer\.cpu_matmul='mkl' is none of auto, torch, onednn"):
        make_trainer(cpu_matmul="mkl")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(
        UserError, match=r"trainer\.cpu_matmul=onednn: .* without oneDNN; set trainer\.cpu_matmul=torch"
    ):
        choose_cpu_matmul("onednn")
    assert choose_cpu_matmul("auto") == "torch"


def test_few_shapes_come_where_onednn_multiplies() -> None:
    """It keeps memory for each."""
    model, ids = nn.Linear(2, 2), torch.zeros(3, 17, dtype=torch.long)
    choose_cpu_matmul("torch")
    assert not few_shapes(ids, model)
    choose_cpu_matmul("onednn")
    assert few_shapes(ids, model)
    assert not few_shapes(ids, model.double())  # which is left to torch


def test_where_onednn_is_switched_off_it_is_not_asked(calls: Calls) -> None:
    choose_cpu_matmul("onednn")
    a, b = matrices()
    with torch.backends.mkldnn.flags(enabled=False):
        _ = a @ b
    assert calls == []


def test_precision_asked_for_in_torchs_newer_way_is_left_to_torch(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_cpu_matmul("onednn")

    def mixed() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    a, b = matrices()
    assert (a @ b - a.double() @ b.double()).abs().max() < 1e-4
    assert calls == []
