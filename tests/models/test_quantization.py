from __future__ import annotations

import importlib.util
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import Lora, Quantization, is_quantized, load_causal_lm, load_scalar_model, trainable

IDS = torch.arange(24).view(2, 12) + 3


@pytest.mark.parametrize(("kind", "dtype", "allowed"), [("int8", torch.int8, 0.02), ("nf4", torch.uint8, 0.2)])
def test_hidden_weights_are_stored_in_fewer_bits(
    causal_lm_folders: dict[str, Path], kind: Any, dtype: torch.dtype, allowed: float
) -> None:
    name = str(causal_lm_folders["llama"])
    model: Any = load_causal_lm(name=name, quantization=Quantization(kind=kind))
    assert is_quantized(model)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == dtype
    assert model.lm_head.weight.dtype == torch.float32
    plain: Any = load_causal_lm(name=name)
    states = torch.randn(5, 32)
    with torch.no_grad():
        expected, found = (one.model.layers[0].mlp.up_proj(states) for one in (plain, model))
    assert 0 < (found - expected).norm() / expected.norm() < allowed


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_reading_and_training_see_the_same_probabilities(causal_lm_folders: dict[str, Path], kind: Any) -> None:
    model = load_causal_lm(
        name=str(causal_lm_folders["llama"]), lora=Lora(rank=2), quantization=Quantization(kind=kind)
    )
    with torch.no_grad():
        reading = model.eval()(IDS).logits
    training = model.train()(IDS).logits
    torch.testing.assert_close(training, reading, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(IDS).logits, reading, rtol=1e-5, atol=1e-5)


def test_a_scalar_head_is_never_quantised(causal_lm_folders: dict[str, Path]) -> None:
    model = load_scalar_model(
        name=str(causal_lm_folders["llama"]), head="new", quantization=Quantization(kind="int8"), lora=Lora(rank=2)
    )
    assert model.head.weight.dtype == torch.float32


def test_modules_can_be_left_as_they_are(causal_lm_folders: dict[str, Path]) -> None:
    model: Any = load_causal_lm(
        name=str(causal_lm_folders["llama"]), quantization=Quantization(kind="int8", skip_modules=["up_proj"])
    )
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.float32
    assert model.model.layers[0].mlp.down_proj.weight.dtype == torch.int8


def test_a_quantised_model_trains_an_adapter_only(causal_lm_folders: dict[str, Path]) -> None:
    model = load_causal_lm(name=str(causal_lm_folders["llama"]), quantization=Quantization(kind="nf4"))
    with pytest.raises(UserError, match=r"the policy is quantised.*model/lora=default.*model/quantization=none"):
        trainable(model, role="policy")


def test_what_cannot_work_is_refused(causal_lm_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(causal_lm_folders["llama"])
    with pytest.raises(UserError, match=r"model\.quantization\.kind='int4' is neither 'int8' nor 'nf4'"):
        Quantization(kind="int4")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(UserError, match="compute_dtype='halff' is no torch dtype"):
        load_causal_lm(name=name, quantization=Quantization(kind="nf4", compute_dtype="halff"))
    with pytest.raises(UserError, match="model.init=random draws weights anew"):
        load_causal_lm(name=name, init="random", quantization=Quantization(kind="int8"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"pip install 'rlhf-lightning\[quantization\]'"):
        load_causal_lm(name=name, quantization=Quantization(kind="int8"))


def test_a_warning_of_every_product_is_said_once(
    causal_lm_folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    load_causal_lm(name=str(causal_lm_folders["llama"]), quantization=Quantization(kind="int8"))
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    for known in logger.filters:
        getattr(known, "seen", set()).clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            logger.warning("inputs will be cast from %s to float16", torch.float32)
    assert len(caplog.records) == 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what a process has mapped")
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_model_lets_the_full_weights_file_go(
    causal_lm_folders: dict[str, Path], tmp_path: Path, kind: Any
) -> None:
    folder = tmp_path / "model"  # a copy, which no other test has mapped
    shutil.copytree(causal_lm_folders["llama"], folder)
    model = load_causal_lm(name=str(folder), quantization=Quantization(kind=kind))
    assert str(folder) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight or not (
        model.config.tie_word_embeddings
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_unpacked_weights_go_back_to_the_system(causal_lm_folders: dict[str, Path]) -> None:
    """In a process of its own, where glibc has learned to keep blocks of 16 MiB."""
    code = f"""
import re
import torch
from rlhf_lightning.models import Quantization, load_causal_lm
resident = lambda: int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
torch.ones(4 * 2**20)
load_causal_lm(name={str(causal_lm_folders["llama"])!r}, quantization=Quantization(kind="int8"))
block = torch.ones(2**20)
held = resident()
del block
print(held - resident())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) > 3.5  # MiB, of 4
