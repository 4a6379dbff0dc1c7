"""Continuous batching against the training forward, and what it leaves as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import ContinuousEngine, Generation, Lora, NativeEngine, TokenLogprobs, add_lora

LENGTHS = torch.tensor([7, 3, 10, 1, 5, 3])


def _sample(model: PreTrainedModel, engine: ContinuousEngine | None = None, **options: Any) -> Generation:
    ids = torch.randint(3, 30, (6, 10), generator=torch.Generator().manual_seed(3))
    settings = {"max_new_tokens": 8, "eos_token_id": 5, "pad_token_id": 1} | options
    return (engine or ContinuousEngine(page_size=16)).generate(model, ids, LENGTHS, **settings)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _gap(model: PreTrainedModel, found: Generation, temperature: float) -> float:
    """Largest difference to the training forward's log-probabilities."""
    ids, worst = torch.randint(3, 30, (6, 10), generator=_seeded(3)), 0.0
    score = TokenLogprobs(model, temperature=temperature)
    assert found.logprobs is not None
    for row, (start, steps) in enumerate(zip(LENGTHS.tolist(), found.lengths.tolist(), strict=True)):
        whole = torch.cat([ids[row, :start], found.response_ids[row, :steps]]).unsqueeze(0)
        expected, _ = score(whole, torch.arange(whole.shape[1]).unsqueeze(0) >= start)
        worst = max(worst, float((found.logprobs[row, :steps] - expected.detach()).abs().max()))
        assert (found.logprobs[row, steps:] == 0).all()
        assert (found.response_ids[row, steps:] == 1).all()
        assert bool(found.finished[row]) == (5 in found.response_ids[row].tolist())
    return worst


@pytest.mark.parametrize(
    ("kind", "attention"),
    [(kind, "sdpa") for kind in ("gpt2", "gpt_neox", "opt", "mistral", "qwen3", "gemma3_text")]
    + [(kind, "eager") for kind in ("gpt2", "gemma3_text")],
)
def test_log_probabilities_are_those_of_the_training_forward(
    model_folder: Callable[..., Path], kind: str, attention: str
) -> None:
    folder = model_folder(kind, rows=120)  # more than the 50 of transformers' default top-k
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
    engine = ContinuousEngine(page_size=16)
    engine.check(model)
    found = _sample(model, engine, temperature=0.7)
    assert _gap(model, found, 0.7) < 1e-4


@pytest.mark.parametrize(("kind", "named"), [("bloom", "BloomForCausalLM"), ("gemma2", "soft cap")])
def test_architectures_that_it_computes_otherwise_are_refused(
    model_folder: Callable[..., Path], kind: str, named: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder(kind))
    with pytest.raises(UserError, match=f"{named}.*rollout=native"):
        ContinuousEngine().check(model)


def test_results_depend_on_the_generator_alone(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm("llama")
    first = _sample(model, generator=_seeded(1))
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    again = _sample(model, generator=_seeded(1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.response_ids, again.response_ids)
    other = _sample(model, generator=_seeded(2))
    assert first.response_ids.tolist() != other.response_ids.tolist()


def test_greedy_is_that_of_the_native_engine(causal_lm: PreTrainedModel) -> None:
    ids = torch.randint(3, 30, (6, 10), generator=_seeded(3))
    expected = NativeEngine().generate(
        causal_lm, ids, LENGTHS, max_new_tokens=8, eos_token_id=5, pad_token_id=1, greedy=True
    )
    found = _sample(causal_lm, greedy=True)
    for mine, other in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(mine, other)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=1e-4)


def test_rows_wait_where_the_cache_is_small(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm("llama")
    engine = ContinuousEngine(page_size=8, cache_tokens=48, batch_tokens=8)
    assert _gap(model, _sample(model, engine, temperature=0.7), 0.7) < 1e-4
    with pytest.raises(UserError, match="rollout.engine.cache_tokens=16 holds 2 pages of 8.*at least 24"):
        _sample(model, ContinuousEngine(page_size=8, cache_tokens=16))


def test_frequencies_are_the_models_probabilities(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    """A prompt asked 600 times: within five standard deviations of softmax(logits / temperature)."""
    model, prompt = make_causal_lm("llama"), torch.tensor([[4, 9, 17]])
    with torch.no_grad():
        expected = (model(prompt).logits[0, -1] / 2.0).softmax(-1)
    settings: dict[str, Any] = {"max_new_tokens": 1, "eos_token_id": 0, "pad_token_id": 1, "temperature": 2.0}
    found = ContinuousEngine(page_size=8).generate(
        model, prompt.repeat(600, 1), torch.full((600,), 3), generator=_seeded(0), **settings
    )
    counts = torch.bincount(found.response_ids[:, 0], minlength=len(expected)) / 600
    deviation = (expected * (1 - expected) / 600).sqrt()
    assert ((counts - expected).abs() < 5 * deviation + 1e-9).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was(
    make_causal_lm: Callable[..., PreTrainedModel], attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_causal_lm("llama").train()
    model.model.layers[0].eval()
    model.set_attn_implementation(attention)

    def state() -> tuple[Any, ...]:
        modes = [module.training for module in model.modules()]
        attentions = [module.config._attn_implementation for module in model.modules() if hasattr(module, "config")]
        return modes, attentions, model.config.to_dict(), model.generation_config.to_dict(), sorted(vars(model))

    before = state()
    _sample(model)
    assert state() == before
    monkeypatch.setattr(model, "_get_logits_processor", lambda *_: 1 / 0)  # after it has taken another attention
    with pytest.raises(ZeroDivisionError):
        _sample(model)
    monkeypatch.undo()
    assert state() == before


@pytest.mark.parametrize("greedy", [False, True])
def test_logits_that_are_no_numbers_are_a_users_error(
    make_causal_lm: Callable[..., PreTrainedModel], greedy: bool
) -> None:
    model = make_causal_lm("llama")
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"row 0.*no numbers.*lower module.learning_rate"):
        _sample(model, greedy=greedy)
    assert model.config._attn_implementation == "sdpa"


def test_it_samples_from_an_adapter(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    pytest.importorskip("peft")
    model = make_causal_lm("llama")
    add_lora(model, Lora(rank=2))
    base = _sample(model, greedy=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    ContinuousEngine().check(model)
    found = _sample(model, greedy=True)
    assert found.response_ids.tolist() != base.response_ids.tolist()
    assert _gap(model, found, 1.0) < 1e-4


def test_reduced_precision_agrees_within_rounding(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm("llama").to(torch.bfloat16)
    ContinuousEngine().check(model)
    assert _gap(model, _sample(model), 1.0) < 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"page_size": 2}, "page_size=2 must be at least 4"),
        ({"cache_tokens": 8}, "cache_tokens=8 must be at least 256"),
        ({"batch_tokens": 0}, "batch_tokens=0 must be at least 1"),
    ],
)
def test_sizes_that_cannot_work(settings: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ContinuousEngine(**settings)


def test_models_that_are_not_of_transformers(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(UserError, match=r"needs a model of transformers, not Linear.*rollout=native"):
        ContinuousEngine().check(torch.nn.Linear(2, 2))


def test_prompts_that_leave_no_room(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(UserError, match="does not fit the model's context of 64"):
        _sample(make_causal_lm("llama"), max_new_tokens=60)


def test_sharded_models_are_refused(
    make_causal_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_lightning.models.engines.continuous.is_sharded", lambda model: True)
    with pytest.raises(UserError, match=r"rollout=continuous cannot sample from a sharded model"):
        ContinuousEngine().check(make_causal_lm("llama"))
