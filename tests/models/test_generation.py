from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import Generation, generate

LENGTHS = torch.tensor([7, 3, 10, 1, 5, 3])
STEPS = 8
NO_EOS = 999  # never chosen


@pytest.fixture
def prompts() -> Tensor:
    ids = torch.randint(3, 30, (6, 10))
    return ids.masked_fill(torch.arange(10) >= LENGTHS.unsqueeze(1), 1)


def _greedy(model: PreTrainedModel, prompts: Tensor, eos: int, **options: object) -> Generation:
    settings = {"max_new_tokens": STEPS, "eos_token_id": eos, "pad_token_id": 1, "greedy": True} | options
    return generate(model, prompts, LENGTHS, **settings)  # type: ignore[arg-type]  # options of several types, by name


def _rows(generation: Generation) -> list[list[int]]:
    pairs = zip(generation.response_ids.tolist(), generation.lengths.tolist(), strict=True)
    return [ids[:length] for ids, length in pairs]


def _a_token_that_ends_rows_apart(model: PreTrainedModel, prompts: Tensor) -> int:
    """The token that, taken for EOS, gives the most different lengths."""
    rows = _rows(_greedy(model, prompts, NO_EOS))
    first = {token: {row.index(token) if token in row else None for row in rows} for row in rows for token in row}
    return max(first, key=lambda token: len(first[token]))


class Calls:
    """What the model was asked: batch sizes and widths of its inputs."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.shapes: list[tuple[int, int]] = []
        model.register_forward_pre_hook(
            lambda module, args, kwargs: self.shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )


def _transformers_greedy(model: PreTrainedModel, prompts: Tensor, eos: int) -> list[list[int]]:
    found = []
    for ids, length in zip(prompts, LENGTHS.tolist(), strict=True):
        prompt = ids[None, :length]
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=1,
        )[0, length:].tolist()
        found.append(out[: out.index(eos) + 1] if eos in out else out)
    return found


def test_greedy_equals_transformers_on_prompts_of_mixed_length(causal_lm: PreTrainedModel, prompts: Tensor) -> None:
    eos = _a_token_that_ends_rows_apart(causal_lm, prompts)
    generation = _greedy(causal_lm, prompts, eos)
    expected = _transformers_greedy(causal_lm, prompts, eos)
    assert _rows(generation) == expected
    assert generation.finished.tolist() == [row[-1] == eos for row in expected]
    assert len({len(row) for row in expected}) > 2  # rows did end apart


@pytest.mark.parametrize("batch_size", [1, 2, 4, None])
def test_batch_mates_change_nothing(causal_lm: PreTrainedModel, prompts: Tensor, batch_size: int | None) -> None:
    eos = _a_token_that_ends_rows_apart(causal_lm, prompts)
    expected = _rows(_greedy(causal_lm, prompts, eos, batch_size=1))
    assert _rows(_greedy(causal_lm, prompts, eos, batch_size=batch_size)) == expected


def test_every_step_after_the_first_reads_one_token(causal_lm: PreTrainedModel, prompts: Tensor) -> None:
    calls = Calls(causal_lm)
    _greedy(causal_lm, prompts, NO_EOS)
    assert calls.shapes == [(6, 10)] + [(6, 1)] * (STEPS - 1)


def test_a_prompt_that_is_asked_for_several_times_is_read_once(causal_lm: PreTrainedModel, prompts: Tensor) -> None:
    prompts[0, :3] = torch.tensor([1, 1, 9])  # begins with what is also the pad token
    prompts[1, :2] = torch.tensor([1, 9])
    lengths = torch.tensor([3, 2, *LENGTHS[2:].tolist()])

    def answers(rows: Tensor, batch_size: int | None = None) -> Generation:
        return generate(
            causal_lm,
            prompts[rows],
            lengths[rows],
            max_new_tokens=STEPS,
            eos_token_id=NO_EOS,
            pad_token_id=1,
            greedy=True,
            batch_size=batch_size,
        )

    expected = _rows(answers(torch.arange(6), batch_size=1))
    order = torch.tensor([3, 0, 1, 3, 5, 2, 4, 3, 0, 1])
    calls = Calls(causal_lm)
    assert _rows(answers(order)) == [expected[row] for row in order]
    assert calls.shapes[0][0] == 6
    assert calls.shapes[1][0] == 10


def test_rows_that_have_ended_leave_and_decoding_stops_with_the_last(
    causal_lm: PreTrainedModel, prompts: Tensor
) -> None:
    eos = _a_token_that_ends_rows_apart(causal_lm, prompts)
    prompts, lengths = prompts.repeat(4, 1), LENGTHS.repeat(4)
    reference = generate(causal_lm, prompts, lengths, max_new_tokens=40, eos_token_id=eos, pad_token_id=1, greedy=True)
    ended = reference.lengths[reference.finished]
    rows = reference.finished.nonzero().squeeze(1)  # without the rows that never end
    calls = Calls(causal_lm)
    generate(causal_lm, prompts[rows], lengths[rows], max_new_tokens=40, eos_token_id=eos, pad_token_id=1, greedy=True)
    sizes = [size for size, _ in calls.shapes]
    assert len(sizes) == int(ended.max()) < 40
    assert sizes[1:] == sorted(sizes[1:], reverse=True)
    for step, size in enumerate(sizes[1:], 1):  # the prompts themselves are read once each
        alive = int((ended > step).sum())
        assert alive <= size <= alive / 0.8 + 1  # at most a fifth of a batch is dead weight


def test_generation_uses_the_cache_with_activation_checkpointing_on(
    causal_lm: PreTrainedModel, prompts: Tensor
) -> None:
    expected = _rows(_greedy(causal_lm, prompts, NO_EOS))
    causal_lm.train()
    causal_lm.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    layer = next(module for module in causal_lm.modules() if getattr(module, "gradient_checkpointing", False))
    function = layer._gradient_checkpointing_func
    calls = Calls(causal_lm)
    assert _rows(_greedy(causal_lm, prompts, NO_EOS)) == expected
    assert {width for _, width in calls.shapes[1:]} == {1}
    assert causal_lm.training
    assert layer.gradient_checkpointing
    assert layer._gradient_checkpointing_func is function


def test_modes_come_back_when_the_model_fails(causal_lm: PreTrainedModel, prompts: Tensor) -> None:
    causal_lm.train()

    def fail(module: object, args: object, output: object) -> None:
        raise RuntimeError("out of memory")

    handle = causal_lm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        _greedy(causal_lm, prompts, NO_EOS)
    handle.remove()
    assert causal_lm.training
    assert torch.is_grad_enabled()


def test_eos_is_part_of_the_response_and_padding_may_be_eos(causal_lm: PreTrainedModel, prompts: Tensor) -> None:
    eos = _a_token_that_ends_rows_apart(causal_lm, prompts)
    usual, same = _greedy(causal_lm, prompts, eos), _greedy(causal_lm, prompts, eos, pad_token_id=eos)
    assert _rows(same) == _rows(usual)
    assert torch.equal(same.finished, usual.finished)
    assert usual.finished.any()
    assert not usual.finished.all()
    for row, finished in zip(_rows(same), same.finished.tolist(), strict=True):
        assert row.count(eos) == int(finished)
        assert (row[-1] == eos) == finished
        assert finished or len(row) == STEPS


def test_the_response_is_as_wide_as_its_longest_row(causal_lm: PreTrainedModel, prompts: Tensor) -> None:
    first = _rows(_greedy(causal_lm, prompts, NO_EOS))[0][0]
    same = prompts[:1].repeat(6, 1)
    found = generate(
        causal_lm, same, LENGTHS[:1].repeat(6), max_new_tokens=5, eos_token_id=first, pad_token_id=1, greedy=True
    )
    assert found.response_ids.tolist() == [[first]] * 6
    assert found.lengths.tolist() == [1] * 6


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_samples_follow_the_distribution_of_the_model(causal_lm: PreTrainedModel, temperature: float) -> None:
    prompt, draws = torch.tensor([[5, 9, 4]]), 4000
    with torch.no_grad():
        probabilities = (causal_lm(prompt).logits[0, -1] / temperature).softmax(-1)
    generation = generate(
        causal_lm,
        prompt.repeat(draws, 1),
        torch.full((draws,), 3),
        max_new_tokens=1,
        eos_token_id=0,
        pad_token_id=1,
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
    )
    observed = torch.bincount(generation.response_ids[:, 0], minlength=len(probabilities)).double()
    expected = probabilities.double() * draws
    # Rare tokens share a bin, so that every bin expects at least 5; chi² has bins − 1 degrees of freedom.
    rare = expected < 5
    observed = torch.cat([observed[~rare], observed[rare].sum(0, keepdim=True)])
    expected = torch.cat([expected[~rare], expected[rare].sum(0, keepdim=True).clamp(min=1e-9)])
    freedom = len(expected) - 1
    assert freedom >= 3
    chi2 = float(((observed - expected).square() / expected).sum())
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5


def test_results_depend_on_the_generator_alone(make_causal_lm: Callable[..., PreTrainedModel], prompts: Tensor) -> None:
    model = make_causal_lm()

    def sample(seed: int, noise: int) -> Tensor:
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        generator = torch.Generator().manual_seed(seed)
        found = generate(
            model, prompts, LENGTHS, max_new_tokens=STEPS, eos_token_id=NO_EOS, pad_token_id=1, generator=generator
        )
        assert torch.equal(torch.get_rng_state(), before)
        return found.response_ids

    assert torch.equal(sample(1, 10), sample(1, 11))
    assert not torch.equal(sample(1, 10), sample(2, 10))


def test_what_cannot_be_generated_is_refused(causal_lm: PreTrainedModel, prompts: Tensor) -> None:
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        _greedy(causal_lm, prompts, NO_EOS, max_new_tokens=0)
    with pytest.raises(UserError, match="65 tokens does not fit the model's context of 64"):
        _greedy(causal_lm, prompts, NO_EOS, max_new_tokens=55)  # the longest prompt has 10
