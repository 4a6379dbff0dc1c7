"""A policy that is no model of transformers: an ``nn.Module`` with ``forward`` and ``sample``."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from rlhf_lightning.callbacks import HuggingFaceExport, PolicyEMA
from rlhf_lightning.data import Encoder, PromptBatch, TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import NativeEngine, PackedStates, TokenLogprobs, generate, save_model_folder, shard
from rlhf_lightning.modules import PPOModule, SFTModule

VOCABULARY = 35


class Recurrent(nn.Module):
    """A GRU language model: nothing of attention, positions, caches or configurations."""

    context_length = 64

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.states = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.output(self.states(self.embedding(input_ids))[0])
        return logits

    def sample(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        *,
        max_new_tokens: int,
        eos_token_id: int,
        temperature: float,
        greedy: bool,
        generator: torch.Generator | None,
    ) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        ids, rows, ends = input_ids, torch.arange(len(input_ids)), lengths.clone()
        drawn = []
        for _ in range(max_new_tokens):
            logits = self(ids)[rows, ends - 1]
            chosen = (
                logits.argmax(-1)
                if greedy
                else torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator).squeeze(1)
            )
            drawn.append(chosen)
            ids = torch.cat([ids, ids.new_zeros(len(ids), 1)], 1)
            ids[rows, ends] = chosen
            ends += 1
        return torch.stack(drawn, 1)


class Value(nn.Module):
    """V of every position."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(VOCABULARY, 8), nn.Linear(8, 1)

    def forward(self, input_ids: Tensor) -> Tensor:
        values: Tensor = self.output(self.embedding(input_ids).cumsum(1)).squeeze(-1)
        return values


def seeded(cls: type[nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(3)
        model = cls()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(2.0)  # so that what comes next depends on what was read
        return model

    return make


def changed(**methods: Any) -> Callable[[], nn.Module]:
    """The model with some methods replaced."""
    return seeded(type("Changed", (Recurrent,), methods))


def test_log_probabilities_are_those_of_its_logits() -> None:
    model = seeded(Recurrent)()
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 1, 1]])
    targets = torch.tensor([[False, False, True, True], [False, True, False, False]])
    found, entropy = TokenLogprobs(model, temperature=2.0)(ids, targets)
    expected = []
    for row, column in ((0, 2), (0, 3), (1, 1)):
        logits = model(ids[row : row + 1, :column])[0, -1] / 2.0
        expected.append(float(logits[ids[row, column]]) - math.log(float(logits.exp().sum())))
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert entropy.shape == (3,) and bool((entropy > 0).all())


@pytest.mark.parametrize("with_value", [True, False])
def test_before_any_update_the_ratio_is_1_and_the_kl_0(
    run: Callable[..., list[dict[str, Any]]],
    make_ppo: Callable[..., PPOModule],
    prompts: PromptBatch,
    text: TokenBatch,
    with_value: bool,
) -> None:
    value = seeded(Value) if with_value else None
    module = make_ppo(
        policy=seeded(Recurrent), value=value, learning_rate=0.0, value_learning_rate=0.0, micro_batch_size=2, epochs=2
    )
    (out,) = run(module, {"prompts": prompts, "text": text})
    assert float(out["updates"]["ratio"]) == pytest.approx(1.0, abs=1e-6)
    assert float(out["updates"]["approx_kl"]) == pytest.approx(0.0, abs=1e-7)
    # Without AVX-512, torch's GRU rounds otherwise where its weights want no gradient, as the reference's: by 7e-7.
    assert float(out["rollout"].kl.abs().max()) < 1e-5
    assert len(set(out["trajectory"].response_lengths.tolist())) > 1  # some responses ended before others
    assert bool(out["trajectory"].values.any()) == with_value
    reference = dict(module.reference.named_parameters())
    for name, weight in module.policy.named_parameters():
        assert torch.equal(weight, reference[name]) and not reference[name].requires_grad


def test_it_learns_and_its_reference_stays(
    run: Callable[..., list[dict[str, Any]]], make_ppo: Callable[..., PPOModule], prompts: PromptBatch
) -> None:
    module = make_ppo(
        policy=seeded(Recurrent), value=None, learning_rate=3e-2, missing_eos="keep", max_new_tokens=8, epochs=4
    )
    outputs = run(module, *[{"prompts": prompts}] * 40)
    scores = torch.stack([out["rollout"].scores for out in outputs]).mean(1)  # the reward counts "a"
    assert float(scores[-10:].mean()) > float(scores[:10].mean()) + 2
    assert float(outputs[-1]["rollout"].kl.mean()) > 0.1
    assert all(
        torch.equal(one, other)
        for one, other in zip(seeded(Recurrent)().parameters(), module.reference.parameters(), strict=True)
    )


def test_a_run_goes_on_bit_for_bit_from_its_checkpoint(
    fit: Callable[..., L.Trainer],
    run: Callable[..., list[dict[str, Any]]],
    make_ppo: Callable[..., PPOModule],
    prompts: PromptBatch,
    tmp_path: Path,
) -> None:
    def make() -> PPOModule:
        return make_ppo(policy=seeded(Recurrent), value=seeded(Value))

    whole, first, second = make(), make(), make()
    run(whole, *[{"prompts": prompts}] * 4)
    trainer = fit(first, [{"prompts": prompts}] * 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    held = torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"]
    roles = {name.split(".")[0] for name in held}
    assert roles == {"policy", "value"} and "policy.states.weight_ih_l0" in held
    run(second, *[{"prompts": prompts}] * 2, ckpt_path=tmp_path / "half.ckpt", max_epochs=2)
    assert second.iterations == 4
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


def test_sft_trains_it(fit: Callable[..., L.Trainer], tokens: TokenBatch) -> None:
    module = SFTModule(policy=seeded(Recurrent), learning_rate=1e-2, micro_batch_size=3, schedule="constant")
    trainer = fit(module, [tokens] * 30)
    before = SFTModule(policy=seeded(Recurrent))
    before.configure_model()
    start = float(before.loss(tokens, tokens.loss_mask.sum()))
    expected = nn.functional.cross_entropy(
        before.policy(tokens.input_ids)[:, :-1][tokens.loss_mask[:, 1:]],
        tokens.input_ids[:, 1:][tokens.loss_mask[:, 1:]],
    )
    assert start == pytest.approx(float(expected), abs=1e-5)
    assert float(trainer.callback_metrics["train/loss"]) < 0.7 * start


def test_its_average_is_kept(
    run: Callable[..., list[dict[str, Any]]], make_ppo: Callable[..., PPOModule], prompts: PromptBatch
) -> None:
    module = make_ppo(policy=seeded(Recurrent), value=None, learning_rate=1e-2)
    run(module, *[{"prompts": prompts}] * 2, callbacks=[PolicyEMA(decay=0.0)])
    pairs = zip(seeded(Recurrent)().parameters(), module.policy.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_responses_behind_eos_are_padding_and_batches_do_not_matter() -> None:
    model = seeded(Recurrent)()
    ids, lengths = torch.tensor([[4, 5, 6], [7, 1, 1], [8, 9, 1]]), torch.tensor([3, 1, 2])
    settings: dict[str, Any] = {"max_new_tokens": 6, "pad_token_id": 1}
    free = generate(model, ids, lengths, eos_token_id=-1, greedy=True, **settings)
    assert free.lengths.tolist() == [6, 6, 6] and not free.finished.any() and free.logprobs is None
    eos = int(free.response_ids[1, 2])
    ended = generate(model, ids, lengths, eos_token_id=eos, greedy=True, batch_size=1, **settings)
    length = free.response_ids[1].tolist().index(eos) + 1
    assert int(ended.lengths[1]) == length and bool(ended.finished[1])
    assert ended.response_ids[1, :length].tolist() == free.response_ids[1, :length].tolist()
    assert set(ended.response_ids[1, length:].tolist()) <= {1}


def ahead(self: Any, input_ids: Tensor) -> Tensor:
    return Recurrent.forward(self, input_ids.flip(1)).flip(1)


def at_the_padding(self: Any, input_ids: Tensor, lengths: Tensor, **options: Any) -> Tensor:
    return Recurrent.sample(self, input_ids, torch.full_like(lengths, input_ids.shape[1]), **options)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"sample": None}, "Changed is no model of transformers and has no method `sample`"),
        ({"forward": ahead}, "must read from left to right"),
        ({"forward": lambda self, input_ids: self.embedding(input_ids).sum(-1)}, r"must give logits \[4, 6, v\]"),
        ({"sample": at_the_padding}, r"read the logits at the last token of each prompt \(lengths - 1\)"),
        ({"sample": lambda self, *_, **__: torch.zeros(2, 9)}, "sample gave torch.float32"),
        ({"sample": lambda self, ids, *_, **__: ids[:, :1]}, "ended row . after 1 of 4 tokens without EOS"),
    ],
)
def test_what_is_wrong_with_it_is_said_before_training(
    run: Callable[..., list[dict[str, Any]]],
    make_ppo: Callable[..., PPOModule],
    prompts: PromptBatch,
    methods: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        run(make_ppo(policy=changed(**methods), value=None), {"prompts": prompts})


def test_a_tokenizer_that_is_larger_is_refused(
    fit: Callable[..., L.Trainer], make_ppo: Callable[..., PPOModule], prompts: PromptBatch, tokens: TokenBatch
) -> None:
    def small(self: Any, input_ids: Tensor) -> Tensor:
        return Recurrent.forward(self, input_ids)[..., :30]

    with pytest.raises(UserError, match="it has 35 ids and the logits are 30"):
        fit(make_ppo(policy=changed(forward=small), value=None), [{"prompts": prompts}])


def test_its_context_is_kept(
    run: Callable[..., list[dict[str, Any]]], make_ppo: Callable[..., PPOModule], prompts: PromptBatch
) -> None:
    with pytest.raises(UserError, match="does not fit the model's context of 10"):
        run(make_ppo(policy=changed(context_length=10), value=None), {"prompts": prompts})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roles": "shared"}, "module.roles=shared trains an adapter"),
        ({"engine": NativeEngine(compile=True)}, "set rollout.engine.compile=false"),
        ({"engine": NativeEngine(attn_implementation="sdpa")}, "set rollout.engine.attn_implementation=null"),
    ],
)
def test_what_needs_transformers_says_so(
    run: Callable[..., list[dict[str, Any]]],
    make_ppo: Callable[..., PPOModule],
    prompts: PromptBatch,
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        run(make_ppo(policy=seeded(Recurrent), value=None, **options), {"prompts": prompts})


def test_it_is_no_folder_of_transformers(
    run: Callable[..., list[dict[str, Any]]],
    make_ppo: Callable[..., PPOModule],
    prompts: PromptBatch,
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="Recurrent is no model of transformers"):
        save_model_folder(seeded(Recurrent)(), encoder, tmp_path / "model")
    module = make_ppo(policy=seeded(Recurrent), value=None)
    with pytest.raises(UserError, match="leave the callback out"):
        run(module, {"prompts": prompts}, callbacks=[HuggingFaceExport(folder=tmp_path / "model")])


def test_a_model_itself_may_stand_for_the_function_that_makes_it(
    run: Callable[..., list[dict[str, Any]]], make_ppo: Callable[..., PPOModule], prompts: PromptBatch
) -> None:
    policy, value = seeded(Recurrent)(), seeded(Value)()
    module = make_ppo(policy=policy, value=value)
    assert not list(module.children())  # not yet a part of the module
    run(module, {"prompts": prompts})
    assert module.policy is policy and module.value is value and module.reference is not policy


def test_it_is_not_sharded_and_not_packed() -> None:
    mesh: Any = {"data_parallel": None}
    with pytest.raises(UserError, match="strategy=fsdp2 shards models of transformers, and Recurrent is none"):
        shard(seeded(Recurrent)(), mesh)
    with pytest.raises(UserError, match="takes no packs; set data.packing=null"):
        PackedStates(seeded(Recurrent)()).check()
