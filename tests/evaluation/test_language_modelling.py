from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import mean_loss, text_batches, text_loss

TEXTS = ["a dog runs. it is big.", "hi", "who are you? a cat.", "the sun is up, go out!"]


def test_the_loss_is_the_mean_of_every_blocks_labels(
    causal_lm: Any, encoder: Encoder, write_jsonl: Callable[..., str]
) -> None:
    file = write_jsonl("text.jsonl", [{"text": text} for text in TEXTS])
    stream = [token for text in TEXTS for token in encoder.document(text)]
    blocks = torch.tensor(stream[: len(stream) // 8 * 8]).view(-1, 8)
    with torch.no_grad():
        log_probs = causal_lm(blocks).logits[:, :-1].log_softmax(-1)
    expected = -log_probs.gather(-1, blocks[:, 1:, None]).mean()
    # 3 blocks a batch leave a smaller last batch, which must not weigh as much as a full one.
    assert len(blocks) % 3 != 0
    found = text_loss(causal_lm, encoder, file, block_size=8, batch_size=3)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_vocabulary(
    make_causal_lm: Callable[..., Any], encoder: Encoder, write_jsonl: Callable[..., str]
) -> None:
    model = make_causal_lm()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    file = write_jsonl("text.jsonl", [{"text": text} for text in TEXTS])
    # 3 special tokens and 32 letters and signs.
    assert text_loss(model, encoder, file, block_size=8) == pytest.approx(math.log(35), abs=1e-6)


def test_the_mode_of_the_model_is_put_back(make_causal_lm: Callable[..., Any], encoder: Encoder) -> None:
    model = make_causal_lm().train()
    assert mean_loss(model, []) == 0.0
    assert model.training


def test_max_tokens_takes_blocks_from_the_whole_file(encoder: Encoder, write_jsonl: Callable[..., str]) -> None:
    # 26 blocks of 4 equal letters: a quarter of the tokens are blocks 0, 4, 8, 13, 17 and 21.
    file = write_jsonl("text.jsonl", [{"text": letter * 4} for letter in "abcdefghijklmnopqrstuvwxyz"])
    batches = text_batches(encoder, file, block_size=4, document_eos=False, max_tokens=26)
    rows = [encoder.decode(row) for batch in batches for row in batch.input_ids.tolist()]
    assert rows == ["aaaa", "eeee", "iiii", "nnnn", "rrrr", "vvvv"]


def test_max_tokens_below_a_block_are_an_error(encoder: Encoder, write_jsonl: Callable[..., str]) -> None:
    file = write_jsonl("text.jsonl", [{"text": "abcdefgh"}])
    with pytest.raises(UserError, match="max_tokens=3 is less than one block of 4"):
        text_batches(encoder, file, block_size=4, max_tokens=3)
