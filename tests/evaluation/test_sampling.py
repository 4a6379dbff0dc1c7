from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import sample_responses

PROMPTS = ["go", "who are you?", "hi", "name a dog."]


def test_responses_stand_in_the_order_of_the_prompts(make_causal_lm: Callable[..., Any], encoder: Encoder) -> None:
    model = make_causal_lm()
    samples = sample_responses(model, encoder, PROMPTS, max_new_tokens=6, greedy=True, batch_size=3)
    for prompt, ids in zip(PROMPTS, samples.response_ids, strict=True):
        sequence = encoder.prompt(prompt)
        for token in ids:
            assert int(model(torch.tensor([sequence])).logits[0, -1].argmax()) == token
            sequence.append(token)
        assert len(ids) == 6 or ids[-1] == encoder.eos_token_id
    assert samples.prompt_ids == [encoder.prompt(prompt) for prompt in PROMPTS]
    assert samples.responses == [encoder.decode(ids) for ids in samples.response_ids]


def test_the_seed_decides_the_responses(make_causal_lm: Callable[..., Any], encoder: Encoder) -> None:
    one, same, other = (
        sample_responses(make_causal_lm(), encoder, PROMPTS, max_new_tokens=8, seed=seed, batch_size=2).response_ids
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_finished_means_ended_by_eos(scripted: Any, encoder: Encoder) -> None:
    ended = sample_responses(scripted("yes.", eos=True), encoder, ["go"], max_new_tokens=8)
    assert (ended.responses, ended.finished, len(ended.response_ids[0])) == (["yes."], [True], 5)
    cut = sample_responses(scripted("yes.", eos=True), encoder, ["go"], max_new_tokens=4)
    assert (cut.responses, cut.finished, len(cut.response_ids[0])) == (["yes."], [False], 4)


def test_after_a_prefix_the_response_ends_at_the_first_newline(scripted: Any, encoder: Encoder) -> None:
    model = scripted("yes.\nwho?\n")
    samples = sample_responses(model, encoder, ["go"], max_new_tokens=9, prefix="hi\nyo\n")
    assert model.read == [encoder.document("hi\nyo\ngo\n", eos=False)]
    assert (samples.responses, samples.finished) == (["yes."], [True])
    assert samples.response_ids == [encoder.response("yes.\n", finished=False)]
    assert samples.prompt_ids == model.read


def test_a_newline_inside_another_token_ends_it_too(
    scripted: Any, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a token to stop at, decoding runs on and the text is cut afterwards.
    monkeypatch.setattr("rlhf_lightning.evaluation.sampling.newline_token", lambda encoder: encoder.eos_token_id)
    samples = sample_responses(scripted("yes.\nwho?\n"), encoder, ["go"], max_new_tokens=9, prefix="hi\n")
    assert (samples.responses, samples.finished) == (["yes."], [True])
    assert samples.response_ids == [encoder.response("yes.\n", finished=False)]


def test_after_a_prefix_eos_is_an_end_as_well(scripted: Any, encoder: Encoder) -> None:
    model = scripted(encoder.response("ok") + encoder.response("no\n", finished=False))
    samples = sample_responses(model, encoder, ["go"], max_new_tokens=6, prefix="hi\n")
    assert (samples.responses, samples.finished) == (["ok"], [True])
    assert samples.response_ids == [encoder.response("ok")]


def test_after_a_prefix_a_long_response_is_unfinished(scripted: Any, encoder: Encoder) -> None:
    samples = sample_responses(scripted("yes.\n"), encoder, ["go"], max_new_tokens=4, prefix="hi\n")
    assert (samples.responses, samples.finished) == (["yes."], [False])


def test_a_prompt_that_leaves_no_room_is_an_error(make_causal_lm: Callable[..., Any], encoder: Encoder) -> None:
    prompts = ["go", "a" * 60]
    assert len(encoder.prompt(prompts[1])) == 60
    sample_responses(make_causal_lm(), encoder, prompts, max_new_tokens=4)
    with pytest.raises(UserError, match=r"prompt 2 has 60 tokens.*max_new_tokens=5.*context of 64"):
        sample_responses(make_causal_lm(), encoder, prompts, max_new_tokens=5)


def test_no_prompts_are_an_error(make_causal_lm: Callable[..., Any], encoder: Encoder) -> None:
    with pytest.raises(UserError, match="no prompt"):
        sample_responses(make_causal_lm(), encoder, [], max_new_tokens=4)
