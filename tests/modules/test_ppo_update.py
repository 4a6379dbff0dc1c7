"""The updates of a PPO iteration: gradients, minibatches, epochs, learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_lightning.data import PromptBatch, TokenBatch
from rlhf_lightning.modules import PPOModule, Rollout, Trajectory

Fit = Callable[..., L.Trainer]
MakePPO = Callable[..., PPOModule]


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_the_gradient_does_not_depend_on_the_micro_batch(
    fit: Fit,
    make_ppo: MakePPO,
    make_recorder: Callable[[], Any],
    assert_same_gradients: Callable[..., None],
    architecture: str,
    prompts: PromptBatch,
    text: TokenBatch,
    micro_batch_size: int,
) -> None:
    found = []
    for size in (8, micro_batch_size):
        recorder = make_recorder()
        module = make_ppo(architecture, optimizer=recorder, micro_batch_size=size, ptx_coef=1.0)
        metrics = fit(module, [{"prompts": prompts, "text": text}]).callback_metrics
        found.append((recorder.gradients[0], metrics))
    assert_same_gradients(found[1][0], found[0][0])
    for name in ("policy_loss", "value_loss", "ptx_loss", "clip_fraction", "ratio", "approx_kl", "grad_norm"):
        torch.testing.assert_close(found[1][1][f"train/{name}"], found[0][1][f"train/{name}"], rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_the_definition(
    fit: Fit,
    make_ppo: MakePPO,
    make_causal_lm: Callable[[str], PreTrainedModel],
    make_recorder: Callable[[], Any],
    flat_gradient: Callable[[nn.Module], Tensor],
    assert_same_gradients: Callable[..., None],
    architecture: str,
    prompts: PromptBatch,
) -> None:
    """At ratio 1 the clipped loss has the gradient of −mean(A log π), the value loss that of ½ mean((V − R)²)."""
    recorder = make_recorder()
    module = make_ppo(architecture, optimizer=recorder, value_coef=0.5, micro_batch_size=2)
    trajectories: list[Trajectory] = []
    # What a subclass would override.
    module.should_stop_updates = lambda approx_kl: False  # type: ignore[method-assign]

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            trajectories.append(outputs["trajectory"])

    fit(module, [{"prompts": prompts}], callbacks=[Keep()])
    t = trajectories[0]
    policy, value = make_causal_lm(architecture), module.value
    tokens, policy_loss, value_loss = int(t.mask.sum()), torch.zeros(()), torch.zeros(())
    value.zero_grad()
    for row in range(8):
        start, steps = int(t.prompt_lengths[row]), int(t.response_lengths[row])
        ids = t.input_ids[row, : start + steps]
        logprobs = policy(ids[None]).logits[0, start - 1 : -1].log_softmax(-1).gather(1, ids[start:, None])[:, 0]
        policy_loss = policy_loss - (t.advantages[row, :steps] * logprobs).sum() / tokens
        values = value(ids[None])[0, start - 1 : -1]
        value_loss = value_loss + 0.5 * 0.5 * (values - t.returns[row, :steps]).square().sum() / tokens
    (policy_loss + value_loss).backward()
    expected = {"policy": flat_gradient(policy), "value": flat_gradient(value)}
    assert_same_gradients(recorder.gradients[0], expected, relative=1e-4)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_ppo_ptx_adds_gamma_times_the_pretraining_gradient(
    fit: Fit,
    make_ppo: MakePPO,
    make_causal_lm: Callable[[str], PreTrainedModel],
    make_recorder: Callable[[], Any],
    flat_gradient: Callable[[nn.Module], Tensor],
    assert_same_gradients: Callable[..., None],
    architecture: str,
    prompts: PromptBatch,
    text: TokenBatch,
    micro_batch_size: int | None,
) -> None:
    gamma = 27.8
    model = make_causal_lm(architecture)
    labels = text.input_ids.masked_fill(~text.loss_mask, -100)
    loss = model(text.input_ids, labels=labels).loss  # at temperature 1, whatever the rollout's
    loss.backward()
    pretraining = flat_gradient(model)

    found = {}
    for name, batch in (("ppo", {"prompts": prompts}), ("ptx", {"prompts": prompts, "text": text})):
        recorder = make_recorder()
        module = make_ppo(
            architecture, optimizer=recorder, ptx_coef=gamma, temperature=0.7, micro_batch_size=micro_batch_size
        )
        trainer = fit(module, [batch])
        found[name] = recorder.gradients[0]
    assert trainer.callback_metrics["train/ptx_loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    expected = {"policy": found["ppo"]["policy"] + gamma * pretraining, "value": found["ppo"]["value"]}
    assert_same_gradients(found["ptx"], expected)
    share = found["ptx"]["policy"] - gamma * pretraining
    assert_same_gradients({"policy": share}, {"policy": found["ppo"]["policy"]}, relative=1e-3)


@pytest.mark.parametrize("missing_eos", ["subtract", "drop"])
def test_nan_in_masked_slots_changes_nothing(
    fit: Fit,
    make_ppo: MakePPO,
    make_recorder: Callable[[], Any],
    architecture: str,
    prompts: PromptBatch,
    missing_eos: str,
) -> None:
    class Planted(PPOModule):
        """NaN in every number outside the mask, and other tokens behind the end of every row."""

        def evaluate(self, *args: Any) -> tuple[Rollout, Trajectory]:
            rollout, trajectory = super().evaluate(*args)
            numbers = {
                name: field.masked_fill(~trajectory.mask, float("nan"))
                for name, field in trajectory._asdict().items()
                if field.is_floating_point()
            }
            width = trajectory.input_ids.shape[1]
            padding = torch.arange(width) >= trajectory.lengths.unsqueeze(1)
            assert padding.any()
            return rollout, trajectory._replace(**numbers, input_ids=trajectory.input_ids.masked_fill(padding, 9))

        def advantages(self, *args: Tensor) -> tuple[Tensor, Tensor]:
            mask = args[2]
            first, second = super().advantages(*args)
            return first.masked_fill(~mask, float("nan")), second.masked_fill(~mask, float("nan"))

    found = []
    for cls in (PPOModule, Planted):
        recorder = make_recorder()
        module = make_ppo(
            architecture, cls=cls, optimizer=recorder, missing_eos=missing_eos, whiten_rewards=True, micro_batch_size=2
        )
        metrics = fit(module, [{"prompts": prompts}]).callback_metrics
        found.append((recorder.gradients[0], dict(metrics)))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    assert all(gradient.isfinite().all() for gradient in found[0][0].values())


def test_forward_passes_are_trimmed_and_logits_are_those_of_responses(
    fit: Fit, make_ppo: MakePPO, make_causal_lm: Callable[[str], PreTrainedModel], prompts: PromptBatch
) -> None:
    widths: list[int] = []
    rows: list[int] = []
    lengths: list[int] = []
    responses: list[int] = []

    class Watched(PPOModule):
        def evaluate(self, *args: Any) -> tuple[Rollout, Trajectory]:
            if self.iterations == 1:  # heads have been checked in the first iteration
                self.policy.base_model.register_forward_pre_hook(
                    lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
                )
                self.policy.get_output_embeddings().register_forward_hook(
                    lambda module, args, output: rows.append(output.shape[0])
                )
            rollout, trajectory = super().evaluate(*args)
            lengths[:] = trajectory.lengths.tolist()
            responses[:] = trajectory.response_lengths.tolist()
            return rollout, trajectory

    fit(make_ppo(cls=Watched, micro_batch_size=1), [{"prompts": prompts}] * 2)
    assert sorted(widths) == sorted(lengths * 2)  # once to evaluate, once to update
    assert sorted(rows) == sorted(responses * 2)


def test_minibatches_epochs_and_steps(
    fit: Fit,
    make_ppo: MakePPO,
    make_recorder: Callable[[], Any],
    prompts: PromptBatch,
    text: TokenBatch,
) -> None:
    parts: list[list[int]] = []
    texts: list[int] = []

    class Watched(PPOModule):
        def policy_loss(self, part: Trajectory, count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            parts.append(part.prompt_lengths.tolist())
            return super().policy_loss(part, count)

        def ptx_loss(self, text: TokenBatch, count: Tensor) -> Tensor:
            texts.append(len(text.input_ids))
            return super().ptx_loss(text, count)

    recorder = make_recorder()
    module = make_ppo(cls=Watched, optimizer=recorder, minibatch_size=4, micro_batch_size=2, epochs=3)
    trainer = fit(module, [{"prompts": prompts, "text": text}] * 2)
    assert module.iterations == 2
    assert len(recorder.gradients) == trainer.global_step == 2 * 3 * 2  # iterations, epochs, minibatches
    assert len(parts) == 2 * 3 * 4
    assert texts == [2] * (2 * 3 * 2 * 4)  # 8 rows of text for each minibatch, 2 at a time
    for epoch in range(6):
        seen = [length for part in parts[4 * epoch : 4 * epoch + 4] for length in part]
        assert sorted(seen) == sorted(prompts.lengths.tolist())  # every episode once in each epoch
    assert parts[:4] != parts[4:8]  # and in another order


@pytest.mark.parametrize(("target_kl", "epochs"), [(None, 4), (0.0, 1), (1e9, 4)])
def test_updates_stop_once_the_policy_has_moved_far_enough(
    fit: Fit, make_ppo: MakePPO, prompts: PromptBatch, target_kl: float | None, epochs: int
) -> None:
    module = make_ppo(minibatch_size=4, epochs=4, target_kl=target_kl)
    assert fit(module, [{"prompts": prompts}]).global_step == 2 * epochs


def test_the_schedule_counts_iterations(
    fit: Fit, make_ppo: MakePPO, make_recorder: Callable[[], Any], prompts: PromptBatch
) -> None:
    recorder = make_recorder()
    module = make_ppo(
        optimizer=recorder, minibatch_size=4, learning_rate=1.0, value_learning_rate=2.0, warmup_iterations=2
    )
    fit(module, [{"prompts": prompts}] * 3)
    expected = [[0.1, 0.2]] * 2 + [[0.55, 1.1]] * 2 + [[1.0, 2.0]] * 2
    torch.testing.assert_close(torch.tensor(recorder.rates), torch.tensor(expected))


def test_without_a_value_model_values_are_zero(fit: Fit, make_ppo: MakePPO, prompts: PromptBatch) -> None:
    class Keep(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert not outputs["trajectory"].values.any()
            assert "value_loss" not in outputs["updates"]

    module = make_ppo(value=None)
    fit(module, [{"prompts": prompts}], callbacks=[Keep()])
    assert {group["role"] for group in module.optimizers().param_groups} == {"policy"}


def test_a_subclass_may_have_a_loss_of_its_own(fit: Fit, make_ppo: MakePPO, prompts: PromptBatch) -> None:
    class Reinforce(PPOModule):
        def policy_loss(self, part: Trajectory, count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            from rlhf_lightning.modules.experience import response_logprobs

            logprobs, _ = response_logprobs(self._policy_logprobs, part)
            return -(part.advantages * logprobs * part.mask).sum() / count, {"mine": torch.tensor(3.0)}

    module = make_ppo(cls=Reinforce, value=None)
    before = module._factories["policy"]().get_input_embeddings().weight
    metrics = fit(module, [{"prompts": prompts}]).callback_metrics
    assert metrics["train/mine"] == 3.0
    assert not torch.equal(module.policy.get_input_embeddings().weight, before)
