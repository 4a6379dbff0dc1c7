from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rlhf_lightning.data import Encoder, collate_tokens
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    Lora,
    RewardModelScorer,
    TokenLogprobs,
    check_vocabulary,
    generate,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
)

ROWS = 48  # 13 more than the tokenizer has tokens


def test_a_tokenizer_larger_than_the_embedding_is_refused(
    model_folder: Callable[..., Path], as_trained: Callable[..., Any], encoder: Encoder, tmp_path: Path
) -> None:
    folder = model_folder("llama", rows=30)
    with pytest.raises(UserError, match="larger than the policy's embedding: it has 35 ids and .* 30 rows") as caught:
        check_vocabulary(load_causal_lm(name=str(folder)), encoder, role="policy")
    assert "(id 30)" in str(caught.value)
    for lora in (
        Lora(trainable_tokens=[3]),
        Lora(modules_to_save=["embed_tokens"]),
        Lora(target_modules=["embed_tokens"]),
    ):
        with pytest.raises(UserError, match="it has 35 ids and the embedding 30 rows"):
            check_vocabulary(load_causal_lm(name=str(folder), lora=lora), encoder)
    save_model_folder(as_trained(load_scalar_model(name=str(folder), head="new")), encoder, tmp_path / "reward")
    with pytest.raises(UserError, match="larger than the reward model's embedding"):
        RewardModelScorer(name=str(tmp_path / "reward"))


def test_a_smaller_or_equal_one_and_what_has_no_embedding_pass(
    model_folder: Callable[..., Path], encoder: Encoder
) -> None:
    for rows in (35, ROWS):
        check_vocabulary(load_causal_lm(name=str(model_folder("llama", rows=rows))), encoder)
    check_vocabulary(nn.Linear(2, 2), encoder)
    check_vocabulary(None, encoder)
    check_vocabulary(load_causal_lm(name=str(model_folder("llama", rows=30))), None)


def test_special_tokens_that_no_stage_writes_are_warned_of_alone(
    model_folder: Callable[..., Path], tokenizer_with: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Gemma 3's tokenizer has a token for images, which its text models have no row for."""
    model = load_causal_lm(name=str(model_folder("gemma3_text")))
    tokenizer = tokenizer_with()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    with caplog.at_level(logging.WARNING):
        check_vocabulary(model, Encoder(tokenizer))
    assert "no embedding for the special tokens <image_soft_token>" in caplog.text
    tokenizer.eos_token = "<image_soft_token>"
    with pytest.raises(UserError, match=r"'<image_soft_token>' \(id 35\) has none"):
        check_vocabulary(model, Encoder(tokenizer))


def test_ids_beyond_the_vocabulary_can_be_sampled_and_trained_on_and_give_no_text(
    model_folder: Callable[..., Path], encoder: Encoder
) -> None:
    model = load_causal_lm(name=str(model_folder("llama", rows=ROWS)))
    ids = torch.tensor([encoder.prompt("name a cat")] * 64)
    lengths = torch.full((64,), ids.shape[1])
    found = generate(model, ids, lengths, max_new_tokens=8, eos_token_id=0, pad_token_id=1)
    beyond = [row for row in found.response_ids.tolist() if max(row) >= 35]
    assert beyond
    for row in beyond:
        known = [token for token in row if token < 35]
        assert encoder.decode(row) == encoder.decode(known)
        rows = [{"input_ids": encoder.prompt("name a cat") + row, "prompt_length": ids.shape[1]}]
        batch = collate_tokens(rows, pad_id=1)
        logprobs, _ = TokenLogprobs(model)(batch.input_ids, batch.loss_mask)
        assert logprobs.isfinite().all()
    assert encoder.decode([3, 4, 40, 5, 47]) == "abc"
