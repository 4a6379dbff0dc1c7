"""Two models share a fingerprint of content only if they compute the same."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from rlhf_lightning.models import content_fingerprint, weights_fingerprint


def _last_weight(model: PreTrainedModel) -> None:
    with torch.no_grad():
        model.lm_head.weight[-1, -1] += 1.0


def _norm(model: PreTrainedModel) -> None:
    model.config.rms_norm_eps = 0.5


def _dtype(model: PreTrainedModel) -> None:
    model.to(torch.bfloat16)


@pytest.mark.parametrize("change", [_last_weight, _norm, _dtype])
def test_another_weight_or_setting_is_another_model(
    make_causal_lm: Callable[..., PreTrainedModel], change: Callable[[PreTrainedModel], None]
) -> None:
    model = make_causal_lm("llama")
    other = copy.deepcopy(model)
    assert content_fingerprint(other) == content_fingerprint(model)
    change(other)
    assert content_fingerprint(other) != content_fingerprint(model)


def test_the_cheap_fingerprint_reads_the_first_weights_alone(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm("llama")
    before = weights_fingerprint(model)
    _last_weight(model)
    assert weights_fingerprint(model) == before
