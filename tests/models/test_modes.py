from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from rlhf_lightning.models import generation_mode


def test_every_submodule_gets_its_own_mode_back(causal_lm: PreTrainedModel) -> None:
    causal_lm.train()
    frozen = causal_lm.get_input_embeddings()
    frozen.eval()
    before = [module.training for module in causal_lm.modules()]
    with generation_mode(causal_lm):
        assert not any(module.training for module in causal_lm.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in causal_lm.modules()] == before
    assert torch.is_grad_enabled()


def test_also_after_an_exception(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm().train()

    def fail() -> None:
        with generation_mode(model):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert model.training
    assert torch.is_grad_enabled()
