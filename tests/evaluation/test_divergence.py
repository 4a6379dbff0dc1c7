from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlhf_lightning.data import Encoder
from rlhf_lightning.evaluation import Samples, kl_from, sequence_logprobs
from rlhf_lightning.models import TokenLogprobs

PROMPTS = ["go", "who are you?", "hi"]
RESPONSES = ["yes.", "a big dog", ""]
FINISHED = [True, False, True]


def by_hand(model: Any, prompt: list[int], response: list[int], temperature: float = 1.0) -> float:
    with torch.no_grad():
        log_probs = (model(torch.tensor([prompt + response])).logits[0] / temperature).log_softmax(-1)
    return sum(float(log_probs[len(prompt) - 1 + t, token]) for t, token in enumerate(response))


@pytest.fixture
def samples(encoder: Encoder) -> Samples:
    return Samples(
        RESPONSES,
        FINISHED,
        [encoder.prompt(prompt) for prompt in PROMPTS],
        [encoder.response(text, finished=end) for text, end in zip(RESPONSES, FINISHED, strict=True)],
    )


@pytest.fixture
def other(make_causal_lm: Callable[..., Any]) -> Any:
    model = make_causal_lm()
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_sum_of_the_responses_tokens_by_log_softmax(causal_lm: Any, samples: Samples, batch_size: int) -> None:
    found = sequence_logprobs(
        TokenLogprobs(causal_lm, temperature=0.7), samples.prompt_ids, samples.response_ids, batch_size=batch_size
    )
    for value, prompt, response in zip(found.tolist(), samples.prompt_ids, samples.response_ids, strict=True):
        assert value == pytest.approx(by_hand(causal_lm, prompt, response, 0.7), rel=1e-4)


def test_an_empty_response_has_log_probability_zero(make_causal_lm: Callable[..., Any], encoder: Encoder) -> None:
    found = sequence_logprobs(TokenLogprobs(make_causal_lm()), [encoder.prompt("hi")], [[]])
    assert found.tolist() == [0.0]


def test_the_kl_is_the_difference_of_the_log_probabilities(
    make_causal_lm: Callable[..., Any], other: Any, encoder: Encoder, samples: Samples
) -> None:
    baseline = make_causal_lm()
    found = kl_from(TokenLogprobs(baseline), encoder, TokenLogprobs(other), encoder, samples, PROMPTS)
    for value, prompt, response in zip(found, samples.prompt_ids, samples.response_ids, strict=True):
        expected = by_hand(other, prompt, response) - by_hand(baseline, prompt, response)
        assert value == pytest.approx(expected, abs=1e-4)


def test_the_kl_of_a_model_from_itself_is_zero(
    make_causal_lm: Callable[..., Any], encoder: Encoder, samples: Samples
) -> None:
    model = TokenLogprobs(make_causal_lm())
    assert kl_from(model, encoder, model, encoder, samples, PROMPTS) == [0.0, 0.0, 0.0]


def test_after_a_prefix_the_baseline_reads_the_text_in_its_own_form(
    make_causal_lm: Callable[..., Any], other: Any, encoder: Encoder
) -> None:
    baseline = make_causal_lm()
    read, wrote = encoder.document("hi\nyo\ngo\n", eos=False), encoder.response("yes.\n", finished=False)
    samples = Samples(["yes."], [True], [read], [wrote])
    (found,) = kl_from(TokenLogprobs(baseline), encoder, TokenLogprobs(other), encoder, samples, ["go"], prompted=True)
    plain = by_hand(baseline, encoder.prompt("go"), encoder.response("yes."))
    assert found == pytest.approx(by_hand(other, read, wrote) - plain, abs=1e-4)


def test_a_baseline_with_another_template_reads_prompts_in_its_own_form(
    make_causal_lm: Callable[..., Any], other: Any, encoder: Encoder, samples: Samples
) -> None:
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}!"
    templated, baseline = Encoder(tokenizer), make_causal_lm()
    found = kl_from(TokenLogprobs(baseline), templated, TokenLogprobs(other), encoder, samples, PROMPTS)
    for value, prompt, read, response in zip(found, PROMPTS, samples.prompt_ids, samples.response_ids, strict=True):
        expected = by_hand(other, read, response) - by_hand(baseline, encoder.prompt(f"{prompt}!"), response)
        assert value == pytest.approx(expected, abs=1e-4)
