from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import check_causal_lm, generate, load_causal_lm, load_scalar_model
from rlhf_lightning.models.engines.next_logits import NextLogits

SMALL = {"hidden_size": 32, "num_hidden_layers": 2}


def test_every_supported_architecture_passes_in_every_precision(kind: str, model_folder: Callable[..., Path]) -> None:
    for dtype in ("float32", "bfloat16"):
        load_causal_lm(name=str(model_folder(kind)), dtype=dtype)


def test_greedy_decoding_with_a_cache_is_that_without(kind: str, model_folder: Callable[..., Path]) -> None:
    """Prompts of mixed length, some longer than the sliding windows; rows end apart and leave the batch."""
    model = load_causal_lm(name=str(model_folder(kind))).eval()
    lengths = torch.tensor([7, 3, 10, 1, 5, 3])
    prompts = torch.randint(3, 30, (6, 10)).masked_fill(torch.arange(10) >= lengths.unsqueeze(1), 1)

    def greedy(eos: int) -> Any:
        return generate(model, prompts, lengths, max_new_tokens=12, eos_token_id=eos, pad_token_id=1, greedy=True)

    rows = greedy(999).response_ids.tolist()
    eos = max(
        {token for row in rows for token in row}, key=lambda token: len({(*row, token).index(token) for row in rows})
    )
    found = greedy(eos)
    for prompt, length, ids, end in zip(prompts, lengths, found.response_ids, found.lengths, strict=True):
        sequence = prompt[:length].tolist()
        for token in ids[:end].tolist():
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([sequence]), use_cache=False).logits[0, -1]
            assert token == int(logits.argmax())
            sequence.append(token)
    assert len(set(found.lengths.tolist())) > 1


@pytest.mark.parametrize(
    ("unfit", "settings", "reason"),
    [
        (
            "t5",
            {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
            "cannot generate text left to right",
        ),
        ("bert", {**SMALL, "intermediate_size": 48, "num_attention_heads": 4}, "not a plain projection"),
        ("mamba", {**SMALL, "state_size": 4}, "other logits with a key-value cache and left padding"),
        (
            "granite",
            {**SMALL, "intermediate_size": 48, "num_attention_heads": 4, "logits_scaling": 3.0},
            "plain projec",
        ),
    ],
)
def test_an_architecture_that_cannot_work_is_refused_when_it_is_loaded(
    unfit: str, settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model(unfit, vocab_size=35, **settings).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"^model.name={tmp_path}.*: .*{reason}") as caught:
        load_causal_lm(name=str(tmp_path), init="random")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=f"^model.name={tmp_path}.*: .*(no linear head|cannot classify sequences)"):
        load_scalar_model(name=str(tmp_path), init="random", head="new")


def test_a_model_that_reads_ahead_is_refused(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    def add_what_follows(module: nn.Module, arguments: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.flip(1).cumsum(1).flip(1)
        return output

    model = make_causal_lm("llama")
    model.model.register_forward_hook(add_what_follows)
    with pytest.raises(UserError, match="model.name=mine: .*LlamaForCausalLM reads ahead or reads its padding"):
        check_causal_lm(model, name="mine")


def test_a_wrong_position_behind_the_cache_is_found(
    make_causal_lm: Callable[..., PreTrainedModel], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shifted(NextLogits):
        def __call__(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
            return super().__call__(tokens, positions + (tokens.shape[1] == 1), mask, cache)

    check_causal_lm(make_causal_lm(architecture), name="mine")
    monkeypatch.setattr("rlhf_lightning.models.architecture.NextLogits", Shifted)
    with pytest.raises(UserError, match="other logits with a key-value cache"):
        check_causal_lm(make_causal_lm(architecture), name="mine")


def test_a_model_without_weights_is_left_alone(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    check_causal_lm(make_causal_lm("llama").to("meta"), name="mine")
