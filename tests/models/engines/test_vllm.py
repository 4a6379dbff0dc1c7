"""What is ours of the vLLM engine, against a stand-in with the documented calls of vLLM: no real vLLM is here."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import Generation, Lora, TokenLogprobs, VllmEngine, add_lora

LENGTHS = torch.tensor([7, 3, 10, 1, 5, 3])
ENGINE_ARGUMENTS = {"enable_sleep_mode", "enable_prefix_caching", "generation_config", "logprobs_mode", "max_model_len"}


@dataclass(kw_only=True)
class SamplingParams:
    """The documented fields that are of use here, with their documented defaults."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    token_ids: Sequence[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]


class LLM:
    """Samples with transformers from the weights that it has read; asleep it has none."""

    made: ClassVar[list[LLM]] = []

    def __init__(
        self,
        model: str,
        *,
        skip_tokenizer_init: bool = False,
        dtype: str = "auto",
        seed: int = 0,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        **kwargs: Any,
    ) -> None:
        assert set(kwargs) <= ENGINE_ARGUMENTS
        self.folder, self.settings = model, {"dtype": dtype, "skip_tokenizer_init": skip_tokenizer_init} | kwargs
        self.asleep: set[str] = set()
        self.calls: list[Any] = []
        LLM.made.append(self)
        self._load()

    def _load(self) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=getattr(torch, self.settings["dtype"]))

    def generate(
        self,
        prompts: Sequence[dict[str, Any]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: Any = None,
    ) -> list[RequestOutput]:
        assert not self.asleep
        assert not use_tqdm
        assert isinstance(sampling_params, list)
        self.calls.append(sampling_params)
        pairs = zip(prompts, sampling_params, strict=True)
        return [RequestOutput([self._one(prompt["prompt_token_ids"], params)]) for prompt, params in pairs]

    @torch.no_grad()
    def _one(self, prompt: list[int], params: SamplingParams) -> CompletionOutput:
        assert params.logprobs is not None and not params.detokenize and params.ignore_eos
        tokens, logprobs, stops = [], [], params.stop_token_ids or []
        draw = torch.Generator().manual_seed(params.seed or 0)
        while len(tokens) < (params.max_tokens or 0):
            logits = self.model(torch.tensor([prompt + tokens])).logits[0, -1] / (params.temperature or 1.0)
            chosen = logits.argmax() if params.temperature == 0 else logits.softmax(-1).multinomial(1, generator=draw)
            tokens.append(int(chosen))
            # One entry more than was asked for, as the documentation allows.
            known = {token: Logprob(float(logits.log_softmax(-1)[token])) for token in (tokens[-1], 0)}
            logprobs.append(known)
            if tokens[-1] in stops:
                return CompletionOutput(tuple(tokens), logprobs, "stop")
        return CompletionOutput(tuple(tokens), logprobs, "length")

    def sleep(self, level: int = 1) -> None:
        assert self.settings["enable_sleep_mode"]
        self.calls.append(f"sleep {level}")
        self.asleep = {"weights", "kv_cache"}
        for weight in self.model.parameters():
            weight.data.fill_(float("nan"))

    def wake_up(self, tags: list[str] | None = None) -> None:
        self.calls.append(f"wake {tags}")
        self.asleep -= set(tags or self.asleep)

    def collective_rpc(
        self, method: Any, timeout: float | None = None, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> list[Any]:
        assert method == "reload_weights" and "weights" not in self.asleep
        self.calls.append(method)
        self._load()
        return [None]


@pytest.fixture(autouse=True)
def _vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    LLM.made.clear()
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that a model was written to."""
    found: list[str] = []
    save = PreTrainedModel.save_pretrained

    def counting(self: Any, folder: Any, *args: Any, **options: Any) -> None:
        found.append(str(folder))
        save(self, folder, *args, **options)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", counting)
    return found


def _ids() -> torch.Tensor:
    return torch.randint(3, 30, (6, 10), generator=torch.Generator().manual_seed(3))


def _sample(engine: VllmEngine, model: PreTrainedModel, **options: Any) -> Generation:
    settings = {"max_new_tokens": 8, "eos_token_id": 5, "pad_token_id": 1} | options
    settings.setdefault("generator", torch.Generator().manual_seed(1))
    return engine.generate(model, _ids(), LENGTHS, **settings)


def _update(model: PreTrainedModel) -> None:
    with torch.no_grad():
        model.lm_head.weight.add_(torch.randn_like(model.lm_head.weight))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_order_padding_ends_and_log_probabilities(
    make_causal_lm: Callable[..., PreTrainedModel], temperature: float
) -> None:
    model, ids = make_causal_lm("llama"), _ids()
    found = _sample(VllmEngine(), model, temperature=temperature, eos_token_id=4)
    assert 0 < int(found.finished.sum()) < 6
    assert found.logprobs is not None
    score = TokenLogprobs(model, temperature=temperature)
    for row, (start, steps) in enumerate(zip(LENGTHS.tolist(), found.lengths.tolist(), strict=True)):
        whole = torch.cat([ids[row, :start], found.response_ids[row, :steps]]).unsqueeze(0)
        expected, _ = score(whole, torch.arange(whole.shape[1]).unsqueeze(0) >= start)
        torch.testing.assert_close(found.logprobs[row, :steps], expected.detach(), rtol=0, atol=1e-4)
        assert (found.response_ids[row, steps:] == 1).all() and (found.logprobs[row, steps:] == 0).all()
        assert bool(found.finished[row]) == (int(found.response_ids[row, steps - 1]) == 4)
        assert bool(found.finished[row]) or steps == 8


def test_what_is_asked_for(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    engine, model = VllmEngine(gpu_memory_utilization=0.2, options={"max_model_len": 32}), make_causal_lm("llama")
    _sample(engine, model, temperature=0.5)
    _sample(engine, model, greedy=True)
    (llm,) = LLM.made
    assert llm.settings == {
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "enable_sleep_mode": True,
        "enable_prefix_caching": False,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "max_model_len": 32,
    }
    drawn, greedy = (call for call in llm.calls if isinstance(call, list))
    for params in drawn:
        params.seed = None
        expected = {"temperature": 0.5, "stop_token_ids": [5], "ignore_eos": True, "max_tokens": 8, "logprobs": 0}
        assert params == SamplingParams(**expected, detokenize=False)
    assert {params.temperature for params in greedy} == {0.0}


def test_results_depend_on_the_generator_alone(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    engine, model = VllmEngine(), make_causal_lm("llama")
    first, again = _sample(engine, model), _sample(engine, model)
    other = _sample(engine, model, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first.response_ids, again.response_ids)
    assert first.response_ids.tolist() != other.response_ids.tolist()
    seeds = [params.seed for call in LLM.made[0].calls if isinstance(call, list) for params in call]
    assert len(set(seeds[:6])) == 6 and seeds[:6] == seeds[6:12]


def test_weights_are_handed_over_once_an_update(
    make_causal_lm: Callable[..., PreTrainedModel], saved: list[str]
) -> None:
    engine, model = VllmEngine(sleep=False), make_causal_lm("llama")
    before = _sample(engine, model)
    assert len(saved) == 1
    _sample(engine, model)
    (llm,) = LLM.made
    assert len(saved) == 1 and "reload_weights" not in llm.calls
    for updates in (1, 2):
        _update(model)
        after = _sample(engine, model)
        _sample(engine, model)
        assert len(saved) == 1 + updates
        assert [call for call in llm.calls if isinstance(call, str)] == ["reload_weights"] * updates
        assert after.response_ids.tolist() != before.response_ids.tolist()
        score = TokenLogprobs(model)
        whole = torch.cat([_ids()[2], after.response_ids[2]]).unsqueeze(0)
        expected, _ = score(whole, torch.arange(whole.shape[1]).unsqueeze(0) >= 10)
        steps = int(after.lengths[2])
        torch.testing.assert_close(after.logprobs[2, :steps], expected[:steps].detach(), rtol=0, atol=1e-4)
    assert len(set(saved)) == 1 and LLM.made == [llm]


def test_between_rollouts_it_sleeps_and_wakes_with_new_weights(
    make_causal_lm: Callable[..., PreTrainedModel], saved: list[str], tmp_path: Path
) -> None:
    engine, model = VllmEngine(folder=str(tmp_path / "weights")), make_causal_lm("llama")
    for _ in range(2):
        _sample(engine, model)
        _update(model)
    _sample(engine, model)
    waking = ["wake ['weights']", "reload_weights", "wake ['kv_cache']"]
    calls = [call for call in LLM.made[0].calls if isinstance(call, str)]
    assert calls == ["sleep 2", *waking, "sleep 2", *waking, "sleep 2"]
    assert saved == [str(tmp_path / "weights")] * 3
    _sample(engine, model)  # the same weights: read again, as sleep forgot them, not written
    assert len(saved) == 3


def test_the_start_compares_samples_with_the_policy(
    make_causal_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    VllmEngine().check(make_causal_lm("llama"))
    load = LLM._load

    def other(self: LLM) -> None:
        load(self)
        _update(self.model)

    monkeypatch.setattr(LLM, "_load", other)
    with pytest.raises(UserError, match=r"rollout=vllm computes LlamaForCausalLM otherwise.*rollout=native"):
        VllmEngine().check(make_causal_lm("llama"))


def test_a_response_that_ends_without_eos_is_refused(
    make_causal_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = LLM._one

    def without(self: LLM, prompt: list[int], params: SamplingParams) -> CompletionOutput:
        found = one(self, prompt, params)
        return CompletionOutput(found.token_ids[:-1], (found.logprobs or [])[:-1], found.finish_reason)

    monkeypatch.setattr(LLM, "_one", without)
    with pytest.raises(UserError, match=r"row 0 after \d of 8 tokens without EOS"):
        _sample(VllmEngine(), make_causal_lm("llama"), eos_token_id=4)


def test_without_vllm_it_names_the_extra(
    make_causal_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install rlhf-lightning\[vllm\]"):
        VllmEngine().check(make_causal_lm("llama"))


def test_adapters_are_refused(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    pytest.importorskip("peft")
    model = make_causal_lm("llama")
    add_lora(model, Lora(rank=2))
    with pytest.raises(UserError, match=r"hands whole weights over.*module.roles=shared.*rollout=native"):
        VllmEngine().check(model)


def test_a_share_of_memory_that_is_none() -> None:
    with pytest.raises(UserError, match=r"gpu_memory_utilization=1.5 must lie between 0 and 1"):
        VllmEngine(gpu_memory_utilization=1.5)


def test_sharded_models_are_refused(
    make_causal_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_lightning.models.engines.vllm.is_sharded", lambda model: True)
    with pytest.raises(UserError, match=r"rollout=vllm works in a run of one process"):
        VllmEngine().check(make_causal_lm("llama"))
