"""Decoding under ``torch.compile``: what comes out, how often it compiles, what it refuses."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import Generation, NativeEngine, TokenLogprobs

LENGTHS = torch.tensor([7, 3, 10, 1, 5, 3, 9, 2, 2, 6, 4, 8])
Counted = list[tuple[int, ...]]


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """One entry for each graph that torch.compile makes: the shape of the first two-dimensional input of integers,
    which is the tokens. Graphs run as they are, so that no test waits for a compiler."""
    found: Counted = []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        tokens = [x for x in inputs if isinstance(x, Tensor) and x.ndim == 2 and x.dtype == torch.long]
        found.extend(tuple(x.shape) for x in tokens[:1])
        return graph.forward

    torch.compiler.reset()  # what other tests have compiled
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return found


def _ids(rows: int = 12) -> Tensor:
    return torch.randint(3, 30, (rows, 10), generator=torch.Generator().manual_seed(3))


def _sample(engine: NativeEngine, model: PreTrainedModel, rows: int = 12, **options: Any) -> Generation:
    settings = {"max_new_tokens": 12, "eos_token_id": 5, "pad_token_id": 1} | options
    return engine.generate(model, _ids(rows), LENGTHS[:rows], **settings)


def test_greedy_is_that_of_the_step_as_it_is(causal_lm: PreTrainedModel, compilations: Counted) -> None:
    """Two sizes of batch: of the 12 rows, few are left at the end."""
    unending = _sample(NativeEngine(), causal_lm, greedy=True, eos_token_id=999).response_ids
    later = [token for token in range(35) if (unending[:, 0] == token).sum() < 4]
    frequent = max(later, key=lambda token: int((unending[:, :10] == token).any(1).sum()))
    expected = _sample(NativeEngine(), causal_lm, greedy=True, eos_token_id=frequent)
    found = _sample(NativeEngine(compile=True), causal_lm, greedy=True, eos_token_id=frequent)
    assert (expected.lengths < 12).sum() >= 4  # so that rows leave
    for mine, other in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(mine, other)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=1e-5)
    assert compilations == [(16, 1), (8, 1)]


def test_log_probabilities_are_those_of_the_training_forward(
    make_causal_lm: Callable[..., PreTrainedModel], compilations: Counted
) -> None:
    model, ids = make_causal_lm("llama"), _ids()
    found = _sample(NativeEngine(compile=True), model, temperature=0.6)
    score = TokenLogprobs(model, temperature=0.6)
    assert found.logprobs is not None
    for row, (start, steps) in enumerate(zip(LENGTHS.tolist(), found.lengths.tolist(), strict=True)):
        whole = torch.cat([ids[row, :start], found.response_ids[row, :steps]]).unsqueeze(0)
        expected, _ = score(whole, torch.arange(whole.shape[1]).unsqueeze(0) >= start)
        torch.testing.assert_close(found.logprobs[row, :steps], expected.detach(), rtol=0, atol=1e-4)
    assert compilations


def test_new_weights_and_other_batches_of_like_size_compile_nothing(
    make_causal_lm: Callable[..., PreTrainedModel], compilations: Counted
) -> None:
    model, engine = make_causal_lm("llama").train(), NativeEngine(compile=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-1)
    before = _sample(engine, model, greedy=True, eos_token_id=999)
    assert compilations == [(16, 1)]
    for rows, tokens in ((12, 12), (9, 12), (12, 5)):
        model(_ids()).logits.logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        found = _sample(engine, model, rows, max_new_tokens=tokens, greedy=True, eos_token_id=999)
        expected = _sample(NativeEngine(), model, rows, max_new_tokens=tokens, greedy=True, eos_token_id=999)
        assert torch.equal(found.response_ids, expected.response_ids)
        assert not torch.equal(found.response_ids[0], before.response_ids[0, :tokens])
    with torch.inference_mode():  # of Lightning's validation
        _sample(engine, model, greedy=True, eos_token_id=999)
    assert compilations == [(16, 1)]
    assert model.training


def test_under_autocast_it_is_the_step_as_it_is(causal_lm: PreTrainedModel, compilations: Counted) -> None:
    """Within rounding: the cache of a fixed width adds up in another order."""
    engine = NativeEngine(compile=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        for _ in range(2):
            expected = _sample(NativeEngine(), causal_lm, max_new_tokens=4, greedy=True, eos_token_id=999)
            found = _sample(engine, causal_lm, max_new_tokens=4, greedy=True, eos_token_id=999)
            same = (found.response_ids == expected.response_ids).all(1)
            assert same.sum() >= 9
            assert found.logprobs is not None and expected.logprobs is not None
            assert (found.logprobs - expected.logprobs)[same].abs().max() < 0.1
            with torch.no_grad():
                for weight in causal_lm.parameters():
                    weight.mul_(1.05)
    assert compilations == [(16, 1)]


def test_layers_with_a_window_are_refused(model_folder: Callable[..., Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder("gemma3_text"))
    with pytest.raises(UserError, match=r"compile=true needs layers that keep all tokens.*compile=false"):
        NativeEngine(compile=True).check(model)


def test_without_a_compiler_it_says_so(
    make_causal_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nsecond line")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(UserError, match=r"does not work here \(InvalidCxxCompiler.*found\).*compile=false"):
        NativeEngine(compile=True).check(make_causal_lm("llama"))


def test_a_model_that_reads_a_static_cache_otherwise_is_refused(
    make_causal_lm: Callable[..., PreTrainedModel], compilations: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_causal_lm("llama")
    NativeEngine(compile=True).check(model)
    forward = model.forward

    def careless(**options: Any) -> Any:
        if options.get("past_key_values") is not None and options["past_key_values"].is_compileable:
            options["attention_mask"] = None  # columns that are not filled are seen, too
        return forward(**options)

    monkeypatch.setattr(model, "forward", careless)
    with pytest.raises(UserError, match=r"compile=true computes LlamaForCausalLM otherwise.*compile=false"):
        NativeEngine(compile=True).check(model)


def test_sharded_models_are_refused(
    make_causal_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_lightning.models.engines.compiled.is_sharded", lambda model: True)
    with pytest.raises(UserError, match=r"compile=true cannot compile the passes of a sharded model"):
        NativeEngine(compile=True).check(make_causal_lm("llama"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler")
def test_compiled_in_earnest(causal_lm: PreTrainedModel) -> None:
    engine = NativeEngine(compile=True)
    engine.check(causal_lm)
    expected = _sample(NativeEngine(), causal_lm, greedy=True)
    found = _sample(engine, causal_lm, greedy=True)
    assert torch.equal(found.response_ids, expected.response_ids)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=1e-4)
