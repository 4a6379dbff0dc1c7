from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_lightning.data import TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import SFTModule
from rlhf_lightning.modules.batching import token_rows


def _loss_of_transformers(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Mean over the labels, as transformers takes it."""
    mask = torch.arange(batch.input_ids.shape[1]) < batch.lengths.unsqueeze(1)
    labels = batch.input_ids.masked_fill(~batch.loss_mask, -100)
    return model(input_ids=batch.input_ids, attention_mask=mask.long(), labels=labels).loss


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 8, None, 3])
def test_loss_and_gradient_are_those_of_the_whole_batch(
    fit: Callable[..., L.Trainer],
    make_recorder: Callable[[], Any],
    flat_gradient: Callable[[nn.Module], Tensor],
    assert_same_gradients: Callable[..., None],
    make_causal_lm: Callable[[str], PreTrainedModel],
    architecture: str,
    tokens: TokenBatch,
    micro_batch_size: int | None,
) -> None:
    expected = make_causal_lm(architecture)
    loss = _loss_of_transformers(expected, tokens)
    loss.backward()

    recorder = make_recorder()
    module = SFTModule(
        policy=lambda: make_causal_lm(architecture),
        optimizer=recorder,
        micro_batch_size=micro_batch_size,
        max_grad_norm=None,
    )
    trainer = fit(module, [tokens])
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert_same_gradients(recorder.gradients[0], {"policy": flat_gradient(expected)})
    assert trainer.callback_metrics["train/grad_norm"].item() == pytest.approx(
        flat_gradient(expected).norm().item(), rel=1e-4
    )


def test_eos_is_a_label_and_the_prompt_is_not(tokens: TokenBatch) -> None:
    for ids, length, labels in zip(tokens.input_ids, tokens.lengths, tokens.loss_mask, strict=True):
        assert ids[length - 1] == 0
        assert labels[length - 1]
        assert not labels[length:].any()
        assert not labels[0]


def test_validation_loss_weighs_tokens_not_batches(
    fit: Callable[..., L.Trainer], make_causal_lm: Callable[..., PreTrainedModel], tokens: TokenBatch
) -> None:
    parts = [token_rows(tokens, torch.tensor([0])), token_rows(tokens, torch.arange(1, 8))]
    expected = _loss_of_transformers(make_causal_lm(), tokens).item()
    module = SFTModule(policy=make_causal_lm, learning_rate=0.0, micro_batch_size=2)
    trainer = fit(module, [tokens], validation=parts)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(expected, rel=1e-5)


def test_it_learns_and_stays_in_training_mode_after_validation(
    fit: Callable[..., L.Trainer], make_causal_lm: Callable[..., PreTrainedModel], tokens: TokenBatch
) -> None:
    modes = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            modes.append(module.policy.training)

    module = SFTModule(policy=make_causal_lm, learning_rate=1e-2, schedule="constant", micro_batch_size=4)
    trainer = fit(module, [tokens] * 10, validation=[tokens], max_epochs=3, callbacks=[Watch()])
    assert all(modes)
    assert trainer.callback_metrics["val/loss"] < 0.3 * _loss_of_transformers(make_causal_lm(), tokens)


def test_the_cosine_runs_over_all_steps_of_the_run(
    fit: Callable[..., L.Trainer],
    make_recorder: Callable[[], Any],
    make_causal_lm: Callable[..., PreTrainedModel],
    tokens: TokenBatch,
) -> None:
    recorder = make_recorder()
    fit(SFTModule(policy=make_causal_lm, learning_rate=2.0, optimizer=recorder), [tokens] * 2, max_epochs=2)
    # 2 · (0.1 + 0.9 · ½(1 + cos(π · step/4))) at steps 0 to 3
    assert [rates[0] for rates in recorder.rates] == pytest.approx([2.0, 1.736396, 1.1, 0.463604], abs=1e-5)


def test_a_checkpoint_loads_as_weights_only_without_hydra(
    fit: Callable[..., L.Trainer],
    make_causal_lm: Callable[..., PreTrainedModel],
    tokens: TokenBatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)  # an import of it now fails
    module = SFTModule(policy=make_causal_lm, learning_rate=1e-2, micro_batch_size=2)
    fit(module, [tokens]).save_checkpoint(tmp_path / "sft.ckpt")
    loaded = SFTModule.load_from_checkpoint(tmp_path / "sft.ckpt", policy=make_causal_lm, weights_only=True)
    assert loaded.learning_rate == 1e-2
    assert loaded.hparams["micro_batch_size"] == 2
    for name, weight in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


def test_the_checkpoint_of_another_model_is_refused_in_one_line(
    fit: Callable[..., L.Trainer], make_causal_lm: Callable[..., PreTrainedModel], tokens: TokenBatch, tmp_path: Path
) -> None:
    fit(SFTModule(policy=make_causal_lm), [tokens]).save_checkpoint(tmp_path / "llama.ckpt")
    with pytest.raises(UserError, match=r"the checkpoint is of another model: policy.") as caught:
        fit(SFTModule(policy=lambda: make_causal_lm("gpt2")), [tokens], ckpt_path=tmp_path / "llama.ckpt")
    assert "\n" not in str(caught.value)


def test_a_micro_batch_of_nothing_is_refused(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(UserError, match=r"module.micro_batch_size=0"):
        SFTModule(policy=make_causal_lm, micro_batch_size=0)
