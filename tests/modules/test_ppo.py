"""One PPO iteration against its definition: rollout, scores, rewards, advantages, losses."""

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
from rlhf_lightning.models import Generation, RewardModelScorer, ScalarModel
from rlhf_lightning.modules import PPOModule, Trajectory

Fit = Callable[..., L.Trainer]
MakePPO = Callable[..., PPOModule]


class Iterations(L.Callback):
    """Keeps what every training step returns."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.outputs.append(outputs)


@pytest.fixture
def run(fit: Fit) -> Callable[..., list[dict[str, Any]]]:
    """Train on dicts of batches; the outputs of every iteration."""

    def iterate(module: PPOModule, *batches: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
        watch = Iterations()
        fit(module, batches, callbacks=[watch, *options.pop("callbacks", [])], **options)
        return watch.outputs

    return iterate


Run = Callable[..., list[dict[str, Any]]]


def _response(trajectory: Trajectory, row: int) -> tuple[Tensor, int, int]:
    """Ids of one episode, where its response starts and how long it is."""
    start, steps = int(trajectory.prompt_lengths[row]), int(trajectory.response_lengths[row])
    return trajectory.input_ids[row, : start + steps], start, steps


# --- before any update


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


# --- what is measured


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


# --- scores and rewards


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
    watch = Iterations()
    trainer = fit(module, [{"prompts": prompts}], callbacks=[watch])
    rollout, trajectory = watch.outputs[0]["rollout"], watch.outputs[0]["trajectory"]
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


# --- advantages


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


# --- settings that cannot work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "module.max_new_tokens=0"),
        ({"epochs": 0}, "module.epochs=0"),
        ({"minibatch_size": 0}, "module.minibatch_size=0"),
        ({"temperature": 0.0}, "module.temperature=0.0"),
        ({"gamma": 1.5}, "module.gamma=1.5"),
        ({"lam": -0.1}, "module.lam=-0.1"),
        ({"missing_eos": "ignore"}, "module.missing_eos='ignore'"),
        ({"kl_estimator": "k9"}, "module.kl_estimator='k9'"),
        (
            {"minibatch_size": 8, "micro_batch_size": 3},
            "module.micro_batch_size=3 does not divide module.minibatch_size=8",
        ),
        ({"micro_batch_size": 0}, "module.micro_batch_size=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_ppo: MakePPO, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_ppo(**options)
    assert "\n" not in str(caught.value)


def test_batch_sizes_that_do_not_divide_are_refused_with_both_numbers(
    run: Run, make_ppo: MakePPO, prompts: PromptBatch, text: TokenBatch
) -> None:
    with pytest.raises(UserError, match=r"module.minibatch_size=3 does not divide data.rollout_batch_size=8"):
        run(make_ppo(minibatch_size=3), {"prompts": prompts})
    odd = TokenBatch(*(field[:15] for field in text))
    with pytest.raises(UserError, match=r"15 pretraining rows .* do not divide into 4 minibatches"):
        run(make_ppo(minibatch_size=2), {"prompts": prompts, "text": odd})


def test_batch_sizes_of_the_data_are_checked_before_anything_runs(
    make_trainer: Callable[..., L.Trainer], loader: Callable[..., Any], make_ppo: MakePPO, prompts: PromptBatch
) -> None:
    class Data(L.LightningDataModule):
        rollout_batch_size, ptx_ratio, text = 12, 1, None

        def train_dataloader(self) -> Any:
            raise AssertionError("data was asked for")

    with pytest.raises(UserError, match=r"module.minibatch_size=8 does not divide data.rollout_batch_size=12"):
        make_trainer().fit(make_ppo(), datamodule=Data())


def test_a_response_that_may_not_fit_the_context_is_refused(run: Run, make_ppo: MakePPO, prompts: PromptBatch) -> None:
    with pytest.raises(UserError, match="72 tokens does not fit the model's context of 64"):
        run(make_ppo(max_new_tokens=60), {"prompts": prompts})
