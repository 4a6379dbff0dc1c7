"""Adapters as folders: merged for transformers, alone for peft, shared for PPO; each as a fresh process loads it."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    Lora,
    Quantization,
    SharedReward,
    adapter_active,
    add_lora,
    export_model,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
)
from rlhf_lightning.models.adapters import plain_copy
from rlhf_lightning.models.fidelity import sequences

IDS, LENGTHS = torch.arange(24).view(2, 12) + 3, torch.tensor([12, 7])
PLAIN = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
kind, folder, base = sys.argv[1:4]
ids = torch.arange(24).view(2, 12) + 3
auto = AutoModelForCausalLM if kind.startswith("causal") else AutoModelForSequenceClassification
if kind.endswith("peft"):
    from peft import PeftModel
    options = {"num_labels": 1} if kind.startswith("scalar") else {}
    model = PeftModel.from_pretrained(auto.from_pretrained(base, **options), folder)
else:
    model = auto.from_pretrained(folder)
with torch.no_grad():
    out = model.eval()(input_ids=ids[:, :7] if kind.startswith("scalar") else ids).logits
assert "rlhf_lightning" not in sys.modules
print(json.dumps(out.tolist()))
"""


def plain(kind: str, folder: Path, base: Path) -> torch.Tensor:
    """Logits or scores of the folder in a process without this package."""
    command = [sys.executable, "-c", PLAIN, kind, str(folder), str(base)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return torch.tensor(json.loads(done.stdout.splitlines()[-1]))


def shaken(model: Any) -> Any:
    torch.manual_seed(2)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data.add_(0.1 * torch.randn_like(weight))
    return model.eval()


@pytest.mark.parametrize("option", ["whole modules", "dora", "tokens", "embedding"])
def test_a_policy_is_the_same_merged_and_alone(
    causal_lm_folders: dict[str, Path], architecture: str, encoder: Encoder, tmp_path: Path, option: str
) -> None:
    base = causal_lm_folders[architecture]
    lora = {
        "whole modules": Lora(rank=4, modules_to_save=["lm_head"] if architecture == "llama" else []),
        "dora": Lora(rank=4, use_dora=True),
        "tokens": Lora(rank=4, trainable_tokens=["eos", "c", 9]),  # gpt2's output layer is tied, llama's is not
        "embedding": Lora(rank=4, target_modules=["embed_tokens", "q_proj"] if architecture == "llama" else None),
    }[option]
    model = shaken(load_causal_lm(name=str(base), lora=lora))
    with torch.no_grad():
        expected = model(IDS).logits
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    folder = save_model_folder(model, encoder, tmp_path / "policy")
    torch.testing.assert_close(plain("causal", folder, base), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain("causal peft", folder / "adapter", base), expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, expected)


def test_a_reward_model_keeps_its_head(
    causal_lm_folders: dict[str, Path], architecture: str, encoder: Encoder, tmp_path: Path
) -> None:
    base = causal_lm_folders[architecture]
    model = shaken(load_scalar_model(name=str(base), head="new", lora=Lora(rank=4)))
    with torch.no_grad():
        expected = model.score(IDS, torch.tensor([7, 7])).unsqueeze(1)
    folder = save_model_folder(model, encoder, tmp_path / "reward")
    torch.testing.assert_close(plain("scalar", folder, base), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain("scalar peft", folder / "adapter", base), expected, rtol=1e-5, atol=1e-5)


def test_every_architecture_is_merged_with_all_that_it_computes_with(
    model_folder: Callable[..., Path], kind: str, encoder: Encoder, tmp_path: Path
) -> None:
    for load in (load_causal_lm, functools.partial(load_scalar_model, head="new")):
        model: Any = shaken(load(name=str(model_folder(kind)), lora=Lora(rank=2)))
        found = export_model(model, encoder, tmp_path / "merged")
        assert found.difference is not None and found.difference < 1e-3


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_base_is_merged_unquantised(
    causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path: Path, kind: Any
) -> None:
    base = causal_lm_folders["llama"]
    model = shaken(load_causal_lm(name=str(base), lora=Lora(rank=4), quantization=Quantization(kind=kind)))
    found = load_causal_lm(name=str(save_model_folder(model, encoder, tmp_path / "policy"))).state_dict()
    original = load_causal_lm(name=str(base)).state_dict()
    layer = model.model.layers[1].mlp.up_proj
    update = layer.get_delta_weight("default")
    name = "model.layers.1.mlp.up_proj.weight"
    torch.testing.assert_close(found[name], original[name] + update, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["model.norm.weight"], original["model.norm.weight"])


@pytest.mark.parametrize("of_policy", [[], ["eos", "a"]])
@pytest.mark.parametrize("of_reward", [[], ["eos", "b"]])
def test_rows_of_tokens_follow_their_adapter(
    causal_lm_folders: dict[str, Path],
    architecture: str,
    encoder: Encoder,
    tmp_path: Path,
    of_policy: list[str | int],
    of_reward: list[str | int],
) -> None:
    name = str(causal_lm_folders[architecture])
    reward = shaken(load_scalar_model(name=name, head="new", lora=Lora(rank=4, trainable_tokens=of_reward)))
    ids = torch.tensor([encoder.response(text)[:6] for text in ("a b ab", "b. . a")])
    lengths = torch.tensor([6, 5])
    shared = SharedReward(name=str(save_model_folder(reward, encoder, tmp_path / "reward")))
    policy = shaken(load_causal_lm(name=name, lora=Lora(rank=2, trainable_tokens=of_policy)))
    with torch.no_grad():
        scores, logits = reward.score(ids, lengths), policy(ids).logits
        if of_reward and not of_policy:
            with pytest.raises(UserError, match=r"tokens of its own and the policy's trains none.*roles=separate"):
                shared.bind(policy)
            return
        value = shared.bind(policy)
        torch.testing.assert_close(shared.score_ids(ids, lengths), scores, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(value.score(ids, lengths), scores, rtol=1e-5, atol=1e-5)
        assert torch.equal(policy(ids).logits, logits)
        with adapter_active(policy, None):
            torch.testing.assert_close(policy(ids).logits, load_causal_lm(name=name)(ids).logits, rtol=0, atol=0)
        found = load_causal_lm(name=str(save_model_folder(policy, encoder, tmp_path / "policy")))(ids).logits
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantization", [None, Quantization(kind="int8"), Quantization(kind="nf4")])
def test_a_reward_adapter_gives_the_same_scores_on_the_policys_base(
    causal_lm_folders: dict[str, Path],
    architecture: str,
    encoder: Encoder,
    tmp_path: Path,
    quantization: Quantization | None,
) -> None:
    base = {"name": str(causal_lm_folders[architecture]), "quantization": quantization}
    reward = shaken(load_scalar_model(head="new", lora=Lora(rank=4), **base))
    folder = save_model_folder(reward, encoder, tmp_path / "reward")
    policy = shaken(load_causal_lm(lora=Lora(rank=2), **base))
    with torch.no_grad():
        expected, before = reward.score(IDS, LENGTHS), policy(IDS).logits
    shared = SharedReward(name=str(folder))
    value = shared.bind(policy)
    torch.testing.assert_close(shared.score_ids(IDS, LENGTHS), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(value.score(IDS, LENGTHS), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(policy(IDS).logits, before)
    trained = {name.split(".")[-2] for name, weight in policy.named_parameters() if weight.requires_grad}
    assert trained == {"default", "value"}
    assert value.head.weight.requires_grad


def test_an_adapter_of_another_base_is_refused(
    causal_lm_folders: dict[str, Path], make_causal_lm: Callable[..., PreTrainedModel], encoder: Encoder, tmp_path: Path
) -> None:
    reward = load_scalar_model(name=str(causal_lm_folders["llama"]), head="new", lora=Lora(rank=4))
    shared = SharedReward(name=str(save_model_folder(reward, encoder, tmp_path / "reward")))
    other = make_causal_lm()
    other.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1.0
    add_lora(other, Lora(rank=4))
    with pytest.raises(UserError, match=r"was trained on base \w+, the policy's is \w+.*module\.roles=separate"):
        shared.bind(other)


def test_a_half_precision_base_scores_under_a_full_precision_head(
    causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path: Path
) -> None:
    base: dict[str, Any] = {"name": str(causal_lm_folders["llama"]), "dtype": "bfloat16", "lora": Lora(rank=4)}
    folder = save_model_folder(shaken(load_scalar_model(head="new", **base)), encoder, tmp_path / "reward")
    shared = SharedReward(name=str(folder))
    value = shared.bind(load_causal_lm(**base))
    assert shared.score_ids(IDS, LENGTHS).isfinite().all()
    assert value(IDS).dtype == torch.float32


def test_whole_modules_of_the_policy_do_not_share(
    causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path: Path
) -> None:
    name = str(causal_lm_folders["llama"])
    reward = load_scalar_model(name=name, head="new", lora=Lora(rank=4))
    shared = SharedReward(name=str(save_model_folder(reward, encoder, tmp_path / "reward")))
    with pytest.raises(UserError, match=r"module\.roles=shared: model\.lora\.modules_to_save"):
        shared.bind(load_causal_lm(name=name, lora=Lora(rank=4, modules_to_save=["lm_head"])))


def test_the_merged_folder_keeps_the_generation_config(
    causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path: Path
) -> None:
    model: Any = load_causal_lm(name=str(causal_lm_folders["llama"]), lora=Lora(rank=4))
    model.generation_config.eos_token_id = [0, 5]
    folder = save_model_folder(model, encoder, tmp_path / "policy")
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [0, 5]


def test_what_merging_changed_is_measured_and_told(
    causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shaken(load_causal_lm(name=str(causal_lm_folders["llama"]), lora=Lora(rank=4)))
    good = export_model(model, encoder, tmp_path / "good")
    assert good.difference is not None and 0 < good.difference < 1e-4
    assert good.comparison.startswith(
        f"With the adapter merged, a logit differs from the trained model's by at most "
        f"{good.difference:.2g} (on 64 tokens of text, where the largest is "
    )
    assert "quantised" not in good.comparison
    alone = export_model(model, encoder, tmp_path / "alone", merge=False)
    assert (alone.comparison, alone.difference) == ("", None)

    def forgetful(trained: Any, folder: Path, *_: Any) -> Any:
        return plain_copy(trained)

    monkeypatch.setattr("rlhf_lightning.models.export.merged", forgetful)
    bad = export_model(model, encoder, tmp_path / "bad")
    with torch.no_grad():
        largest = max(
            (model(ids).logits - load_causal_lm(name=str(tmp_path / "bad"))(ids).logits).abs().max()
            for ids in sequences(encoder)
        )
    assert bad.difference == pytest.approx(float(largest), rel=1e-4)
    assert bad.difference > 0.1


def test_a_quantised_base_is_named_as_the_reason_of_the_difference(
    causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path: Path
) -> None:
    base = {"name": str(causal_lm_folders["llama"]), "quantization": Quantization(kind="int8")}
    model = shaken(load_scalar_model(head="new", lora=Lora(rank=4), **base))
    found = export_model(model, encoder, tmp_path / "reward")
    assert found.difference is not None and found.difference > 1e-4
    assert "a score differs" in found.comparison and "trained on a quantised base" in found.comparison


def test_an_adapter_without_a_trained_head_is_refused(
    causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path: Path
) -> None:
    name = str(causal_lm_folders["llama"])
    policy = save_model_folder(load_causal_lm(name=name, lora=Lora(rank=4)), encoder, tmp_path / "policy")
    with pytest.raises(UserError, match=r"policy/adapter holds no score head of 32 numbers: give a reward model's"):
        SharedReward(name=str(policy)).bind(load_causal_lm(name=name, lora=Lora(rank=4)))
    model = load_scalar_model(name=name, head="new", lora=Lora(rank=4))
    fresh = save_model_folder(model, encoder, tmp_path / "reward")
    with pytest.raises(UserError, match=r"module\.reward\.name=.*reward: the score head is as it was drawn.*stage=rew"):
        SharedReward(name=str(fresh)).bind(load_causal_lm(name=name, lora=Lora(rank=4)))
    with pytest.raises(UserError, match="reward: the score head is as it was drawn"):
        load_scalar_model(name=str(fresh))  # as the value model of separate roles reads it, merged
    quantized = load_scalar_model(name=name, head="new", lora=Lora(rank=4), quantization=Quantization(kind="int8"))
    with pytest.raises(UserError, match="reward: the score head is as it was drawn"):
        load_scalar_model(name=str(save_model_folder(quantized, encoder, tmp_path / "reward")))


def test_a_folder_without_an_adapter_is_refused(reward_model_folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"module\.reward\.name=.* holds no adapter/.*model/lora=default"):
        SharedReward(name=str(reward_model_folders["llama"]))
