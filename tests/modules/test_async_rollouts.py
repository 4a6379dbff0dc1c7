"""Rollouts that are sampled an iteration early, beside the updates."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from rlhf_lightning.data import PromptBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    ContinuousEngine,
    Generation,
    Lora,
    NativeEngine,
    TokenLogprobs,
    load_causal_lm,
)
from rlhf_lightning.modules import PPOModule
from rlhf_lightning.modules.async_rollouts import copy_of_trained
from rlhf_lightning.modules.world import World

Fit = Callable[..., L.Trainer]
MakePPO = Callable[..., PPOModule]
Run = Callable[..., list[dict[str, Any]]]
LORA = Lora(rank=2, alpha=4.0)


@pytest.fixture
def batches(prompts: PromptBatch) -> list[dict[str, PromptBatch]]:
    """Four batches of the same eight prompts in other orders, each with the next one."""
    orders = [torch.arange(8).roll(turn) for turn in range(4)]
    plain = [
        PromptBatch(prompts.input_ids[order], prompts.lengths[order], [prompts.prompts[i] for i in order])
        for order in orders
    ]
    return [{"prompts": one._replace(ahead=after)} for one, after in zip(plain, [*plain[1:], None], strict=True)]


class Watch(L.Callback):
    """Keeps the policy's weights as every iteration begins, and what it gives."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.outputs: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.weights.append({name: weight.clone() for name, weight in module.policy.state_dict().items()})

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.outputs.append(outputs)


class Bigrams(nn.Module):
    """A policy of six tokens: logits of the next are a row of a table, one for every token. Token 0 ends."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.linspace(-1, 1, 35 * 35).view(35, 35))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table[input_ids]

    def sample(self, input_ids: Tensor, lengths: Tensor, **options: Any) -> Tensor:
        token = input_ids.gather(1, lengths.unsqueeze(1) - 1).squeeze(1)
        drawn = []
        for _ in range(options["max_new_tokens"]):
            logits = self.table[token] / options["temperature"]
            likeliest = logits.argmax(-1)
            token = likeliest if options["greedy"] else _draw(logits, options["generator"])
            drawn.append(token)
        return torch.stack(drawn, 1)


def _draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)


def test_the_ratio_is_that_of_the_policy_to_the_one_that_sampled(
    run: Run, make_ppo: MakePPO, batches: list[Any]
) -> None:
    """By hand, from a table of logits: one optimizer step an iteration, so that all statistics are of θ_i."""
    watch = Watch()
    module = make_ppo(
        policy=Bigrams, value=None, async_rollouts=True, max_new_tokens=5, learning_rate=0.05, ptx_coef=0.0
    )
    run(module, *batches, callbacks=[watch])
    for iteration, (now, output) in enumerate(zip(watch.weights, watch.outputs, strict=True)):
        sampled_by = watch.weights[max(iteration - 1, 0)]["table"].log_softmax(-1)
        new = now["table"].log_softmax(-1)
        trajectory, differences = output["trajectory"], []
        for row, (start, length) in enumerate(
            zip(trajectory.prompt_lengths.tolist(), trajectory.response_lengths.tolist(), strict=True)
        ):
            for step in range(length):
                before, token = trajectory.input_ids[row, start + step - 1 : start + step + 1].tolist()
                assert trajectory.logprobs[row, step].item() == pytest.approx(
                    sampled_by[before, token].item(), abs=1e-5
                )
                differences.append((new - sampled_by)[before, token])
        ratios = torch.stack(differences).exp()
        assert output["updates"]["ratio"].item() == pytest.approx(ratios.mean().item(), abs=1e-5)
        assert (ratios - 1).abs().max() > 1e-3 or iteration == 0
        clipped = ((ratios > 1.2) | (ratios < 0.8)).float().mean()
        assert output["updates"]["clip_fraction"] <= clipped + 1e-6


class Hashed(NativeEngine):
    """The native engine with randomness of the prompts alone, wherever and whenever it is asked."""

    def generate(self, model: nn.Module, input_ids: Tensor, lengths: Tensor, **options: Any) -> Generation:
        options["generator"] = torch.Generator().manual_seed(int((input_ids * (torch.arange(8) + 1)[:, None]).sum()))
        return super().generate(model, input_ids, lengths, **options)


def test_without_learning_it_is_synchronous_ppo(run: Run, make_ppo: MakePPO, batches: list[Any]) -> None:
    still: dict[str, Any] = {"learning_rate": 0.0, "value_learning_rate": 0.0, "engine": Hashed(), "minibatch_size": 4}
    late = run(make_ppo(async_rollouts=True, **still), *batches)
    now = run(make_ppo(**still), *batches)
    assert len(late) == len(now) == 4
    for mine, other in zip(late, now, strict=True):
        for name, field in mine["trajectory"]._asdict().items():
            assert torch.equal(field, getattr(other["trajectory"], name)), name
        for name, value in mine["updates"].items():
            assert torch.equal(value, other["updates"][name]), name
        assert mine["updates"]["ratio"].item() == pytest.approx(1.0, abs=1e-6)


def test_a_run_is_the_same_for_a_seed_and_goes_on_bit_for_bit(
    fit: Fit, make_ppo: MakePPO, batches: list[Any], tmp_path: Path
) -> None:
    class Save(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    options: dict[str, Any] = {"async_rollouts": True, "minibatch_size": 4, "epochs": 2}
    whole, again, other = Watch(), Watch(), Watch()
    straight = make_ppo(**options)
    fit(straight, batches, callbacks=[whole, Save()], validation=[batches[0]["prompts"]], val_check_interval=1)
    repeated = make_ppo(**options)
    fit(repeated, batches, callbacks=[again])
    fit(make_ppo(seed=1, **options), batches, callbacks=[other])
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)["ppo"]["rollouts"]
    assert torch.equal(saved[0]["prompt_ids"], batches[2]["prompts"].input_ids)

    torch.manual_seed(1234)
    resumed = make_ppo(**options)
    rest = Watch()
    # The loader of this test has no position, so it is given what comes behind the checkpoint.
    fit(resumed, [*batches[2:], *batches[2:]], callbacks=[rest], ckpt_path=tmp_path / "half.ckpt")
    for name, weight in straight.state_dict().items():
        assert torch.equal(repeated.state_dict()[name], weight), name
        assert torch.equal(resumed.state_dict()[name], weight), name
    assert torch.equal(whole.outputs[2]["trajectory"].input_ids, again.outputs[2]["trajectory"].input_ids)
    assert torch.equal(whole.outputs[2]["trajectory"].logprobs, rest.outputs[0]["trajectory"].logprobs)
    assert not torch.equal(whole.outputs[0]["rollout"].scores, other.outputs[0]["rollout"].scores)


def test_other_prompts_than_those_sampled_for_are_sampled_for_anew(
    run: Run, make_ppo: MakePPO, batches: list[Any]
) -> None:
    batches[1] = {"prompts": batches[3]["prompts"]._replace(ahead=batches[2]["prompts"])}
    outputs = run(make_ppo(async_rollouts=True), *batches[:3])
    assert outputs[1]["rollout"].prompts == batches[3]["prompts"].prompts
    assert outputs[1]["updates"]["ratio"].item() == pytest.approx(1.0, abs=1e-5)
    assert abs(outputs[2]["updates"]["ratio"].item() - 1.0) > 1e-4


class Counting(NativeEngine):
    """The native engine, and in which threads it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[bool] = []

    def generate(self, *args: Any, **options: Any) -> Generation:
        self.threads.append(threading.current_thread() is threading.main_thread())
        return super().generate(*args, **options)


@pytest.mark.parametrize(("options", "iterations"), [({}, 4), ({"limit_train_batches": 2}, 2), ({"max_steps": 3}, 3)])
def test_nothing_is_sampled_for_no_iteration(
    run: Run, make_ppo: MakePPO, batches: list[Any], options: dict[str, Any], iterations: int
) -> None:
    engine = Counting()
    assert len(run(make_ppo(engine=engine, async_rollouts=True), *batches, **options)) == iterations
    assert engine.threads == [True, *[False] * (iterations - 1)]


def test_an_error_of_the_thread_is_raised_and_one_of_the_updates_waits_for_it(
    run: Run, make_ppo: MakePPO, batches: list[Any]
) -> None:
    class Failing(Counting):
        def generate(self, *args: Any, **options: Any) -> Generation:
            if threading.current_thread() is not threading.main_thread():
                raise UserError("no more tokens")
            return super().generate(*args, **options)

    with pytest.raises(UserError, match="no more tokens"):
        run(make_ppo(engine=Failing(), async_rollouts=True), *batches)

    class Stumbling(PPOModule):
        def policy_loss(self, *args: Any) -> Any:
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        run(make_ppo(cls=Stumbling, async_rollouts=True), *batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollout")]


def test_an_adapter_is_copied_and_its_base_is_not(causal_lm_folders: dict[str, Path]) -> None:
    model = load_causal_lm(name=str(causal_lm_folders["llama"]), lora=LORA)
    twin = copy_of_trained(model)
    own = dict(model.named_parameters())
    for name, weight in twin.named_parameters():
        assert (weight is own[name]) == ("lora_" not in name), name
    ids = torch.arange(6).view(1, 6)
    targets = torch.arange(6) > 0
    before, _ = TokenLogprobs(twin)(ids, targets.view(1, 6))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight += 1.0
    assert torch.equal(TokenLogprobs(twin)(ids, targets.view(1, 6))[0], before)
    assert not torch.equal(TokenLogprobs(model)(ids, targets.view(1, 6))[0], before)


def test_roles_on_one_base(run: Run, make_ppo: MakePPO, batches: list[Any], causal_lm_folders: dict[str, Path]) -> None:
    """Policy and reference are one model here, whose adapter is off in the pass of the reference."""
    watch = Watch()
    module = make_ppo(
        policy=lambda: load_causal_lm(name=str(causal_lm_folders["llama"]), lora=LORA),
        roles="shared",
        async_rollouts=True,
        learning_rate=0.05,
    )
    run(module, *batches, callbacks=[watch])
    sampler = copy.deepcopy(module.policy)
    sampler.load_state_dict(watch.weights[1])
    trajectory = watch.outputs[2]["trajectory"]
    expected, _ = PPOModule.token_logprobs(_Of(sampler), trajectory)  # type: ignore[arg-type]  # all it reads
    assert torch.allclose(trajectory.logprobs, expected, atol=1e-5)
    assert (trajectory.logprobs - trajectory.ref_logprobs).abs().max() > 1e-2


class _Of:
    def __init__(self, policy: nn.Module) -> None:
        self._policy_logprobs = TokenLogprobs(policy)


class Short(PPOModule):
    # A signature from before policies were handed over.
    def rollout(self, prompts: PromptBatch, generator: torch.Generator | None) -> Generation:  # type: ignore[override]
        return super().rollout(prompts, generator)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": ContinuousEngine()}, "ContinuousEngine is not made for"),
        ({"engine": NativeEngine(compile=True)}, "without rollout.engine.compile"),
        ({"cls": Short}, "Short.rollout must take it as a third argument"),
    ],
)
def test_what_cannot_sample_beside_training_is_refused(
    fit: Fit, make_ppo: MakePPO, batches: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fit(make_ppo(async_rollouts=True, **options), batches)


def test_sharded_weights_are_refused(make_ppo: MakePPO) -> None:
    module = make_ppo(async_rollouts=True)
    module.world = World(0, 2, sharded=True)
    with pytest.raises(UserError, match="strategy=ddp"):
        module.async_rollouts.check(module)


def test_batches_must_name_the_next_prompts(fit: Fit, make_ppo: MakePPO, batches: list[Any]) -> None:
    plain = [{"prompts": batch["prompts"]._replace(ahead=None)} for batch in batches]
    with pytest.raises(UserError, match="does not name its prompts"):
        fit(make_ppo(async_rollouts=True), plain)


def test_it_is_on_or_off(fit: Fit, make_ppo: MakePPO, batches: list[Any]) -> None:
    """``off`` is a text for OmegaConf, and a text that is not empty would be true."""
    with pytest.raises(UserError, match="rollout.async=off must be true or false"):
        fit(make_ppo(async_rollouts="off"), batches)
