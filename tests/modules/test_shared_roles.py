"""Policy, reference, value and reward on one base, against models of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from rlhf_lightning.callbacks import PolicyEMA
from rlhf_lightning.data import ComparisonBatch, Encoder, PromptBatch, TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    ContinuousEngine,
    Lora,
    NativeEngine,
    Quantization,
    RewardModelScorer,
    SharedReward,
    WeightedSum,
    adapter_modules,
    has_adapters,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
)
from rlhf_lightning.modules import PPOModule, RewardModule, SFTModule

Run = Callable[..., list[dict[str, Any]]]
LORA = Lora(rank=4, alpha=8.0)
TOKENS = Lora(rank=4, alpha=8.0, trainable_tokens=["eos", "a"])
EMBEDDING = Lora(rank=4, alpha=8.0, target_modules=["embed_tokens", "q_proj", "up_proj"])
QUANTIZATIONS = {"fp32": None, "int8": Quantization(kind="int8"), "nf4": Quantization(kind="nf4")}


@pytest.fixture
def rewarded(causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path: Path) -> Callable[..., str]:
    """The folder of a reward model with an adapter that has learned something."""

    def make(architecture: str = "llama", quantization: Quantization | None = None, lora: Lora = LORA) -> str:
        name = str(causal_lm_folders[architecture])
        torch.manual_seed(4)
        model = load_scalar_model(name=name, head="new", lora=lora, quantization=quantization)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data.add_(0.1 * torch.randn_like(weight))
        return str(save_model_folder(model, encoder, tmp_path / f"reward-{architecture}"))

    return make


@pytest.fixture
def make(
    make_ppo: Callable[..., PPOModule], causal_lm_folders: dict[str, Path], rewarded: Callable[..., str]
) -> Callable[..., PPOModule]:
    """A PPO module with adapters, of shared or of separate roles."""

    def build(
        roles: str,
        architecture: str = "llama",
        quantization: Quantization | None = None,
        checkpointing: bool = False,
        lora: Lora = LORA,
        **options: Any,
    ) -> PPOModule:
        common: dict[str, Any] = {"quantization": quantization, "activation_checkpointing": checkpointing, "lora": lora}
        name, folder = str(causal_lm_folders[architecture]), rewarded(architecture, quantization, lora)

        def policy() -> nn.Module:
            torch.manual_seed(7)  # of the adapter's first factor
            return load_causal_lm(name=name, **common)

        reward: Any = SharedReward(name=folder) if roles == "shared" else RewardModelScorer(name=folder)
        settings: dict[str, Any] = {
            "policy": policy,
            "reward": reward,
            "value": lambda: load_scalar_model(name=folder, **common),
            "roles": roles,
        }
        return make_ppo(architecture, **settings | options)

    return build


@pytest.mark.parametrize("quantization", ["fp32", "int8"])
def test_continuous_batching_samples_from_the_policy_of_a_shared_base(
    run: Run, make: Callable[..., PPOModule], prompts: PromptBatch, quantization: str
) -> None:
    module = make("shared", quantization=QUANTIZATIONS[quantization], engine=ContinuousEngine(page_size=16))
    run(module, *[{"prompts": prompts}] * 3)
    assert module.trainer.callback_metrics["rollout/engine_gap"] < (1e-4 if quantization == "fp32" else 2e-2)


def test_a_compiled_step_samples_from_the_policy_of_a_shared_base(
    run: Run, make: Callable[..., PPOModule], prompts: PromptBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters are switched between roles, and the step is compiled once all the same."""
    graphs, real = [], torch.compile

    def backend(graph: Any, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()  # what other tests have compiled
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, backend=backend, **options))
    module = make("shared", engine=NativeEngine(compile=True))
    run(module, *[{"prompts": prompts}] * 3)
    assert module.trainer.callback_metrics["rollout/engine_gap"] < 1e-4
    assert len(graphs) == 2  # that of the check, and the step


@pytest.mark.parametrize("lora", [LORA, TOKENS, EMBEDDING], ids=["layers", "tokens", "embedding"])
def test_shared_roles_compute_what_separate_ones_do(
    run: Run,
    make: Callable[..., PPOModule],
    make_recorder: Callable[[], Any],
    architecture: str,
    prompts: PromptBatch,
    text: TokenBatch,
    lora: Lora,
) -> None:
    if lora is EMBEDDING and architecture == "gpt2":
        pytest.skip("its output layer is tied to the embedding, where such an adapter is refused")
    found: dict[str, Any] = {}
    for roles in ("separate", "shared"):
        recorder = make_recorder()
        module = make(roles, architecture, optimizer=recorder, epochs=2, lora=lora)
        found[roles] = run(module, {"prompts": prompts, "text": text})[0], recorder.gradients
    (apart, gradients), (together, shared_gradients) = found["separate"], found["shared"]
    assert apart["rollout"].responses == together["rollout"].responses
    torch.testing.assert_close(together["rollout"].scores, apart["rollout"].scores, rtol=1e-5, atol=1e-5)
    assert together["rollout"].kl.abs().max() < 1e-4
    for field in ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"):
        expected = getattr(apart["trajectory"], field)
        torch.testing.assert_close(getattr(together["trajectory"], field), expected, rtol=1e-4, atol=1e-4)
    assert together["trajectory"].values.abs().max() > 0
    for one, other in zip(shared_gradients, gradients, strict=True):
        assert one["policy"].norm() > 0
        assert (one["policy"] - other["policy"]).norm() <= 1e-5 * other["policy"].norm()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stored", QUANTIZATIONS)
@pytest.mark.parametrize("roles", ["separate", "shared"])
def test_ppo_moves_every_adapter_and_no_weight_of_the_base(
    run: Run,
    make: Callable[..., PPOModule],
    prompts: PromptBatch,
    text: TokenBatch,
    roles: str,
    stored: str,
    checkpointing: bool,
) -> None:
    module = make(roles, quantization=QUANTIZATIONS[stored], checkpointing=checkpointing)
    module.configure_model()
    before = frozen(module)
    run(module, *[{"prompts": prompts, "text": text}] * 2)
    unmoved(module, before)
    value = module.policy if roles == "shared" else module.value
    for model, adapter in ((module.policy, "default"), (value, "value" if roles == "shared" else "default")):
        assert_learned(model, adapter)
    if roles == "shared":
        reward = dict(adapter_modules(module.policy, "reward").named_parameters())
        assert not any(weight.requires_grad for weight in reward.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stored", QUANTIZATIONS)
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_sft_and_reward_training_move_every_adapter_and_no_weight_of_the_base(
    fit: Callable[..., L.Trainer],
    causal_lm_folders: dict[str, Path],
    tokens: TokenBatch,
    comparisons: ComparisonBatch,
    stage: str,
    stored: str,
    checkpointing: bool,
) -> None:
    common: dict[str, Any] = {
        "name": str(causal_lm_folders["llama"]),
        "lora": LORA,
        "quantization": QUANTIZATIONS[stored],
        "activation_checkpointing": checkpointing,
    }
    module: Any = SFTModule(policy=lambda: load_causal_lm(**common), learning_rate=1e-3)
    if stage == "reward":
        module = RewardModule(reward_model=lambda: load_scalar_model(head="new", **common), learning_rate=1e-3)
    module.configure_model()
    before = frozen(module)
    fit(module, [tokens if stage == "sft" else comparisons] * 2)
    unmoved(module, before)
    assert_learned(module, "default")


def frozen(module: nn.Module) -> dict[str, Any]:
    return {name: w.detach().clone() for name, w in module.named_parameters() if not w.requires_grad}


def unmoved(module: nn.Module, before: dict[str, Any]) -> None:
    assert len(before) > 10
    now = dict(module.named_parameters())
    assert all(torch.equal(now[name], weight) for name, weight in before.items())


def assert_learned(model: nn.Module, adapter: str) -> None:
    second = [weight for name, weight in model.named_parameters() if f"lora_B.{adapter}." in name]
    assert len(second) == 14  # seven linear layers in each of two blocks
    assert all(weight.any() for weight in second)


@pytest.mark.parametrize("lora", [LORA, TOKENS], ids=["layers", "tokens"])
@pytest.mark.parametrize("roles", ["separate", "shared"])
def test_a_checkpoint_holds_what_trains_and_a_resumed_run_goes_on_bit_for_bit(
    make: Callable[..., PPOModule],
    make_trainer: Callable[..., L.Trainer],
    loader: Callable[..., Any],
    prompts: PromptBatch,
    causal_lm_folders: dict[str, Path],
    tmp_path: Path,
    roles: str,
    lora: Lora,
) -> None:
    batches = [{"prompts": prompts}] * 4
    whole = make(roles, lora=lora)
    make_trainer(callbacks=[PolicyEMA(decay=0.5)]).fit(whole, loader(batches))
    path = tmp_path / "two.ckpt"
    save = L.pytorch.callbacks.LambdaCallback(
        on_train_batch_end=lambda trainer, module, out, batch, i: trainer.save_checkpoint(path) if i == 1 else None
    )
    make_trainer(callbacks=[PolicyEMA(decay=0.5), save]).fit(make(roles, lora=lora), loader(batches))
    saved = torch.load(path, weights_only=True)["state_dict"]
    kept = ("lora_", "head", "score", "trainable_tokens_delta")
    assert all(any(part in name for part in kept) for name in saved)
    assert any("tokens_delta" in name for name in saved) is (lora is TOKENS)
    assert len(saved) > 20
    torch.manual_seed(99)  # a new process draws other first factors before it reads the checkpoint
    name = str(causal_lm_folders["llama"])
    second = make(roles, lora=lora, policy=lambda: load_causal_lm(name=name, lora=lora))
    average = PolicyEMA(decay=0.5)
    make_trainer(callbacks=[average]).fit(second, loader(batches), ckpt_path=path, weights_only=True)
    assert second.iterations == 4
    expected = whole.state_dict()
    found = {name: weight for name, weight in second.state_dict().items() if not name.startswith("reference.")}
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


def test_the_average_of_a_policy_with_an_adapter_is_that_of_the_adapter(
    run: Run, make: Callable[..., PPOModule], prompts: PromptBatch
) -> None:
    seen: list[dict[str, Any]] = []

    def keep(trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        seen.append({name: w.detach().clone() for name, w in module.policy.named_parameters() if w.requires_grad})

    module = make("shared")
    module.configure_model()
    first = {name: w.detach().clone() for name, w in module.policy.named_parameters() if w.requires_grad}
    watch = L.pytorch.callbacks.LambdaCallback(on_train_batch_end=keep)
    run(module, *[{"prompts": prompts}] * 2, callbacks=[PolicyEMA(decay=0.75), watch])
    final = dict(module.policy.named_parameters())
    for name, weight in first.items():
        average = 0.75 * (0.75 * weight + 0.25 * seen[0][name]) + 0.25 * seen[1][name]
        expected = average if ".default." in name else seen[1][name]  # the value's adapter is not averaged
        torch.testing.assert_close(final[name], expected, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_another_base_is_refused(
    fit: Callable[..., L.Trainer], causal_lm_folders: dict[str, Path], tokens: TokenBatch, tmp_path: Path
) -> None:
    name = str(causal_lm_folders["llama"])

    def module(**options: Any) -> SFTModule:
        return SFTModule(policy=lambda: load_causal_lm(name=name, **options))

    path = tmp_path / "one.ckpt"
    fit(module(lora=LORA), [tokens]).save_checkpoint(path)
    with pytest.raises(UserError, match=r"adapter of the policy was trained on base \w+, this run's is \w+"):
        fit(module(lora=LORA, quantization=Quantization(kind="int8")), [tokens], ckpt_path=path)
    with pytest.raises(UserError, match="the checkpoint holds an adapter and this run trains none"):
        fit(module(), [tokens], ckpt_path=path)
    full = tmp_path / "full.ckpt"
    fit(module(), [tokens]).save_checkpoint(full)
    with pytest.raises(UserError, match="the checkpoint holds no adapter and this run trains one"):
        fit(module(lora=LORA), [tokens], ckpt_path=full)


def test_the_reference_is_the_base_and_never_moves(
    run: Run, make: Callable[..., PPOModule], prompts: PromptBatch
) -> None:
    module = make("shared", learning_rate=0.05)
    outputs = run(module, *[{"prompts": prompts}] * 3)
    assert module.reference is None
    assert outputs[0]["rollout"].kl.abs().max() < 1e-4
    assert outputs[2]["rollout"].kl.abs().max() > 1e-2
    assert has_adapters(module.policy)


def test_policy_and_reference_can_share_where_the_reward_is_another_model(
    run: Run,
    make_ppo: Callable[..., PPOModule],
    causal_lm_folders: dict[str, Path],
    reward_model_folders: dict[str, Path],
    prompts: PromptBatch,
) -> None:
    module = make_ppo(
        policy=lambda: load_causal_lm(name=str(causal_lm_folders["llama"]), lora=LORA),
        reward=RewardModelScorer(name=str(reward_model_folders["gpt2"])),
        roles="shared",
    )
    outputs = run(module, *[{"prompts": prompts}] * 2)
    assert module.reference is None
    assert outputs[0]["rollout"].kl.abs().max() < 1e-4
    assert_learned(module.policy, "default")


def test_shared_roles_without_an_adapter_are_refused(
    run: Run, make_ppo: Callable[..., PPOModule], prompts: PromptBatch
) -> None:
    with pytest.raises(UserError, match=r"module\.roles=shared trains an adapter.*model/lora=default"):
        run(make_ppo(roles="shared"), {"prompts": prompts})
    with pytest.raises(UserError, match=r"module\.roles='both' is neither 'separate' nor 'shared'"):
        make_ppo(roles="both")


def test_what_trains_beyond_the_roles_is_refused(
    run: Run, make: Callable[..., PPOModule], prompts: PromptBatch
) -> None:
    module = make("shared")
    module.configure_model()
    module.policy.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(UserError, match=r"embed_tokens\.weight would train and belongs to none of the roles"):
        run(module, {"prompts": prompts})
    frozen_part = make("shared")
    frozen_part.configure_model()
    next(adapter_modules(frozen_part.policy, "value").parameters()).requires_grad_(False)
    with pytest.raises(UserError, match="of the value's adapter is frozen"):
        run(frozen_part, {"prompts": prompts})


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_model_with_an_adapter_is_not_converted_as_a_whole(
    fit: Callable[..., L.Trainer],
    make: Callable[..., PPOModule],
    causal_lm_folders: dict[str, Path],
    prompts: PromptBatch,
    tokens: TokenBatch,
    comparisons: ComparisonBatch,
    stage: str,
    precision: str,
) -> None:
    common: dict[str, Any] = {"name": str(causal_lm_folders["llama"]), "lora": LORA}
    module: Any
    if stage == "sft":
        module, batch = SFTModule(policy=lambda: load_causal_lm(**common)), tokens
    elif stage == "reward":
        module, batch = RewardModule(reward_model=lambda: load_scalar_model(head="new", **common)), comparisons
    else:
        module, batch = make("shared"), {"prompts": prompts}  # type: ignore[assignment]
    dtype = {"bf16-true": "bfloat16", "16-true": "float16"}[precision]
    with pytest.raises(UserError, match=rf"trainer\.precision={precision} would.*model\.dtype={dtype}.*32-true"):
        fit(module, [batch], precision=precision)


def test_a_base_in_half_precision_is_known_again(
    fit: Callable[..., L.Trainer], causal_lm_folders: dict[str, Path], tokens: TokenBatch, tmp_path: Path
) -> None:
    """What the refusal of bf16-true advises."""

    def module() -> SFTModule:
        options: dict[str, Any] = {"name": str(causal_lm_folders["llama"]), "dtype": "bfloat16", "lora": LORA}
        return SFTModule(policy=lambda: load_causal_lm(**options), learning_rate=1e-2)

    first = module()
    fit(first, [tokens]).save_checkpoint(tmp_path / "one.ckpt")
    trained = {w.dtype for w in first.policy.parameters() if w.requires_grad}
    assert (first.policy.dtype, trained) == (torch.bfloat16, {torch.float32})
    fit(module(), [tokens], ckpt_path=tmp_path / "one.ckpt", max_epochs=2)


def test_a_resumed_run_knows_its_reward(
    fit: Callable[..., L.Trainer],
    make: Callable[..., PPOModule],
    rewarded: Callable[..., str],
    encoder: Encoder,
    causal_lm_folders: dict[str, Path],
    prompts: PromptBatch,
    tmp_path: Path,
) -> None:
    batches = [{"prompts": prompts}]
    model = load_scalar_model(name=str(causal_lm_folders["llama"]), head="new", lora=LORA)
    model.head.weight.data.mul_(1.25)
    other = str(save_model_folder(model, encoder, tmp_path / "other"))
    for roles, reward in (("separate", RewardModelScorer), ("shared", SharedReward)):
        path = tmp_path / f"{roles}.ckpt"
        own = rewarded()
        fit(make(roles), batches).save_checkpoint(path)
        fit(make(roles, reward=reward(name=own)), batches, ckpt_path=path, max_epochs=2)
        with pytest.raises(UserError, match=r"checkpoint was trained on reward \w+, this run's is \w+: give the"):
            fit(make(roles, reward=reward(name=other)), batches, ckpt_path=path, max_epochs=2)
        two = [WeightedSum(rewards=[RewardModelScorer(name=own), len_of], weights=[1.0, w]) for w in (0.5, 0.25)]
        if roles == "separate":
            fit(make(roles, reward=two[0]), batches).save_checkpoint(path)
            with pytest.raises(UserError, match=r"trained on reward \w+ 1.0 0.5, this run's is \w+ 1.0 0.25"):
                fit(make(roles, reward=two[1]), batches, ckpt_path=path, max_epochs=2)


class RunningMean(torch.nn.Module):
    """Length above its mean so far, which is a buffer: a reward that changes as it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, prompts: list[str], responses: list[str]) -> torch.Tensor:
        scores = len_of(prompts, responses)
        self.mean.lerp_(scores.mean() + 1, 0.5)
        return scores - self.mean


class Named:
    """A reward with an attribute of that name that is something else."""

    fingerprint = "lengths, second version"

    def __call__(self, prompts: list[str], responses: list[str]) -> torch.Tensor:
        return len_of(prompts, responses)


@pytest.mark.parametrize("reward", [RunningMean, Named])
def test_a_run_with_a_reward_of_ones_own_is_resumed(
    reward: Callable[[], Any],
    fit: Callable[..., L.Trainer],
    make: Callable[..., PPOModule],
    prompts: PromptBatch,
    tmp_path: Path,
) -> None:
    fit(make("separate", reward=reward()), [{"prompts": prompts}]).save_checkpoint(tmp_path / "one.ckpt")
    module = make("separate", reward=reward())
    fit(module, [{"prompts": prompts}], ckpt_path=tmp_path / "one.ckpt", max_epochs=2)
    assert module.iterations == 2


def len_of(prompts: list[str], responses: list[str]) -> torch.Tensor:
    return torch.tensor([float(len(response)) for response in responses])


def test_the_reward_adapter_must_read_the_policys_ids(
    run: Run, make: Callable[..., PPOModule], rewarded: Callable[..., str], prompts: PromptBatch
) -> None:
    folder = rewarded()
    templated = Encoder.from_pretrained(folder)
    templated.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}.{% endfor %}"
    with pytest.raises(UserError, match=r"module\.reward\.name=.* has another chat template than the policy.*separate"):
        run(make("shared", encoder=templated), {"prompts": prompts})
    module = make("shared", reward=SharedReward(name=folder))
    larger = Encoder.from_pretrained(folder)
    larger.tokenizer.add_tokens(["cat"])
    larger.save(folder)
    with pytest.raises(UserError, match=r"module\.reward\.name=.* has another tokenizer than the policy"):
        run(module, {"prompts": prompts})


@pytest.mark.parametrize("stored", QUANTIZATIONS)
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo separate", "ppo shared"])
def test_the_rows_of_tokens_train_and_no_other_row_does(
    fit: Callable[..., L.Trainer],
    make: Callable[..., PPOModule],
    causal_lm_folders: dict[str, Path],
    prompts: PromptBatch,
    text: TokenBatch,
    tokens: TokenBatch,
    comparisons: ComparisonBatch,
    stage: str,
    stored: str,
) -> None:
    common: dict[str, Any] = {"quantization": QUANTIZATIONS[stored], "lora": TOKENS}
    name = str(causal_lm_folders["llama"])
    module: Any
    batch: Any = tokens
    if stage == "sft":
        module = SFTModule(policy=lambda: load_causal_lm(name=name, **common), learning_rate=1e-3)
    elif stage == "reward":
        module = RewardModule(
            reward_model=lambda: load_scalar_model(name=name, head="new", **common), learning_rate=1e-3
        )
        batch = comparisons
    else:
        module = make(stage.removeprefix("ppo "), quantization=QUANTIZATIONS[stored], lora=TOKENS)
        batch = {"prompts": prompts, "text": text}
    module.configure_model()
    before = frozen(module)
    trained = {name: w.detach().clone() for name, w in module.named_parameters() if "tokens_delta" in name}
    assert trained and all(weight.shape == (2, 32) for weight in trained.values())
    fit(module, [batch] * 2)
    unmoved(module, before)
    now = dict(module.named_parameters())
    moved = {name for name, weight in trained.items() if not torch.equal(weight, now[name])}
    still = {name for name in trained if name.endswith(".reward") or name.startswith("reference.")}  # frozen roles
    assert moved == trained.keys() - still
    adapter = [name for name in moved if name.endswith(".default")]
    of_each = {
        "sft": 2,
        "reward": 1,
        "ppo separate": 3,
        "ppo shared": 2,
    }  # embedding and output layer; value: embedding
    assert len(adapter) == of_each[stage]
