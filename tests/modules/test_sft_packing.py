"""Supervised fine-tuning on packs: what the same examples give unpacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM, PreTrainedModel

from rlhf_lightning.data import PackedBatch, TokenBatch, collate_packs
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import SFTModule

Fit = Callable[..., L.Trainer]


def as_packs(batch: TokenBatch, rows: Sequence[int], *, size: int) -> PackedBatch:
    """The given examples of a padded batch, packed."""
    examples = [
        {
            "input_ids": batch.input_ids[row, : batch.lengths[row]].tolist(),
            "prompt_length": int(batch.loss_mask[row].long().argmax()),
        }
        for row in rows
    ]
    return collate_packs(examples, pad_id=1, size=size)


@pytest.mark.parametrize("micro_batch_size", [1, 2, None])
@pytest.mark.parametrize("size", [32, 200])
def test_loss_and_gradient_are_those_of_the_padded_batch(
    fit: Fit,
    make_recorder: Callable[[], Any],
    assert_same_gradients: Callable[..., None],
    make_causal_lm: Callable[[str], PreTrainedModel],
    architecture: str,
    tokens: TokenBatch,
    micro_batch_size: int | None,
    size: int,
) -> None:
    found: list[tuple[float, dict[str, Tensor]]] = []
    for batch in (as_packs(tokens, range(8), size=size), tokens):
        recorder = make_recorder()
        module = SFTModule(
            policy=lambda: make_causal_lm(architecture),
            optimizer=recorder,
            micro_batch_size=micro_batch_size,
            max_grad_norm=None,
        )
        trainer = fit(module, [batch])
        found.append((trainer.callback_metrics["train/loss"].item(), recorder.gradients[0]))
    (loss, gradients), (expected, padded_gradients) = found
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_same_gradients(gradients, padded_gradients)


def test_validation_loss_weighs_tokens_not_packs(
    fit: Fit, make_causal_lm: Callable[..., PreTrainedModel], tokens: TokenBatch
) -> None:
    losses = []
    for validation in ([as_packs(tokens, [0, 1], size=40), as_packs(tokens, range(2, 8), size=40)], [tokens]):
        module = SFTModule(policy=make_causal_lm, learning_rate=0.0)
        losses.append(fit(module, [tokens], validation=validation).callback_metrics["val/loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_on_packs_follows_training_on_padded_batches(
    fit: Fit, make_causal_lm: Callable[..., PreTrainedModel], tokens: TokenBatch
) -> None:
    weights = []
    for batches in ([as_packs(tokens, range(4), size=40), as_packs(tokens, range(4, 8), size=40)], None):
        parts = batches or [TokenBatch(*(field[rows] for field in tokens)) for rows in (slice(0, 4), slice(4, 8))]
        module = SFTModule(policy=make_causal_lm, learning_rate=1e-2, max_grad_norm=1.0)
        fit(module, parts, max_epochs=3)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in module.policy.parameters()]))
    start = torch.cat([parameter.flatten() for parameter in make_causal_lm().parameters()])
    assert (weights[1] - start).norm() > 1.0
    assert (weights[0] - weights[1]).norm() < 1e-3 * (weights[1] - start).norm()


class _Packed(L.LightningDataModule):
    """A data module that packs, as far as the module can see."""

    packing = 512

    def train_dataloader(self) -> Any:
        raise AssertionError("no batch may be drawn")


def test_a_model_that_cannot_keep_examples_apart_is_refused_before_training(make_trainer: Fit) -> None:
    config = BloomConfig(vocab_size=40, hidden_size=32, n_layer=1, n_head=4)
    module = SFTModule(policy=lambda: BloomForCausalLM(config))
    with pytest.raises(UserError, match=r"data\.packing: BloomForCausalLM takes no position ids") as caught:
        make_trainer().fit(module, datamodule=_Packed())
    assert "\n" not in str(caught.value)
