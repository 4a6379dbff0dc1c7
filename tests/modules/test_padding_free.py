"""PPO over rows without padding against PPO over padded ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from transformers import BloomConfig, BloomForCausalLM, PreTrainedModel

from rlhf_lightning.data import PromptBatch, TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    Lora,
    PaddingFreeLogprobs,
    PaddingFreeValues,
    ScalarModel,
    TokenLogprobs,
    load_causal_lm,
)
from rlhf_lightning.modules import PPOModule

MakePPO = Callable[..., PPOModule]
LENGTHS = (3, 9, 5, 1)


def rows() -> tuple[Tensor, Tensor]:
    """Ids and targets: the last two tokens of each row, of one that is a single token none."""
    ids = torch.randint(3, 35, (4, 9))
    column = torch.arange(9)
    lengths = torch.tensor(LENGTHS).unsqueeze(1)
    return ids.masked_fill(column >= lengths, 1), (column < lengths) & (column >= lengths - 2) & (column > 0)


def test_log_probabilities_and_their_gradients_are_those_of_padded_rows(causal_lm: PreTrainedModel) -> None:
    ids, targets = rows()
    read: list[torch.Size] = []
    found, spread = (flat := PaddingFreeLogprobs(TokenLogprobs(causal_lm, temperature=0.7)))(ids, targets)
    hook = causal_lm.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    flat(ids, targets)
    hook.remove()
    assert read == [(1, 3 + 9 + 5)]
    expected, entropy = TokenLogprobs(causal_lm, temperature=0.7)(ids, targets)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(spread, entropy, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(-1, 1, len(found))
    mine = torch.autograd.grad((found * weights).sum(), list(causal_lm.parameters()))
    for one, other in zip(
        mine, torch.autograd.grad((expected * weights).sum(), list(causal_lm.parameters())), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max() + 1))


def test_values_are_those_of_padded_rows(architecture: str, make_scalar_model: Callable[[str], ScalarModel]) -> None:
    value = make_scalar_model(architecture)
    ids, targets = rows()
    expected = value(ids)[:, :-1][targets[:, 1:]]
    torch.testing.assert_close(PaddingFreeValues(value)(ids, targets), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 2}, {"micro_batch_tokens": 40, "async_rollouts": True}])
def test_an_update_has_the_gradients_of_padded_rows(
    run: Callable[..., Any],
    make_ppo: MakePPO,
    make_recorder: Callable[[], Any],
    assert_same_gradients: Callable[..., None],
    prompts: PromptBatch,
    text: TokenBatch,
    architecture: str,
    options: dict[str, Any],
) -> None:
    found = []
    for padding_free in (False, True):
        recorder = make_recorder()
        module = make_ppo(architecture, optimizer=recorder, padding_free=padding_free, kl_coef=0.5, **options)
        first = {"prompts": prompts._replace(ahead=prompts), "text": text}
        outputs = run(module, first, {"prompts": prompts, "text": text})
        found.append((recorder.gradients, outputs))
    (padded, before), (flat, after) = found
    assert len(flat) == len(padded) == 2
    for mine, expected in zip(flat, padded, strict=True):
        assert_same_gradients(mine, expected, relative=1e-4)
    for mine, expected in zip(after, before, strict=True):
        assert torch.equal(mine["trajectory"].input_ids, expected["trajectory"].input_ids)
        for name in ("logprobs", "ref_logprobs", "values", "entropy", "returns"):
            torch.testing.assert_close(
                getattr(mine["trajectory"], name), getattr(expected["trajectory"], name), rtol=1e-4, atol=1e-4
            )
        assert mine["updates"]["ratio"].item() == pytest.approx(1.0, abs=1e-5)  # the recorder takes no step


def test_the_reference_beneath_an_adapter(
    run: Callable[..., Any], make_ppo: MakePPO, prompts: PromptBatch, causal_lm_folders: dict[str, Path]
) -> None:
    folder = str(causal_lm_folders["llama"])
    module = make_ppo(
        policy=lambda: load_causal_lm(name=folder, lora=Lora(rank=2, alpha=8.0)),
        roles="shared",
        padding_free=True,
        learning_rate=0.1,
    )
    outputs = run(module, *[{"prompts": prompts}] * 2)
    part = outputs[1]["trajectory"]
    plain = make_ppo(policy=lambda: load_causal_lm(name=folder), value=None)
    plain.configure_model()
    expected, _ = plain.token_logprobs(part)
    torch.testing.assert_close(part.ref_logprobs, expected, rtol=1e-4, atol=1e-4)
    assert (part.logprobs - part.ref_logprobs).abs().max() > 1e-2


class Plain(nn.Module):
    def forward(self, input_ids: Tensor) -> Tensor:
        return input_ids.float()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": Plain}, "the value model Plain is none of this package"),
        (
            {"policy": lambda: BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=1, n_head=4, vocab_size=35))},
            r"module\.padding_free: BloomForCausalLM takes no position ids.*set module\.padding_free=false",
        ),
    ],
)
def test_what_cannot_be_read_without_padding_is_refused(
    fit: Callable[..., L.Trainer], make_ppo: MakePPO, prompts: PromptBatch, options: dict[str, Any], message: str
) -> None:
    settings = {"value": None} | options
    with pytest.raises(UserError, match=message):
        fit(make_ppo(padding_free=True, **settings), [{"prompts": prompts}])
