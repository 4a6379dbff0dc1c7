from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from rlhf_lightning.functional import head_logprobs, selected_logprobs


def test_literal_values() -> None:
    # logits 0 and ln 3 are the distribution 1/4, 3/4
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    chosen, entropy = selected_logprobs(logits, torch.tensor([0, 1]))
    assert chosen.tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert entropy.tolist() == pytest.approx([expected, expected])


def test_temperature_divides_the_logits() -> None:
    # ln 9 / 2 = ln 3
    logits = torch.tensor([[0.0, math.log(9.0)]])
    chosen, entropy = selected_logprobs(logits, torch.tensor([1]), temperature=2.0)
    assert chosen.item() == pytest.approx(math.log(0.75))
    assert entropy.item() == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))


def test_agrees_with_torch_distributions() -> None:
    logits = torch.randn(3, 4, 7) * 3
    tokens = torch.randint(7, (3, 4))
    chosen, entropy = selected_logprobs(logits, tokens, temperature=0.7)
    distribution = Categorical(logits=logits / 0.7)
    torch.testing.assert_close(chosen, distribution.log_prob(tokens))
    torch.testing.assert_close(entropy, distribution.entropy())


@pytest.mark.parametrize("chunk_size", [2, 100])
def test_an_entropy_that_is_not_asked_for_costs_no_pass_and_changes_nothing_else(chunk_size: int) -> None:
    logits, tokens = torch.randn(5, 7, requires_grad=True), torch.randint(7, (5,))
    found = []
    for entropy in (True, False):
        chosen, spread = head_logprobs(logits, lambda states: states, tokens, chunk_size=chunk_size, entropy=entropy)
        (gradient,) = torch.autograd.grad(chosen.sum(), logits)
        found.append((chosen, gradient, spread))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert (found[0][2] > 0).all()
    assert not found[1][2].any()
    assert not found[1][2].requires_grad


def test_half_precision_logits_are_taken_up_to_float32() -> None:
    logits = torch.randn(5, 9).bfloat16()
    chosen, entropy = selected_logprobs(logits, torch.arange(5))
    assert chosen.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(chosen, logits.double().log_softmax(-1)[range(5), range(5)].float())


@pytest.mark.parametrize("offset", [-300.0, 0.0, 1e4])
def test_logits_far_from_zero_lose_no_digits(offset: float) -> None:
    logits = (torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) + offset).requires_grad_()
    chosen, _ = selected_logprobs(logits, torch.arange(4), entropy=False)
    expected = logits.detach().double().requires_grad_()
    exact = expected.log_softmax(-1)[range(4), range(4)]
    torch.testing.assert_close(chosen.double(), exact, rtol=0, atol=1.5e-6)
    (found,), (slope,) = torch.autograd.grad(chosen.sum(), logits), torch.autograd.grad(exact.sum(), expected)
    torch.testing.assert_close(found.double(), slope, rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=str(temperature)):
        selected_logprobs(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), temperature=temperature)


def _case() -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(3)
    return torch.randn(11, 6, dtype=torch.float64), nn.Linear(6, 13, dtype=torch.float64), torch.randint(13, (11,))


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 10, 11, 1000])
def test_head_logprobs_do_not_depend_on_the_chunk(chunk_size: int) -> None:
    hidden, head, tokens = _case()
    hidden.requires_grad_()
    chosen, entropy = head_logprobs(hidden, head, tokens, temperature=1.5, chunk_size=chunk_size)
    (chosen.sum() + 0.3 * entropy.sum()).backward()
    found = chosen, entropy, hidden.grad, head.weight.grad

    hidden, head, tokens = _case()
    hidden.requires_grad_()
    distribution = Categorical(logits=head(hidden) / 1.5)
    (distribution.log_prob(tokens).sum() + 0.3 * distribution.entropy().sum()).backward()
    expected = distribution.log_prob(tokens), distribution.entropy(), hidden.grad, head.weight.grad
    torch.testing.assert_close(found, expected)


def test_no_logits_outlive_their_chunk() -> None:
    hidden, head, tokens = _case()
    hidden.requires_grad_()
    rows: list[int] = []
    head.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    saved: list[tuple[int, ...]] = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        chosen, entropy = head_logprobs(hidden, head, tokens, chunk_size=4)
        loss = chosen.sum() + entropy.sum()
    assert rows == [4, 4, 3]
    assert not [shape for shape in saved if 13 in shape and shape != (13, 6)]  # (13, 6) is the weight
    loss.backward()
    assert sorted(rows[3:]) == [3, 4, 4]  # computed again, chunk by chunk


def test_one_hidden_state_for_each_token() -> None:
    hidden, head, tokens = _case()
    with pytest.raises(ValueError, match="11 hidden states for 10 tokens"):
        head_logprobs(hidden, head, tokens[:-1])
