"""Scores, rewards and advantages of a PPO iteration against their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_lightning.data import Encoder, PromptBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import Generation, RewardModelScorer
from rlhf_lightning.modules import PPOModule, Trajectory

Fit = Callable[..., L.Trainer]
MakePPO = Callable[..., PPOModule]
Run = Callable[..., list[dict[str, Any]]]


def _response(trajectory: Trajectory, row: int) -> tuple[Tensor, int, int]:
    """Ids of one episode, where its response starts and how long it is."""
    start, steps = int(trajectory.prompt_lengths[row]), int(trajectory.response_lengths[row])
    return trajectory.input_ids[row, : start + steps], start, steps


def test_the_score_lands_on_the_last_valid_token(run: Run, make_ppo: MakePPO, prompts: PromptBatch) -> None:
    def score(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(3 + row) for row in range(len(prompts))]

    output = run(make_ppo(kl_coef=0.0, reward=score, missing_eos="keep"), {"prompts": prompts})[0]
    for row, length in enumerate(output["trajectory"].response_lengths.tolist()):
        rewards = output["trajectory"].rewards[row]
        assert rewards[length - 1] == 3 + row
        assert rewards.abs().sum() == 3 + row


@pytest.mark.parametrize("rule", ["keep", "subtract", "set", "drop"])
def test_a_missing_eos_is_handled_by_the_named_rule(
    run: Run, make_ppo: MakePPO, prompts: PromptBatch, rule: str
) -> None:
    module = make_ppo(reward=lambda p, r: torch.arange(8.0), kl_coef=0.0, missing_eos=rule, missing_eos_penalty=2.5)
    output = run(module, {"prompts": prompts})[0]
    rollout, trajectory = output["rollout"], output["trajectory"]
    assert 0 < rollout.finished.sum() < 8
    for row, finished in enumerate(rollout.finished.tolist()):
        expected = {"keep": row, "subtract": row - 2.5, "set": -2.5, "drop": row}[rule] if not finished else row
        assert rollout.scores[row] == expected
        dropped = rule == "drop" and not finished
        assert trajectory.mask[row].any() != dropped
        assert trajectory.rewards[row].sum() == (0 if dropped else expected)


def test_an_iteration_whose_responses_are_all_dropped_teaches_nothing(
    run: Run, make_ppo: MakePPO, make_causal_lm: Callable[[str], PreTrainedModel], prompts: PromptBatch
) -> None:
    class NoneFinished(PPOModule):
        def rollout(self, *args: Any) -> Generation:
            generation = super().rollout(*args)
            return generation._replace(finished=torch.zeros_like(generation.finished))

    module = make_ppo(cls=NoneFinished, missing_eos="drop")
    output = run(module, {"prompts": prompts})[0]
    assert not output["trajectory"].mask.any()
    assert all(value.isfinite() for value in output["updates"].values())
    for name, weight in make_causal_lm("llama").state_dict().items():
        assert torch.equal(module.policy.state_dict()[name], weight), name


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_kl_that_is_penalised_is_the_kl_that_is_logged(
    fit: Fit,
    iterations: Any,
    make_ppo: MakePPO,
    make_causal_lm: Callable[[str], PreTrainedModel],
    prompts: PromptBatch,
    estimator: str,
) -> None:
    module = make_ppo(
        reference=lambda: make_causal_lm("gpt2"),
        check_reference=False,
        kl_estimator=estimator,
        kl_coef=0.3,
        reward=lambda p, r: torch.zeros(8),
        missing_eos="keep",
    )
    trainer = fit(module, [{"prompts": prompts}], callbacks=[iterations])
    rollout, trajectory = iterations.outputs[0]["rollout"], iterations.outputs[0]["trajectory"]
    r = trajectory.logprobs - trajectory.ref_logprobs
    per_token = {"k1": r, "k2": r**2 / 2, "k3": torch.exp(-r) - 1 + r}[estimator]
    expected = torch.tensor([float(per_token[row][trajectory.mask[row]].sum()) for row in range(8)])
    torch.testing.assert_close(rollout.kl, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(trajectory.rewards.sum(1), -0.3 * expected, rtol=1e-4, atol=1e-3)
    assert trainer.callback_metrics["rollout/kl"].item() == pytest.approx(expected.mean().item(), rel=1e-4)
    assert trainer.callback_metrics["train/kl_coef"].item() == pytest.approx(0.3)


def test_a_reward_model_that_shares_the_tokenizer_sees_that_a_response_was_cut_off(
    run: Run, make_ppo: MakePPO, reward_model_folders: dict[str, Any], encoder: Encoder, prompts: PromptBatch
) -> None:
    scorer = RewardModelScorer(name=str(reward_model_folders["gpt2"]))
    output = run(make_ppo(reward=scorer, missing_eos="keep"), {"prompts": prompts})[0]
    rollout, trajectory = output["rollout"], output["trajectory"]
    as_seen = scorer(rollout.prompts, rollout.responses, rollout.finished.tolist())
    as_if_finished = scorer(rollout.prompts, rollout.responses)
    cut_off = 0
    for row, finished in enumerate(rollout.finished.tolist()):
        ids, start, _ = _response(trajectory, row)
        if ids[start:].tolist() != encoder.response(rollout.responses[row], finished=finished):
            continue  # a special token was sampled, which text does not show
        assert rollout.scores[row].item() == pytest.approx(as_seen[row].item(), abs=1e-4)
        if not finished:
            cut_off += 1
            assert abs(rollout.scores[row] - as_if_finished[row]) > 1e-3
    assert cut_off > 0


def test_any_other_reward_reads_text(run: Run, make_ppo: MakePPO, prompts: PromptBatch) -> None:
    seen: list[tuple[list[str], list[str]]] = []

    class Stranger:
        def shares_tokenizer(self, encoder: Encoder) -> bool:
            return False

        def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
            seen.append((prompts, responses))
            return [0.0] * 8

    rollout = run(make_ppo(reward=Stranger()), {"prompts": prompts})[0]["rollout"]
    assert seen == [(prompts.prompts, rollout.responses)]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(7), r"shape \(7,\) for 8 responses"),
        (torch.zeros(8, 1), r"shape \(8, 1\) for 8 responses"),
        ([0.0] * 5 + [float("nan")] * 3, "gave nan for response 5 of 8"),
        ([float("inf")] * 8, "gave inf for response 0 of 8"),
    ],
)
def test_a_reward_that_is_no_score_is_refused(
    run: Run, make_ppo: MakePPO, prompts: PromptBatch, scores: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(make_ppo(reward=lambda p, r: scores), {"prompts": prompts})


@pytest.mark.parametrize("whiten", [True, False])
def test_rewards_and_advantages_recomputed_inside_a_real_run(
    run: Run, make_ppo: MakePPO, prompts: PromptBatch, whiten: bool
) -> None:
    gamma, lam, beta = 0.9, 0.8, 0.05
    checked: list[int] = []

    class Recompute(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            rollout, t = outputs["rollout"], outputs["trajectory"]
            advantages: dict[tuple[int, int], float] = {}
            for row in range(8):
                steps = int(t.response_lengths[row])
                values = [*t.values[row, :steps].tolist(), 0.0]
                rewards = [-beta * float(t.logprobs[row, i] - t.ref_logprobs[row, i]) for i in range(steps)]
                rewards[-1] += float(rollout.scores[row])
                deltas = [rewards[i] + gamma * values[i + 1] - values[i] for i in range(steps)]
                for i in range(steps):
                    advantages[row, i] = sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, steps))
                    assert float(t.returns[row, i]) == pytest.approx(advantages[row, i] + values[i], abs=1e-3)
            numbers = list(advantages.values())
            mean = sum(numbers) / len(numbers) if whiten else 0.0
            deviation = (sum((x - mean) ** 2 for x in numbers) / len(numbers)) ** 0.5 if whiten else 1.0
            for (row, i), number in advantages.items():
                assert float(t.advantages[row, i]) == pytest.approx((number - mean) / deviation, abs=1e-3)
            checked.append(len(numbers))

    module = make_ppo(gamma=gamma, lam=lam, kl_coef=beta, whiten_advantages=whiten, learning_rate=1e-3)
    run(module, *[{"prompts": prompts}] * 3, callbacks=[Recompute()])
    assert len(checked) == 3
    assert min(checked) > 8


def test_whitened_rewards_keep_their_mean(make_ppo: MakePPO) -> None:
    module = make_ppo(whiten_rewards=True, whiten_advantages=False, gamma=0.0, lam=0.0)
    rewards, mask = (
        torch.tensor([[1.0, 3.0, 0.0], [5.0, 0.0, 0.0]]),
        torch.tensor([[True, True, False], [True, False, False]]),
    )
    advantages, returns = module.advantages(rewards, torch.zeros(2, 3), mask)
    # With γ = 0 and V = 0 the advantage is the reward: (x − 3)/√(8/3) + 3
    expected = torch.tensor([[1.7752551, 3.0, 0.0], [4.2247449, 0.0, 0.0]])
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, expected)
