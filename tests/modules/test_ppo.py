"""The rollout of a PPO iteration against its definition, and what holds before any update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_lightning.data import Encoder, PromptBatch, TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import ScalarModel
from rlhf_lightning.modules import PPOModule, Trajectory

Fit = Callable[..., L.Trainer]
MakePPO = Callable[..., PPOModule]
Run = Callable[..., list[dict[str, Any]]]


def _response(trajectory: Trajectory, row: int) -> tuple[Tensor, int, int]:
    """Ids of one episode, where its response starts and how long it is."""
    start, steps = int(trajectory.prompt_lengths[row]), int(trajectory.response_lengths[row])
    return trajectory.input_ids[row, : start + steps], start, steps


@pytest.mark.parametrize("micro_batch_size", [1, 2, 8, None])
def test_with_learning_rate_zero_the_ratio_is_one_the_kl_zero_and_no_weight_moves(
    run: Run,
    make_ppo: MakePPO,
    make_causal_lm: Callable[[str], PreTrainedModel],
    make_scalar_model: Callable[[str], ScalarModel],
    architecture: str,
    prompts: PromptBatch,
    text: TokenBatch,
    micro_batch_size: int | None,
) -> None:
    worst: list[float] = []

    class Watched(PPOModule):
        def policy_loss(self, part: Trajectory, count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            from rlhf_lightning.modules.experience import response_logprobs

            new, _ = response_logprobs(self._policy_logprobs, part)
            worst.append(((new - part.logprobs).exp() - 1).abs().max().item())
            return super().policy_loss(part, count)

    options = {"learning_rate": 0.0, "value_learning_rate": 0.0, "epochs": 2, "temperature": 0.8}
    module = make_ppo(architecture, cls=Watched, micro_batch_size=micro_batch_size, **options)
    for output in run(module, *[{"prompts": prompts, "text": text}] * 2):
        assert output["rollout"].kl.abs().max() < 1e-4
        assert output["updates"]["ratio"].item() == pytest.approx(1.0, abs=1e-5)
        assert output["updates"]["approx_kl"].abs() < 1e-6
        assert output["updates"]["clip_fraction"] == 0
    assert max(worst) < 1e-5
    assert len(set(prompts.lengths.tolist())) > 4
    for mine, before in (
        (module.policy, make_causal_lm(architecture)),
        (module.value, make_scalar_model(architecture)),
    ):
        for name, weight in before.state_dict().items():
            assert torch.equal(mine.state_dict()[name], weight), name


def test_dropout_is_noticed_before_anything_is_trained(
    run: Run, make_ppo: MakePPO, make_causal_lm: Callable[[str], PreTrainedModel], prompts: PromptBatch
) -> None:
    def with_dropout() -> PreTrainedModel:
        model = make_causal_lm("gpt2")
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.3
        return model

    with pytest.raises(UserError, match=r"policy differs from the reference by .* dropout is on"):
        run(make_ppo("gpt2", policy=with_dropout), {"prompts": prompts})
    assert run(make_ppo("gpt2", policy=with_dropout, check_reference=False), {"prompts": prompts})


def test_another_reference_is_noticed_and_can_be_meant(
    run: Run, make_ppo: MakePPO, make_causal_lm: Callable[[str], PreTrainedModel], prompts: PromptBatch
) -> None:
    other = make_causal_lm("gpt2")
    with pytest.raises(UserError, match=r"module.check_reference=false if that is meant"):
        run(make_ppo("llama", reference=lambda: other), {"prompts": prompts})
    module = make_ppo("llama", reference=lambda: other, check_reference=False)
    output = run(module, {"prompts": prompts})[0]
    assert module.reference is not other  # frozen is a copy
    assert not any(parameter.requires_grad for parameter in module.reference.parameters())
    assert output["rollout"].kl.abs().min() > 0.1


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_entropies_and_values_are_those_of_whole_forward_passes(
    run: Run,
    make_ppo: MakePPO,
    make_causal_lm: Callable[[str], PreTrainedModel],
    make_scalar_model: Callable[[str], ScalarModel],
    prompts: PromptBatch,
    temperature: float,
) -> None:
    module = make_ppo(
        "llama",
        reference=lambda: make_causal_lm("gpt2"),
        check_reference=False,
        temperature=temperature,
        micro_batch_size=2,
        learning_rate=0.0,
    )
    trajectory: Trajectory = run(module, {"prompts": prompts})[0]["trajectory"]
    policy, reference, value = make_causal_lm("llama"), make_causal_lm("gpt2"), make_scalar_model("llama")
    for row in range(8):
        ids, start, steps = _response(trajectory, row)
        assert ids[:start].tolist() == prompts.input_ids[row, :start].tolist()
        log_probs = (policy(ids[None]).logits[0] / temperature).log_softmax(-1)[start - 1 : -1]
        ref_log_probs = (reference(ids[None]).logits[0] / temperature).log_softmax(-1)[start - 1 : -1]
        expected = {
            "logprobs": log_probs.gather(1, ids[start:, None]).squeeze(1),
            "ref_logprobs": ref_log_probs.gather(1, ids[start:, None]).squeeze(1),
            "entropy": torch.distributions.Categorical(logits=log_probs).entropy(),
            "values": value(ids[None])[0, start - 1 : -1],  # V of the state in which a token is chosen
        }
        for name, numbers in expected.items():
            field = getattr(trajectory, name)[row]
            torch.testing.assert_close(field[:steps], numbers, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
            assert not field[steps:].any()
        assert trajectory.mask[row].tolist() == [True] * steps + [False] * (trajectory.mask.shape[1] - steps)


def test_a_low_temperature_samples_the_likeliest_tokens(
    run: Run, make_ppo: MakePPO, make_causal_lm: Callable[[str], PreTrainedModel], prompts: PromptBatch
) -> None:
    trajectory: Trajectory = run(make_ppo(temperature=1e-3, learning_rate=0.0), {"prompts": prompts})[0]["trajectory"]
    for row in range(8):
        ids, start, _ = _response(trajectory, row)
        assert make_causal_lm("llama")(ids[None]).logits[0, start - 1 : -1].argmax(-1).tolist() == ids[start:].tolist()


def test_responses_are_cut_at_eos_and_the_run_sees_both_kinds(
    run: Run, make_ppo: MakePPO, encoder: Encoder, prompts: PromptBatch
) -> None:
    output = run(make_ppo(), {"prompts": prompts})[0]
    rollout, trajectory = output["rollout"], output["trajectory"]
    assert rollout.finished.any()
    assert not rollout.finished.all()
    for row in range(8):
        ids, start, steps = _response(trajectory, row)
        assert (ids[-1] == encoder.eos_token_id) == rollout.finished[row]
        assert rollout.finished[row] or steps == 12
        assert (ids[start:-1] != encoder.eos_token_id).all()
        assert rollout.responses[row] == encoder.decode(ids[start:].tolist())
    assert rollout.prompts == prompts.prompts
