"""Modes, validation and checkpoints of PPO."""

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

from rlhf_lightning.data import PromptBatch, TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import Muon, PPOModule, SFTModule

Fit = Callable[..., L.Trainer]
MakePPO = Callable[..., PPOModule]


class Reward(nn.Module):
    """A reward that is a module, with dropout that must never be on."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, prompts: list[str], responses: list[str]) -> Tensor:
        assert not self.training
        return torch.tensor([float(len(response)) for response in responses])


def test_trained_roles_train_and_frozen_ones_do_not_also_after_a_validation(
    fit: Fit, make_ppo: MakePPO, prompts: PromptBatch
) -> None:
    modes: list[tuple[bool, bool, bool, bool]] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            roles = (module.policy, module.value, module.reference, module.reward)
            modes.append(tuple(role.training for role in roles))  # type: ignore[arg-type]  # any number of roles
            assert not any(part.training for role in roles[2:] for part in role.modules())

    module = make_ppo(reward=Reward(), learning_rate=0.0, value_learning_rate=0.0)
    batches = [{"prompts": prompts}] * 2
    metrics = fit(module, batches, validation=[prompts], max_epochs=2, callbacks=[Watch()]).callback_metrics
    assert modes == [(True, True, False, False)] * 4
    assert metrics["val/kl"].abs() < 1e-4
    assert metrics["val/score"].isfinite()
    assert metrics["rollout/kl"].abs() < 1e-4


def test_validation_leaves_the_training_run_as_it_was(fit: Fit, make_ppo: MakePPO, prompts: PromptBatch) -> None:
    one, other = make_ppo(), make_ppo()
    fit(one, [{"prompts": prompts}] * 2, max_epochs=2)
    fit(other, [{"prompts": prompts}] * 2, max_epochs=2, validation=[prompts] * 2)
    for name, weight in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name


@pytest.mark.parametrize("optimizer", [None, Muon])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    fit: Fit, make_ppo: MakePPO, prompts: PromptBatch, text: TokenBatch, tmp_path: Path, optimizer: Any
) -> None:
    batches = [{"prompts": prompts, "text": text}] * 2
    options = {"minibatch_size": 4, "epochs": 2, "warmup_iterations": 5, "optimizer": optimizer}

    class Controller(L.Callback):
        """Moves the KL coefficient, so that forgetting it would show."""

        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
            module.kl_coef *= 1.5

    straight = make_ppo(**options)
    whole = fit(straight, batches, max_epochs=2, callbacks=[Controller()])
    fit(make_ppo(**options), batches, max_epochs=1, callbacks=[Controller()]).save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(1234)  # global randomness is nobody's business
    resumed = make_ppo(**options)
    rest = fit(resumed, batches, max_epochs=2, callbacks=[Controller()], ckpt_path=tmp_path / "half.ckpt")

    assert resumed.iterations == straight.iterations == 4
    assert resumed.kl_coef == straight.kl_coef == pytest.approx(0.02 * 1.5**4)
    for name, weight in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name
    mine, other = whole.optimizers[0].state_dict(), rest.optimizers[0].state_dict()
    assert mine["param_groups"] == other["param_groups"]
    for index, state in mine["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(other["state"][index][name]), torch.as_tensor(value)), (index, name)
    for name, value in whole.callback_metrics.items():
        assert torch.equal(rest.callback_metrics[name], value), name


def test_a_checkpoint_holds_builtins_and_tensors_and_nothing_frozen(
    fit: Fit,
    make_ppo: MakePPO,
    prompts: PromptBatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_causal_lm: Callable[..., PreTrainedModel],
) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    module = make_ppo(reward=Reward(), clip=0.3)
    module.kl_coef = 0.5
    fit(module, [{"prompts": prompts}]).save_checkpoint(tmp_path / "ppo.ckpt")
    checkpoint = torch.load(tmp_path / "ppo.ckpt", weights_only=True)
    assert not [key for key in checkpoint["state_dict"] if key.startswith(("reference.", "reward."))]
    kinds = (int, float, str, bool, type(None))
    assert all(isinstance(value, kinds) for value in checkpoint["hyper_parameters"].values())

    loaded = PPOModule.load_from_checkpoint(
        tmp_path / "ppo.ckpt",
        weights_only=True,
        policy=make_causal_lm,
        value=module._factories["value"],
        reward=Reward(),
        encoder=module.encoder,
    )
    assert (loaded.clip, loaded.kl_coef, loaded.iterations) == (0.3, 0.5, 1)
    for name, weight in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_checkpoints_of_something_else_are_refused_in_one_line(
    fit: Fit,
    make_ppo: MakePPO,
    make_causal_lm: Callable[..., PreTrainedModel],
    prompts: PromptBatch,
    tokens: TokenBatch,
    tmp_path: Path,
) -> None:
    batches = [{"prompts": prompts}]
    fit(SFTModule(policy=make_causal_lm), [tokens]).save_checkpoint(tmp_path / "sft.ckpt")
    fit(make_ppo(), batches).save_checkpoint(tmp_path / "ppo.ckpt")
    for module, path, message in (
        (make_ppo(), "sft.ckpt", "the checkpoint holds no PPO state"),
        (make_ppo("gpt2"), "ppo.ckpt", "the checkpoint was trained against reference"),
        (make_ppo(value=None), "ppo.ckpt", "the checkpoint is of another model: value."),
    ):
        with pytest.raises(UserError, match=message) as caught:
            fit(module, batches, ckpt_path=tmp_path / path, max_epochs=2)
        assert "\n" not in str(caught.value)


def test_validating_alone_needs_no_training(
    make_trainer: Callable[..., L.Trainer], loader: Callable[..., Any], make_ppo: MakePPO, prompts: PromptBatch
) -> None:
    metrics = make_trainer().validate(make_ppo(), loader([prompts]), verbose=False)[0]
    assert metrics["val/kl"] == pytest.approx(0.0, abs=1e-4)
