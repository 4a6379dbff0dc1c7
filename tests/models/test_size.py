"""Counts on the meta device against the tensors of real models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from rlhf_lightning.models import (
    Lora,
    Quantization,
    adamw8bit,
    adapter_size,
    load_causal_lm,
    load_scalar_model,
    measure,
    model_size,
    size_of_factory,
)
from rlhf_lightning.planning import activation_bytes, optimizer_bytes

LORA = Lora(rank=4)


def saved_bytes(model: Any, rows: int, tokens: int) -> int:
    """Bytes of distinct storages that a real forward pass saves, weights left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}
    keep: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        keep.append(tensor)
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.arange(rows * tokens).view(rows, tokens) % 30
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.base_model(input_ids=ids, use_cache=False)
    assert output is not None
    return sum(size for place, size in found.items() if place not in own)


@pytest.mark.parametrize("lora", [None, LORA, Lora(rank=4, trainable_tokens=["eos", 5])])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_those_of_the_loaded_model(
    causal_lm_folders: dict[str, Path], architecture: str, lora: Lora | None, dtype: str
) -> None:
    name = str(causal_lm_folders[architecture])
    size, model = model_size(name=name, lora=lora, dtype=dtype), load_causal_lm(name=name, lora=lora, dtype=dtype)
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    assert size.parameters == sum(p.numel() for p in parameters)
    assert size.weight_bytes == sum(p.nbytes for p in parameters)
    assert size.trained == sum(p.numel() for p in trained)
    assert size.trained_bytes == sum(p.nbytes for p in trained)
    assert size.largest_bytes == max(p.nbytes for p in trained)
    assert size.number_bytes == (4 if dtype == "float32" else 2)


def test_a_scalar_model_has_its_head(causal_lm_folders: dict[str, Path], architecture: str) -> None:
    name = str(causal_lm_folders[architecture])
    model = load_scalar_model(name=name, head="new")
    assert model_size(name=name, scalar=True).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("lora", [None, LORA])
def test_activations_are_what_a_real_pass_keeps(
    causal_lm_folders: dict[str, Path], architecture: str, lora: Lora | None
) -> None:
    name = str(causal_lm_folders[architecture])
    model = load_causal_lm(name=name, lora=lora).train()
    size, real = model_size(name=name, lora=lora), saved_bytes(model, 3, 40)
    # On the meta device attention keeps scaled copies of queries and keys; on a CPU one number a head and token.
    copies = 2 * size.width * size.layers * 3 * 40 * 4
    assert real <= activation_bytes(size, 3, 40) <= real + copies


def test_eager_attention_writes_its_scores_out(causal_lm_folders: dict[str, Path], architecture: str) -> None:
    name = str(causal_lm_folders[architecture])
    model = load_causal_lm(name=name, attn_implementation="eager").train()
    size = model_size(name=name, attn_implementation="eager")
    assert size.score_bytes > 0
    assert activation_bytes(size, 2, 60) == pytest.approx(saved_bytes(model, 2, 60), rel=0.05)


def test_the_cache_is_as_wide_as_a_real_one(causal_lm_folders: dict[str, Path], architecture: str) -> None:
    model = load_causal_lm(name=str(causal_lm_folders[architecture]))
    cache: Any = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.zeros(3, 5, dtype=torch.long), past_key_values=cache, use_cache=True)
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    size = model_size(name=str(causal_lm_folders[architecture]))
    assert size.cache_width * size.layers * 3 * 5 == numbers


def test_adamw_keeps_what_is_estimated(causal_lm_folders: dict[str, Path]) -> None:
    model = load_causal_lm(name=str(causal_lm_folders["llama"]))
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    moments = sum(v.nbytes for state in optimizer.state.values() for k, v in state.items() if k != "step")
    assert optimizer_bytes(measure(model), "adamw") == moments


def test_adamw8bit_keeps_what_is_estimated() -> None:
    pytest.importorskip("bitsandbytes")
    weight = torch.nn.Parameter(torch.ones(64, 256))
    optimizer = adamw8bit([{"params": [weight], "lr": 0.1}])
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state[weight]
    kept = sum(state[name].nbytes for name in ("state1", "state2", "absmax1", "absmax2"))
    assert kept == 2 * weight.numel() * (1 + 4 / 256)


@pytest.mark.parametrize(
    ("kind", "double"), [("int8", False), ("nf4", False), ("nf4", True)], ids=["int8", "nf4", "nf4 double"]
)
def test_quantised_weights_are_as_small_as_real_ones(
    causal_lm_folders: dict[str, Path], architecture: str, kind: Any, double: bool
) -> None:
    pytest.importorskip("bitsandbytes")
    name, how = str(causal_lm_folders[architecture]), Quantization(kind=kind, double=double)
    size, model = model_size(name=name, quantization=how), load_causal_lm(name=name, quantization=how)
    real = float(sum(parameter.nbytes for parameter in model.parameters()))
    scales = 0.0
    for module in model.modules():
        layer: Any = module
        if type(module).__name__ == "Linear8bitLt":
            scales += layer.state.SCB.nbytes  # there once it has read something, which loading lets it do
        elif type(module).__name__ == "Linear4bit":
            state = layer.weight.quant_state
            scales += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
    assert scales > 0
    # Blocks that are not full and tables of code values count for little in a large model, and for more in this one.
    assert size.weight_bytes == pytest.approx(real + scales, rel=0.02)
    adapted = model_size(name=name, quantization=how, lora=LORA)
    assert adapted.weight_bytes == size.weight_bytes + adapted.trained_bytes


def test_only_the_packages_own_loaders_are_known_without_calling_them(causal_lm_folders: dict[str, Path]) -> None:
    name = str(causal_lm_folders["llama"])
    known = size_of_factory(functools.partial(load_causal_lm, name=name, init="random"))
    assert known == model_size(name=name)
    head = size_of_factory(functools.partial(load_scalar_model, name=name, head="new", seed=3))
    assert head == model_size(name=name, scalar=True)
    assert size_of_factory(lambda: load_causal_lm(name=name)) is None
    assert size_of_factory(None) is None


def test_a_role_on_a_base_adds_its_adapter_alone(causal_lm_folders: dict[str, Path]) -> None:
    size = model_size(name=str(causal_lm_folders["llama"]), lora=LORA)
    assert adapter_size(size).weight_bytes == size.trained_bytes < size.weight_bytes


def test_measuring_leaves_modes_and_weights_alone(make_causal_lm: Callable[[str], PreTrainedModel]) -> None:
    model = make_causal_lm("gpt2").eval()
    size = measure(model)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert size.trained == sum(p.numel() for p in model.parameters())


def test_what_is_in_blocks_and_what_is_not(make_causal_lm: Callable[[str], PreTrainedModel]) -> None:
    """GPT-2 of width 32: two norms, attention (32·96 + 96, 32·32 + 32), feed-forward (32·128 + 128, 128·32 + 32); and
    35 tokens, 64 positions and a norm outside."""
    size = measure(make_causal_lm("gpt2"))
    block = 2 * 64 + 32 * 96 + 96 + 32 * 32 + 32 + 32 * 128 + 128 + 128 * 32 + 32
    assert size.block_bytes == 4 * block
    assert size.rest_bytes == 4 * (35 * 32 + 64 * 32 + 2 * 32)
    assert size.weight_bytes == 2 * size.block_bytes + size.rest_bytes
