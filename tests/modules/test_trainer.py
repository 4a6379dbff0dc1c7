from __future__ import annotations

from collections.abc import Iterator

import lightning as L
import pytest
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import make_trainer


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("precision", ["medium", "high", "highest"])
def test_the_precision_of_products_is_torchs(precision: str) -> None:
    trainer = make_trainer(matmul_precision=precision, max_epochs=3, logger=False, accelerator="cpu")
    assert isinstance(trainer, L.Trainer)
    assert trainer.max_epochs == 3
    assert torch.get_float32_matmul_precision() == precision


def test_nothing_is_set_unasked() -> None:
    torch.set_float32_matmul_precision("high")
    make_trainer(max_epochs=1, logger=False, accelerator="cpu")
    assert torch.get_float32_matmul_precision() == "high"


def test_no_such_precision() -> None:
    with pytest.raises(UserError, match=r"trainer.matmul_precision='low' is none of highest, high, medium"):
        make_trainer(matmul_precision="low")
