from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import RewardModelScorer, load_causal_lm, load_scalar_model, save_model_folder


def _refused(match: str, load: object = load_causal_lm, **arguments: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load(**arguments)  # type: ignore[operator]  # either loader
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.fixture
def folder(causal_lm_folders: dict[str, Path], architecture: str, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(causal_lm_folders[architecture], tmp_path / "model"))


def test_dropout_is_set_everywhere_or_left_alone(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    rates = [key for key in config if key.endswith(("dropout", "pdrop"))]
    assert rates
    (folder / "config.json").write_text(json.dumps(config | dict.fromkeys(rates, 0.25)))
    assert {load_causal_lm(name=str(folder)).config.to_dict()[key] for key in rates} == {0.0}
    assert {load_causal_lm(name=str(folder), dropout=None).config.to_dict()[key] for key in rates} == {0.25}
    assert {load_scalar_model(name=str(folder), head="new", dropout=0.1).model.config.to_dict()[k] for k in rates} == {
        0.1
    }


def test_residual_dropout_is_that_of_the_residual_branches_alone(causal_lm_folders: dict[str, Path]) -> None:
    model = load_causal_lm(name=str(causal_lm_folders["gpt2"]), residual_dropout=0.2)
    config = model.config
    assert (config.resid_pdrop, config.attn_pdrop, config.embd_pdrop) == (0.2, 0.0, 0.0)
    block = model.transformer.h[0]
    assert (block.attn.resid_dropout.p, block.mlp.dropout.p, block.attn.attn_dropout.p) == (0.2, 0.2, 0.0)
    llama = str(causal_lm_folders["llama"])
    _refused(r"model.residual_dropout=0.2: .*llama.* model.residual_dropout=null", name=llama, residual_dropout=0.2)
    assert load_causal_lm(name=llama, residual_dropout=0.0).config.attention_dropout == 0.0


def test_random_weights_need_no_weights_on_disk_and_come_from_the_seed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    first = load_causal_lm(name=str(folder), init="random").get_input_embeddings().weight
    torch.manual_seed(0)
    again = load_causal_lm(name=str(folder), init="random").get_input_embeddings().weight
    assert torch.equal(first, again)
    assert first.std() > 0.1


def test_dtype(folder: Path) -> None:
    assert load_causal_lm(name=str(folder), dtype="bfloat16").dtype == torch.bfloat16
    assert load_scalar_model(name=str(folder), head="new", dtype="bfloat16").head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float33", "nn", "int8 "])
def test_an_unknown_dtype(folder: Path, dtype: str) -> None:
    _refused(f"model.dtype='{dtype}'", name=str(folder), dtype=dtype)


def test_an_unknown_init_or_head(folder: Path) -> None:
    _refused("model.init='zeros'", name=str(folder), init="zeros")
    _refused("head='old'", load_scalar_model, name=str(folder), head="old")


@pytest.mark.parametrize("load", [load_causal_lm, load_scalar_model])
def test_wrong_paths(folder: Path, load: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in (str(folder / "elsewhere"), "./runs/sft", "../sft", "~/sft", "runs/today/sft"):
        _refused(f"model.name={name}: no such folder; give a local", load, name=name)
    _refused("model.name=no/such-model could not be loaded .*; give a local model folder", load, name="no/such-model")
    empty = folder / "empty"
    empty.mkdir()
    _refused("holds no config.json", load, name=str(empty))


@pytest.mark.parametrize("load", [load_causal_lm, load_scalar_model])
def test_no_weights(folder: Path, load: object) -> None:
    (folder / "model.safetensors").unlink()
    _refused("could not be loaded", load, name=str(folder))


def test_half_a_weights_file(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    _refused("could not be loaded", name=str(folder))


def test_a_weight_that_is_missing(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if "norm" in key or "ln_1" in key)
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _refused("1 weights are missing", name=str(folder))
    _refused("1 weights are missing", load_scalar_model, name=str(folder), head="new")


def test_weights_of_another_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    width = "hidden_size" if "hidden_size" in config else "n_embd"
    (folder / "config.json").write_text(json.dumps(config | {width: 64, "head_dim": 16}))
    _refused("could not be loaded", name=str(folder))
    other = {"llama": "gpt2", "gpt2": "llama"}[config["model_type"]]
    (folder / "config.json").write_text(json.dumps({"model_type": other, "vocab_size": 35, "hidden_size": 32}))
    _refused("weights are missing|could not be loaded", name=str(folder))


def test_a_head_that_is_not_there(folder: Path) -> None:
    _refused("holds no score head, so it is no reward model: give the folder", load_scalar_model, name=str(folder))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("none", "the score head is as it was drawn and was never trained"),
        ("dtype", "the score head is as it was drawn and was never trained"),
        ("zero", "the score head is all zeros, so that everything scores 0"),
        ("nan", "the score head holds what is no finite number"),
        ("missing", "holds no score head"),
    ],
)
def test_a_head_that_nobody_trained(folder: Path, encoder: Encoder, tmp_path: Path, change: str, fault: str) -> None:
    model = load_scalar_model(name=str(folder), head="new")
    with torch.no_grad():
        if change == "zero":
            model.head.weight.zero_()
        elif change == "nan":
            model.head.weight[0, 3] = float("nan")
    reward = save_model_folder(model, encoder, tmp_path / "reward")
    if change == "missing":
        weights = load_file(reward / "model.safetensors")
        save_file({name: w for name, w in weights.items() if name != "score.weight"}, reward / "model.safetensors")
    options: dict[str, Any] = {"name": str(reward)} | ({"dtype": "bfloat16"} if change == "dtype" else {})
    _refused(f"{fault}.*rlhf-train stage=reward.*head=new", load_scalar_model, **options)
    _refused(fault, RewardModelScorer, **options)  # which is made before a run begins
    assert load_scalar_model(**options, head="new").head.weight.any()


def test_a_head_that_moved_at_all_was_trained(folder: Path, encoder: Encoder, tmp_path: Path) -> None:
    model = load_scalar_model(name=str(folder), head="new")
    model.head.weight.data[0, 0] += 1e-7
    load_scalar_model(name=str(save_model_folder(model, encoder, tmp_path / "reward")))


def test_a_head_with_two_outputs(folder: Path, tmp_path: Path) -> None:
    two = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    two.save_pretrained(tmp_path / "two")
    _refused("could not be loaded", load_scalar_model, name=str(tmp_path / "two"))


def test_a_new_head_comes_from_its_seed_and_leaves_global_randomness_alone(folder: Path) -> None:
    heads = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        heads.append(load_scalar_model(name=str(folder), head="new", seed=seed).head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_saved_head_comes_back(reward_model_folders: dict[str, Path], architecture: str, make_scalar_model) -> None:
    loaded = load_scalar_model(name=str(reward_model_folders[architecture]))
    assert torch.equal(loaded.head.weight, make_scalar_model(architecture).head.weight)


def test_a_reward_model_is_no_policy(reward_model_folders: dict[str, Path], architecture: str) -> None:
    _refused("is a reward model, not a language model", name=str(reward_model_folders[architecture]))


def test_a_scalar_model_with_random_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    scalar = load_scalar_model(name=str(folder), init="random", head="new")
    assert scalar.model.get_input_embeddings().weight.std() > 0.1
    _refused("init=random .* head=pretrained", load_scalar_model, name=str(folder), init="random")
    _refused("model.init='zeros'", load_scalar_model, name=str(folder), init="zeros", head="new")


def test_the_way_attention_is_computed(folder: Path) -> None:
    for load, options in ((load_causal_lm, {}), (load_scalar_model, {"head": "new"})):
        model = load(name=str(folder), attn_implementation="eager", **options)
        assert getattr(model, "model", model).config._attn_implementation == "eager"
        for absent in ("flash9", "flash_attention_2"):  # the second is not installed where there is no GPU
            _refused("set model.attn_implementation", load, name=str(folder), attn_implementation=absent, **options)


def test_an_attention_that_the_architecture_lacks(model_folder: Callable[..., Path]) -> None:
    """Gemma 2 caps its attention scores, which sdpa cannot."""
    for init in ("pretrained", "random"):
        _refused(
            "set model.attn_implementation to one that this architecture and machine have: eager",
            name=str(model_folder("gemma2")),
            attn_implementation="sdpa",
            init=init,
        )


def test_padding_that_is_eos_learns_from_the_start(model_folder: Callable[..., Path]) -> None:
    """transformers keeps the embedding of a padding token as it is, also where it ends every response."""
    folder = str(model_folder("llama", pad="eos"))
    assert json.loads((Path(folder) / "config.json").read_text())["pad_token_id"] == 0
    ids = torch.tensor([[5, 6, 0]])
    for model in (load_causal_lm(name=folder), load_scalar_model(name=folder, head="new")):
        model(ids).logits.sum().backward() if hasattr(model, "lm_head") else model(ids).sum().backward()
        embedding = getattr(model, "model", model) if not hasattr(model, "lm_head") else model
        assert embedding.get_input_embeddings().weight.grad[0].abs().sum() > 0


def test_a_folder_has_no_revisions(folder: Path) -> None:
    assert load_causal_lm(name=str(folder), revision="v2").config.vocab_size == 35
    assert Encoder.from_pretrained(folder, revision="v2", trust_remote_code=False).eos_token_id == 0


def test_code_in_a_model_folder_runs_only_if_it_is_trusted(folder: Path) -> None:
    """A folder whose config.json names a class of its own."""
    config = json.loads((folder / "config.json").read_text())
    code = "from transformers import LlamaConfig\n\n\nclass MineConfig(LlamaConfig):\n    model_type = 'mine'\n"
    (folder / "mine.py").write_text(code)
    named = config | {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MineConfig"}}
    (folder / "config.json").write_text(json.dumps(named))
    for load in (load_causal_lm, load_scalar_model):
        _refused("model.trust_remote_code=true", load, name=str(folder))
