from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    Lora,
    ScalarModel,
    export_model,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
    weights_fingerprint,
)

PLAIN_TRANSFORMERS = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
torch.set_num_threads(1)
found = {}
for kind, name, folder in json.loads(sys.argv[1]):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer("the cat", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]])
    auto = AutoModelForCausalLM if kind == "policy" else AutoModelForSequenceClassification
    model = auto.from_pretrained(folder)
    if kind != "policy":
        assert model.config.num_labels == 1
    with torch.no_grad():
        found[f"{kind}/{name}"] = model.eval()(ids).logits.flatten().tolist()
assert "rlhf_lightning" not in sys.modules
print(json.dumps(found))
"""


def test_plain_transformers_in_a_fresh_process_gives_the_same_logits_and_scores(
    make_causal_lm: Callable[[str], PreTrainedModel],
    make_scalar_model: Callable[[str], ScalarModel],
    encoder: Encoder,
    encoder_without_pad: Encoder,
    tmp_path: Path,
) -> None:
    jobs, expected = [], {}
    ids = torch.tensor([encoder.response("the cat")])
    for name in ("llama", "gpt2"):
        policy, scalar = make_causal_lm(name), make_scalar_model(name)
        with torch.no_grad():
            expected[f"policy/{name}"] = policy(ids).logits.flatten()
            score = scalar.score(ids, torch.tensor([ids.shape[1]]))
        expected[f"reward/{name}"] = expected[f"pad_is_eos/{name}"] = score
        for kind, model, whose in (
            ("policy", policy, encoder),
            ("reward", scalar, encoder),
            ("pad_is_eos", scalar, encoder_without_pad),
        ):
            jobs.append((kind, name, str(save_model_folder(model, whose, tmp_path / kind / name))))
    run = subprocess.run(
        [sys.executable, "-c", PLAIN_TRANSFORMERS, json.dumps(jobs)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.keys() == expected.keys()
    for key, logits in expected.items():
        torch.testing.assert_close(torch.tensor(found[key]), logits, rtol=1e-5, atol=1e-5)


def test_batches_of_transformers_score_like_ours(
    make_scalar_model: Callable[[str], ScalarModel], architecture: str, encoder: Encoder, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    scalar = make_scalar_model(architecture)
    plain = AutoModelForSequenceClassification.from_pretrained(save_model_folder(scalar, encoder, tmp_path / "rm"))
    ids = torch.tensor([[5, 6, 0, 1, 1], [7, 8, 9, 10, 0]])
    with torch.no_grad():
        theirs = plain.eval()(ids, attention_mask=(ids != 1).long()).logits.squeeze(-1)
        torch.testing.assert_close(theirs, scalar.score(ids, torch.tensor([3, 5])), rtol=1e-5, atol=1e-5)


def test_the_tokenizer_and_its_template_stand_beside_the_model(
    make_causal_lm: Callable[..., PreTrainedModel], encoder: Encoder, tmp_path: Path
) -> None:
    encoder = Encoder(AutoTokenizer.from_pretrained(_saved(encoder, tmp_path / "tokenizer")))
    template = (
        "{% for m in messages %}user. {{ m['content'] }}{% endfor %}{% if add_generation_prompt %}user. {% endif %}"
    )
    encoder.tokenizer.chat_template = template
    loaded = AutoTokenizer.from_pretrained(save_model_folder(make_causal_lm(), encoder, tmp_path / "model"))
    assert Encoder(loaded).fingerprint() == encoder.fingerprint()
    assert Encoder(loaded).prompt("hi") == encoder.tokenizer("user. hiuser. ", add_special_tokens=False)["input_ids"]


def _saved(encoder: Encoder, folder: Path) -> Path:
    encoder.save(folder)
    return folder


def test_plain_generation_stops_where_responses_end(
    make_causal_lm: Callable[..., PreTrainedModel], encoder: Encoder, encoder_without_pad: Encoder, tmp_path: Path
) -> None:
    model = make_causal_lm()
    model.config.eos_token_id = model.generation_config.eos_token_id = 7
    model = load_causal_lm(name=str(save_model_folder(model, encoder, tmp_path / "one")))
    assert model.config.eos_token_id == model.generation_config.eos_token_id == 0
    assert model.config.pad_token_id == 1
    model.config.eos_token_id = model.generation_config.eos_token_id = [0, 7]
    model = load_causal_lm(name=str(save_model_folder(model, encoder_without_pad, tmp_path / "two")))
    assert model.config.eos_token_id == [0, 7]
    assert model.config.pad_token_id is None


def test_the_embedding_of_an_eos_that_is_padding_goes_on_learning(
    make_causal_lm: Callable[..., PreTrainedModel], encoder_without_pad: Encoder, tmp_path: Path
) -> None:
    model = load_causal_lm(name=str(save_model_folder(make_causal_lm(), encoder_without_pad, tmp_path / "model")))
    model(torch.tensor([[5, 0, 6]])).logits.sum().backward()
    assert model.get_input_embeddings().weight.grad[0].abs().sum() > 0


def test_a_folder_is_replaced_as_a_whole(
    make_causal_lm: Callable[..., PreTrainedModel], encoder: Encoder, tmp_path: Path
) -> None:
    folder, model = tmp_path / "runs" / "model", make_causal_lm()
    save_model_folder(model, encoder, folder)
    (folder / "stale.bin").write_text("of an earlier model")
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    assert save_model_folder(model, encoder, str(folder)) == folder
    assert load_causal_lm(name=str(folder)).get_input_embeddings().weight.abs().sum() == 0
    assert not (folder / "stale.bin").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_save_that_fails_leaves_what_was_there(
    make_causal_lm: Callable[..., PreTrainedModel],
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exists: bool,
) -> None:
    folder, model = tmp_path / "model", make_causal_lm()
    if exists:
        save_model_folder(model, encoder, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if exists else None

    def fail(self: Encoder, folder: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Encoder, "save", fail)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    with pytest.raises(OSError, match="no space left"):
        save_model_folder(model, encoder, folder)
    assert ({path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None) == before
    monkeypatch.undo()
    save_model_folder(model, encoder, folder)  # what the failure left behind is in nobody's way
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("broken", [False, True])
def test_weights_are_read_back_bit_for_bit(
    make_causal_lm: Callable[..., PreTrainedModel],
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: bool,
) -> None:
    model, folder = make_causal_lm(), tmp_path / "model"
    save_model_folder(model, encoder, folder)
    before = (folder / "model.safetensors").read_bytes()
    model.model.norm.weight.data[3] = float("nan")  # which is what it is, though it does not equal itself

    def save(self: PreTrainedModel, place: Path, **options: object) -> None:
        kept = self.model.norm.weight.data.clone()
        if broken:
            self.model.norm.weight.data[7] += 1e-7
        PreTrainedModel.save_pretrained(self, place, **options)
        self.model.norm.weight.data = kept

    monkeypatch.setattr(type(model), "save_pretrained", save)
    if not broken:
        found = export_model(model, encoder, folder, max_shard_size="20KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
        expected = f"{len(model.state_dict())} weights were read back from the files and are the model's bit for bit."
        assert (found.folder, found.comparison, found.difference) == (folder, expected, None)
        return
    with pytest.raises(UserError, match=r"model.norm.weight was read back as something else than was written"):
        export_model(model, encoder, folder)
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_reward_model_folder_serves_as_value_model(
    make_scalar_model: Callable[[str], ScalarModel], architecture: str, encoder: Encoder, tmp_path: Path
) -> None:
    scalar = make_scalar_model(architecture)
    loaded = load_scalar_model(name=str(save_model_folder(scalar, encoder, tmp_path / "rm")))
    ids = torch.randint(3, 30, (2, 6))
    torch.testing.assert_close(loaded(ids), scalar(ids), rtol=0, atol=0)


def test_fingerprints_tell_models_apart(make_causal_lm: Callable[[str], PreTrainedModel]) -> None:
    one, same, other = make_causal_lm("llama"), make_causal_lm("llama"), make_causal_lm("gpt2")
    assert weights_fingerprint(one) == weights_fingerprint(same) != weights_fingerprint(other)
    with torch.no_grad():
        same.model.norm.weight[3] += 1e-3
    assert weights_fingerprint(one) != weights_fingerprint(same)


@pytest.mark.parametrize("scalar", [False, True])
def test_an_adapter_is_merged_and_compared_in_a_short_context(encoder: Encoder, tmp_path: Path, scalar: bool) -> None:
    config = GPT2Config(vocab_size=35, n_embd=16, n_layer=1, n_head=2, n_positions=12, eos_token_id=0, pad_token_id=1)
    base = str(save_model_folder(GPT2LMHeadModel(config), encoder, tmp_path / "base"))
    load: Any = functools.partial(load_scalar_model, head="new") if scalar else load_causal_lm
    found = export_model(load(name=base, lora=Lora(rank=2)), encoder, tmp_path / "model")
    assert found.difference is not None and found.difference < 1e-4
    assert "on 24 tokens" in found.comparison
