from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    Lora,
    adapter_active,
    adapter_modules,
    add_lora,
    has_adapters,
    load_causal_lm,
    load_scalar_model,
)

IDS = torch.arange(24).view(2, 12) + 3


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


def learned(model: Any, adapter: str = "default") -> Any:
    """The model after its adapter has learned something."""
    torch.manual_seed(5)
    for name, weight in adapter_modules(model, adapter).named_parameters():
        if weight.ndim == 2 and not weight.any():
            assert "weight" in name
            weight.data.normal_(0.0, 0.1)
    return model


def test_a_new_adapter_changes_nothing_and_alone_trains(causal_lm: PreTrainedModel) -> None:
    before = logits(causal_lm)
    weights = {name: weight.clone() for name, weight in causal_lm.state_dict().items()}
    add_lora(causal_lm, Lora(rank=4))
    assert has_adapters(causal_lm)
    assert torch.equal(logits(causal_lm), before)
    trained = [name for name, weight in causal_lm.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_A.default" in name or "lora_B.default" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    kept = {name.replace(".base_layer", ""): weight for name, weight in causal_lm.state_dict().items()}
    assert all(torch.equal(kept[name], weight) for name, weight in weights.items())


def test_the_update_is_alpha_over_rank_times_b_a(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    for use_rslora, scale in ((False, 6.0 / 4.0), (True, 6.0 / 2.0)):  # α / r and α / √r
        model = make_causal_lm()
        add_lora(model, Lora(rank=4, alpha=6.0, target_modules=["q_proj"], use_rslora=use_rslora))
        layer: Any = learned(model).model.layers[0].self_attn.q_proj
        x = torch.randn(3, 32)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected = x @ (layer.base_layer.weight + scale * b @ a).T
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        assert len(list(adapter_modules(model, "default").parameters())) == 2 * 2  # A and B of both layers


def test_targets_are_names_all_linear_layers_or_what_peft_knows(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    def adapted(**options: Any) -> set[str]:
        model = make_causal_lm()
        add_lora(model, Lora(rank=2, **options))
        return {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_A" in name}

    assert adapted(target_modules=["v_proj", "up_proj"]) == {"v_proj", "up_proj"}
    assert adapted(target_modules=None) == {"q_proj", "v_proj"}
    assert adapted() == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_modules_to_save_train_in_full(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm()
    add_lora(model, Lora(rank=2, modules_to_save=["lm_head"]))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert "lm_head.modules_to_save.default.weight" in trained
    assert "lm_head.original_module.weight" not in trained


def test_dora_learns_magnitudes(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm()
    before = logits(model)
    add_lora(model, Lora(rank=2, use_dora=True))
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    assert any("lora_magnitude" in name for name, weight in model.named_parameters() if weight.requires_grad)


def test_without_its_adapter_a_model_is_its_base_also_after_an_exception(causal_lm: PreTrainedModel) -> None:
    base = logits(causal_lm)
    add_lora(causal_lm, Lora(rank=4))
    own = logits(learned(causal_lm))
    assert not torch.allclose(own, base, atol=1e-3)
    flags = {name: weight.requires_grad for name, weight in causal_lm.named_parameters()}
    with adapter_active(causal_lm, None):
        assert torch.equal(logits(causal_lm), base)
        assert {name: weight.requires_grad for name, weight in causal_lm.named_parameters()} == flags
    assert torch.equal(logits(causal_lm), own)
    with pytest.raises(RuntimeError, match="broken"), adapter_active(causal_lm, None):
        raise RuntimeError("broken")
    assert torch.equal(logits(causal_lm), own)
    assert {name: weight.requires_grad for name, weight in causal_lm.named_parameters()} == flags


def test_adapters_take_turns_and_keep_what_trains(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm()
    add_lora(model, Lora(rank=4))
    first = logits(learned(model))
    add_lora(model, Lora(rank=2), adapter="other")
    assert all(weight.requires_grad for weight in adapter_modules(model, "default").parameters())
    for weight in adapter_modules(model, "other").parameters():
        weight.data.normal_(0.0, 0.1)
        weight.requires_grad_(False)
    with adapter_active(model, "default"):
        assert torch.equal(logits(model), first)
        with adapter_active(model, "other"):
            second = logits(model)
            assert not any(weight.requires_grad for weight in adapter_modules(model, "other").parameters())
        assert torch.equal(logits(model), first)
    assert not torch.allclose(first, second, atol=1e-3)


def test_adapters_of_a_half_precision_model_train_in_float32(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm().to(torch.bfloat16)
    add_lora(model, Lora(rank=2))
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in model.parameters() if not weight.requires_grad} == {torch.bfloat16}
    assert torch.isfinite(logits(model)).all()


def test_a_scalar_head_trains_beside_the_adapter(causal_lm_folders: dict[str, Any], architecture: str) -> None:
    model = load_scalar_model(name=str(causal_lm_folders[architecture]), head="new", lora=Lora(rank=2))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert "model.score.weight" in trained
    assert all("lora_" in name for name in trained - {"model.score.weight"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "model.lora.rank=0 must be at least 1"),
        ({"dropout": 1.0}, "model.lora.dropout=1.0 must lie between 0 and 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Lora(**options)


def test_unknown_targets_are_told_with_names_that_there_are(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(UserError, match=r"model\.lora\.target_modules=\['nothing'\].*down_proj.*q_proj.*all-linear"):
        add_lora(make_causal_lm(), Lora(target_modules=["nothing"]))


def test_unknown_modules_to_save_are_told(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(UserError, match=r"model\.lora\.modules_to_save: LlamaForCausalLM has no module 'lm_haed'"):
        add_lora(make_causal_lm(), Lora(modules_to_save=["lm_haed"]))


def test_modules_to_save_keep_the_dtype_of_the_model(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm().to(torch.bfloat16)
    add_lora(model, Lora(rank=2, modules_to_save=["lm_head"]))
    assert torch.isfinite(logits(model)).all()


def test_a_missing_peft_is_told_with_its_extra(
    make_causal_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'rlhf-lightning\[lora\]'"):
        add_lora(make_causal_lm(), Lora())


def test_a_copy_of_a_model_with_an_adapter_is_its_own(make_causal_lm: Callable[..., PreTrainedModel]) -> None:
    model = make_causal_lm()
    add_lora(model, Lora(rank=2))
    twin = copy.deepcopy(model)
    before = logits(twin)
    learned(model)
    assert torch.equal(logits(twin), before)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["<unknown>"], r"trainable_tokens: the tokenizer of .* has no token '<unknown>'.*one of eos, bos, pad"),
        ([35], r"trainable_tokens: id 35 has no row in LlamaForCausalLM's embedding, which has 35"),
        ([-1], r"trainable_tokens: id -1 has no row"),
    ],
)
def test_tokens_that_are_not_there_are_refused(
    causal_lm_folders: dict[str, Path], tokens: list[str | int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_causal_lm(name=str(causal_lm_folders["llama"]), lora=Lora(trainable_tokens=tokens))


def test_tokens_by_name_need_a_tokenizer_and_a_layer_of_their_own(
    make_causal_lm: Callable[..., PreTrainedModel],
) -> None:
    with pytest.raises(UserError, match=r"trainable_tokens=\['eos'\]: without a tokenizer only ids are known"):
        add_lora(make_causal_lm(), Lora(trainable_tokens=["eos"]))
    with pytest.raises(UserError, match=r"lm_head is trained in full by model\.lora\.modules_to_save"):
        add_lora(make_causal_lm(), Lora(trainable_tokens=[0], modules_to_save=["lm_head"]))
    model: Any = make_causal_lm()
    model.lm_head = torch.nn.Linear(32, 35)
    with pytest.raises(UserError, match=r"trainable_tokens: the output layer of LlamaForCausalLM has a bias"):
        add_lora(model, Lora(trainable_tokens=[0]))


@pytest.mark.parametrize("layer", ["wte", "lm_head"])
def test_factors_on_one_of_two_tied_layers_are_refused(
    make_causal_lm: Callable[..., PreTrainedModel], layer: str
) -> None:
    with pytest.raises(UserError, match=r"target_modules: GPT2LMHeadModel has one weight for its embedding and"):
        add_lora(make_causal_lm("gpt2"), Lora(target_modules=[layer, "c_attn"]))


def test_the_named_tokens_are_those_of_the_tokenizer(causal_lm_folders: dict[str, Path], architecture: str) -> None:
    model: Any = load_causal_lm(
        name=str(causal_lm_folders[architecture]), lora=Lora(trainable_tokens=["eos", "pad", "a", 0])
    )
    rows = model.peft_config["default"].trainable_token_indices
    embedding = "model.embed_tokens" if architecture == "llama" else "transformer.wte"
    layers = {embedding, "lm_head"} if architecture == "llama" else {embedding}  # gpt2's output layer is tied to it
    assert rows == {layer: [0, 1, 3] for layer in layers}


def test_rows_of_tokens_are_an_embedding_to_the_optimizer(causal_lm_folders: dict[str, Path]) -> None:
    from rlhf_lightning.modules.optimization import parameter_groups

    model = load_causal_lm(name=str(causal_lm_folders["llama"]), lora=Lora(rank=2, trainable_tokens=["eos"]))
    for part in (model, adapter_modules(model, "default")):
        groups = {group["kind"]: group["params"] for group in parameter_groups({"policy": part}, {"policy": 1.0}, 0.0)}
        assert groups.keys() == {"embedding", "matrix"}
        assert [tuple(weight.shape) for weight in groups["embedding"]] == [(1, 32)] * 2
