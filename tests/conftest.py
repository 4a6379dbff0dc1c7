"""Tiny models and a tokenizer that the whole suite shares: small enough to train in milliseconds."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys

# Before transformers and datasets are imported: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Before torch is: what a test starts as a process of its own computes on one thread too, as the tests do.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlhf_lightning.data import Encoder
from rlhf_lightning.functional import processor
from rlhf_lightning.models import ScalarModel, choose_cpu_matmul, load_scalar_model, save_model_folder

ALPHABET = "abcdefghijklmnopqrstuvwxyz.,?!ĠĊ"  # Ġ and Ċ are byte-level BPE's space and newline
SPECIAL = {"eos_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny matrices are slower on several threads, and results must not depend on how many there are."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _absl_leaves_streams_open() -> None:
    """absl, which rouge_score imports, keeps the standard error that it was imported under, and when Hydra sets up
    logging closes it unless it is still the standard error: within a test that would be pytest's own file."""
    with contextlib.suppress(ImportError):
        from absl import logging

        logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _products_of_torch() -> None:
    """A run that a test before this one has made may have chosen oneDNN, for the whole process."""
    choose_cpu_matmul("torch")


@pytest.fixture
def in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done in bfloat16 where a processor multiplies it, on any."""
    monkeypatch.setitem(processor._answers, "bf16", True)


@pytest.fixture
def own_precision() -> Iterator[None]:
    """Of float32 products; behind the test it is what it was."""
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., L.Trainer]:
    """A silent trainer on the CPU for one epoch, without checkpoints; options replace these settings."""

    def make(**options: Any) -> L.Trainer:
        settings: dict[str, Any] = {
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        return L.Trainer(**settings | options)

    return make


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate([*SPECIAL.values(), *ALPHABET])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """One token for each lower-case letter, space and ``.,?!``; ``</s>`` is 0, ``<pad>`` is 1."""
    return Encoder(_tokenizer())


@pytest.fixture(scope="session")
def encoder_without_pad() -> Encoder:
    """The same, but padding is EOS, as in GPT-2 and SmolLM2."""
    tokenizer = _tokenizer()
    tokenizer.pad_token = None
    return Encoder(tokenizer)


def _make(architecture: str) -> PreTrainedModel:
    vocab_size = len(SPECIAL) + len(ALPHABET)
    torch.manual_seed(1)
    # A standard deviation of 0.3 instead of 0.02, so that logits differ and mistakes show.
    if architecture == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                initializer_range=0.3,
                eos_token_id=0,
                pad_token_id=1,
                bos_token_id=2,
            )
        ).eval()
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            initializer_range=0.3,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            eos_token_id=0,
            pad_token_id=1,
            bos_token_id=2,
        )
    ).eval()


@pytest.fixture(scope="session")
def _causal_lms() -> dict[str, PreTrainedModel]:
    return {name: _make(name) for name in ("llama", "gpt2")}


@pytest.fixture(params=["llama", "gpt2"])
def architecture(request: pytest.FixtureRequest) -> str:
    """Rotary and learned positions, one after the other."""
    return str(request.param)


@pytest.fixture
def make_causal_lm(_causal_lms: dict[str, PreTrainedModel]) -> Callable[[str], PreTrainedModel]:
    """The tiny model of an architecture, a fresh copy with the same weights at every call."""
    return lambda name="llama": copy.deepcopy(_causal_lms[name])


@pytest.fixture
def causal_lm(architecture: str, make_causal_lm: Callable[[str], PreTrainedModel]) -> PreTrainedModel:
    return make_causal_lm(architecture)


@pytest.fixture(scope="session")
def causal_lm_folders(
    _causal_lms: dict[str, PreTrainedModel], encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders of the tiny causal language models, ``llama`` and ``gpt2``, with the tokenizer; do not write there."""
    root = tmp_path_factory.mktemp("causal_lm")
    return {name: save_model_folder(copy.deepcopy(model), encoder, root / name) for name, model in _causal_lms.items()}


@pytest.fixture(scope="session")
def _scalar_models(
    causal_lm_folders: dict[str, Path], as_trained: Callable[[ScalarModel], ScalarModel]
) -> dict[str, ScalarModel]:
    return {name: as_trained(load_scalar_model(name=str(path), head="new")) for name, path in causal_lm_folders.items()}


@pytest.fixture
def make_scalar_model(_scalar_models: dict[str, ScalarModel]) -> Callable[[str], ScalarModel]:
    """A reward or value model on the tiny backbone, a fresh copy with the same weights at every call."""
    return lambda name="llama": copy.deepcopy(_scalar_models[name])


@pytest.fixture(scope="session")
def write_rows() -> Callable[[Path, dict[str, list[dict[str, Any]]]], dict[str, str]]:
    """Write named lists of rows into a folder as JSON lines; the files by name."""

    def write(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
        paths = {}
        for name, content in rows.items():
            path = folder / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
            paths[name] = str(path)
        return paths

    return write


@pytest.fixture(scope="session")
def as_trained() -> Callable[[ScalarModel], ScalarModel]:
    """A model with a new head as if it had learned something: a folder with one that is as it was drawn is refused."""

    def nudge(model: ScalarModel) -> ScalarModel:
        model.head.weight.data.mul_(1.001)
        return model

    return nudge


@pytest.fixture(scope="session")
def reward_model_folders(
    _scalar_models: dict[str, ScalarModel], encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders of the reward models, ``llama`` and ``gpt2``; do not write there."""
    root = tmp_path_factory.mktemp("reward_model")
    return {
        name: save_model_folder(copy.deepcopy(model), encoder, root / name) for name, model in _scalar_models.items()
    }


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a script that must fail as a user's mistake does; returns its one line."""

    def run(main: Callable[[], None], *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 1
        errors = capsys.readouterr().err
        assert "Traceback" not in errors
        (line,) = [line for line in errors.splitlines() if ": error: " in line]
        return line

    return run


@pytest.fixture
def example_folder(tmp_path: Path, causal_lm_folders: dict[str, Path]) -> Path:
    """A tiny model and the small files that README and guide speak of."""
    (tmp_path / "base").symlink_to(causal_lm_folders["llama"])
    rows = {
        "demonstrations": [{"prompt": f"say {word}", "response": word} for word in ("a", "bee", "cat", "dog")] * 2,
        "comparisons": [{"prompt": "say a", "responses": ["a", "b", "c"], "ranks": [1, 2, 2]}] * 4,
        "prompts": [{"prompt": f"say {word}"} for word in ("a", "bee", "cat", "dog")] * 2,
        "corpus": [{"text": "a bee is not a cat. a dog is not a bee."}] * 20,
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return tmp_path
