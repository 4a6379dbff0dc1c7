from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM, PreTrainedModel

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import TokenLogprobs, hidden_states

LENGTHS = torch.tensor([7, 3, 10, 2])


@pytest.fixture
def input_ids() -> Tensor:
    """Four rows of mixed length, right padded with 1."""
    ids = torch.randint(3, 30, (4, 10))
    return ids.masked_fill(torch.arange(10) >= LENGTHS.unsqueeze(1), 1)


@pytest.fixture
def targets() -> Tensor:
    """Tokens 2 to the end of each row; the last row has none."""
    columns = torch.arange(10)
    return (columns >= 2) & (columns < LENGTHS.unsqueeze(1))


def _row_by_row(model: nn.Module, input_ids: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies from whole forward passes of one unpadded row at a time."""
    chosen, entropies = [], []
    for ids, wanted, length in zip(input_ids, targets, LENGTHS.tolist(), strict=True):
        log_probs = (model(input_ids=ids[None, :length]).logits[0] / temperature).log_softmax(-1)
        for position in wanted.nonzero().flatten().tolist():
            chosen.append(log_probs[position - 1, ids[position]])
            entropies.append(-(log_probs[position - 1].exp() * log_probs[position - 1]).sum())
    return torch.stack(chosen), torch.stack(entropies)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk_size", [1024, 5])
def test_equal_to_the_log_softmax_of_a_whole_forward_pass(
    causal_lm: PreTrainedModel, input_ids: Tensor, targets: Tensor, temperature: float, chunk_size: int
) -> None:
    found = TokenLogprobs(causal_lm, temperature=temperature, chunk_size=chunk_size)(input_ids, targets)
    torch.testing.assert_close(found, _row_by_row(causal_lm, input_ids, targets, temperature), rtol=1e-4, atol=1e-4)


def test_gradients_equal_those_of_a_whole_forward_pass(
    causal_lm: PreTrainedModel,
    make_causal_lm: Callable[..., PreTrainedModel],
    architecture: str,
    input_ids: Tensor,
    targets: Tensor,
) -> None:
    other = make_causal_lm(architecture)
    TokenLogprobs(causal_lm, chunk_size=4)(input_ids, targets)[0].sum().backward()
    _row_by_row(other, input_ids, targets, 1.0)[0].sum().backward()
    for (name, mine), theirs in zip(causal_lm.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_soft_capping_is_applied(input_ids: Tensor, targets: Tensor) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": 35}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 1}
    config = Gemma2Config(**sizes, **heads, final_logit_softcapping=2.0, initializer_range=0.5)
    model = Gemma2ForCausalLM(config).eval()
    found = TokenLogprobs(model)(input_ids, targets)
    torch.testing.assert_close(found, _row_by_row(model, input_ids, targets, 1.0), rtol=1e-4, atol=1e-4)


def test_a_model_whose_logits_are_something_else_is_refused(input_ids: Tensor, targets: Tensor) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 35}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 1}
    model = GraniteForCausalLM(GraniteConfig(**sizes, **heads, logits_scaling=8.0, initializer_range=0.5)).train()
    with pytest.raises(ValueError, match="GraniteForCausalLM are not a plain projection"):
        TokenLogprobs(model)(input_ids, targets)
    assert model.training


def test_the_vocabulary_is_read_at_the_targets_only(
    causal_lm: PreTrainedModel, input_ids: Tensor, targets: Tensor
) -> None:
    logprobs = TokenLogprobs(causal_lm)
    logprobs(input_ids, targets)  # checks the head once, on four positions
    rows: list[int] = []
    causal_lm.get_output_embeddings().register_forward_hook(lambda module, args, output: rows.append(output.shape[0]))
    logprobs(input_ids, targets)
    assert rows == [5 + 1 + 8]


def test_padding_is_never_read(causal_lm: PreTrainedModel, input_ids: Tensor, targets: Tensor) -> None:
    logprobs = TokenLogprobs(causal_lm)
    expected = logprobs(input_ids, targets)
    garbage = input_ids.masked_fill(torch.arange(10) >= LENGTHS.unsqueeze(1), 17)
    torch.testing.assert_close(logprobs(garbage, targets), expected, rtol=0, atol=0)


def test_left_padding_with_a_mask_gives_the_same_states(causal_lm: PreTrainedModel, input_ids: Tensor) -> None:
    right = hidden_states(causal_lm, input_ids)
    shifted = torch.full((4, 12), 1)
    mask = torch.zeros(4, 12, dtype=torch.bool)
    for row, length in enumerate(LENGTHS.tolist()):
        shifted[row, 12 - length :] = input_ids[row, :length]
        mask[row, 12 - length :] = True
    left = hidden_states(causal_lm, shifted, mask)
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(left[row, 12 - length :], right[row, :length], rtol=1e-4, atol=1e-4)


def test_the_first_token_has_no_log_probability(causal_lm: PreTrainedModel, input_ids: Tensor) -> None:
    with pytest.raises(ValueError, match="nothing stands before it"):
        TokenLogprobs(causal_lm)(input_ids, torch.ones_like(input_ids, dtype=torch.bool))


def test_a_row_beyond_the_context_is_refused_with_both_numbers(causal_lm: PreTrainedModel) -> None:
    with pytest.raises(UserError, match="65 tokens does not fit the model's context of 64"):
        hidden_states(causal_lm, torch.zeros(1, 65, dtype=torch.long))
