"""Folders as users bring them: a tiny random model, a tokenizer of any habits; and a way to train the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_lightning.data import Encoder

COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
GROUPED = COMMON | {"num_key_value_heads": 2}  # grouped-query attention
# Dropout is on where an architecture has it: the library must switch it off.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2},  # learned positions
    "gpt_neox": COMMON | {"attention_dropout": 0.1, "hidden_dropout": 0.1},  # partly rotary
    "opt": {  # learned positions with an offset
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 32,
        "init_std": 0.2,
        "dropout": 0.1,
    },
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": 4},
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    "gemma2": GROUPED
    | {"head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 5.0},
    "gemma3_text": GROUPED
    | {"head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": GROUPED | {"original_max_position_embeddings": 64, "resid_pdrop": 0.1},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2, "hidden_dropout": 0.1},  # ALiBi
}
PADS = {"own": "<pad>", "eos": "</s>", "none": None}


@pytest.fixture(scope="session", params=ARCHITECTURES)
def kind(request: pytest.FixtureRequest) -> str:
    """Every architecture, one after the other."""
    return str(request.param)


@pytest.fixture(scope="session")
def tokenizer_with(encoder: Encoder) -> Callable[..., Any]:
    """A fresh tokenizer of the suite with its padding changed."""

    def make(*, pad: str = "own", side: str = "right") -> Any:
        tokenizer = copy.deepcopy(encoder.tokenizer)
        tokenizer.pad_token = PADS[pad]
        tokenizer.padding_side = side
        return tokenizer

    return make


@pytest.fixture(scope="session")
def model_folder(tokenizer_with: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a tiny random model with its tokenizer, made once; do not write there."""
    made: dict[tuple[Any, ...], Path] = {}

    def make(
        kind: str, *, tied: bool = False, pad: str = "own", side: str = "right", rows: int = 35, **options: Any
    ) -> Path:
        key = kind, tied, pad, side, rows, tuple(options.items())
        if key in made:
            return made[key]
        tokenizer = tokenizer_with(pad=pad, side=side)
        special = {"eos_token_id": 0, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": 2}
        settings = ARCHITECTURES.get(kind, COMMON) | special | {"vocab_size": rows, "tie_word_embeddings": tied}
        torch.manual_seed(1)
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings | options))
        folder = tmp_path_factory.mktemp(f"{kind}-{pad}-{side}")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made[key] = folder
        return folder

    return make


@pytest.fixture
def fit(make_trainer: Callable[..., L.Trainer]) -> Callable[..., dict[str, float]]:
    """Train a module on ready batches; returns the metrics."""

    def run(module: L.LightningModule, batches: list[Any]) -> dict[str, float]:
        trainer = make_trainer()
        trainer.fit(module, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    return run
