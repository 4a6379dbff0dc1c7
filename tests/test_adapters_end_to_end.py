"""SFT, reward model and PPO from the command line with an adapter on a quantised base, and what rlhf-export writes."""

from __future__ import annotations

import copy
import functools
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning import export, train
from rlhf_lightning.data import Encoder
from rlhf_lightning.models import Lora, load_causal_lm, load_scalar_model, save_model_folder

IDS = torch.arange(24).view(2, 12) + 3
RESPONSES = ["yes, it is", "no. not at all", "a cat"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Run a console script in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(main: Callable[[], None], *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["script", *(str(argument) for argument in arguments)])
        main()

    return run


def write(name: str, *rows: dict[str, Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_all_stages_with_adapters_on_one_base(
    script: Callable[..., None],
    causal_lm_folders: dict[str, Path],
    quantization: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prompts = ["say hi", "name a cat", "why", "what is it?"]
    write("d.jsonl", *[{"prompt": p, "response": RESPONSES[0]} for p in prompts])
    write("c.jsonl", *[{"prompt": p, "responses": RESPONSES, "ranks": [1, 2, 3]} for p in prompts])
    write("p.jsonl", *[{"prompt": p} for p in prompts])
    lora = ["model/lora=default", f"model/quantization={quantization}", "trainer.accelerator=cpu"]
    lora += ["model.lora.trainable_tokens=[eos]"] if quantization == "none" else []
    base = f"model.name={causal_lm_folders['llama']}"
    caplog.set_level(logging.WARNING)
    rate = "module.learning_rate=1e-2"
    script(train.main, "stage=sft", base, *lora, rate, "data.train=d.jsonl", "run_dir=sft", "trainer.max_epochs=2")
    sft = "model.name=sft/model"
    script(train.main, "stage=reward", sft, *lora, rate, "data.train=c.jsonl", "run_dir=reward")
    batch = ["data.iterations=2", "data.rollout_batch_size=4", "module.minibatch_size=2", "module.max_new_tokens=4"]
    ppo = ["stage=ppo", sft, *lora, rate, *batch, "module.reward.name=reward/model", "data.train=p.jsonl"]
    script(train.main, *ppo, "run_dir=ppo", "module.roles=shared", "optimizer=adamw8bit")
    messages = [record.getMessage() for record in caplog.records]
    assert len([m for m in messages if "MatMul8bitLt" in m]) <= 1
    policy, before = load_causal_lm(name="ppo/model"), load_causal_lm(name="sft/model")
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(policy.state_dict()[name], before.state_dict()[name])
    assert torch.equal(policy.state_dict()["model.norm.weight"], before.state_dict()["model.norm.weight"])
    assert load_scalar_model(name="reward/model").score(IDS, torch.tensor([12, 12])).isfinite().all()


def test_a_checkpoint_becomes_a_model_or_an_adapter(
    script: Callable[..., None], causal_lm_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write("d.jsonl", *[{"prompt": "say hi", "response": "hi there"}] * 4)
    name = str(causal_lm_folders["llama"])
    command = ["stage=sft", f"model.name={name}", "model/lora=default", "data.train=d.jsonl", "run_dir=sft"]
    script(train.main, *command, "module.learning_rate=1e-2", "trainer.max_epochs=2")
    (checkpoint,) = sorted(Path("sft/checkpoints").glob("*.ckpt"))[-1:]
    script(export.main, f"checkpoint={checkpoint}", "out=merged")
    assert "With the adapter merged, a logit differs from the trained model's by at most" in capsys.readouterr().out
    script(export.main, f"checkpoint={checkpoint}", "out=alone", "merge=false")
    for folder, library in (("merged", "transformers"), ("merged/adapter", "peft"), ("alone", "peft")):
        card = Path(folder, "README.md").read_text().splitlines()
        wanted = {
            f"library_name: {library}",
            "| learning_rate | 0.01 |",
            "| lora.rank | 16 |",
            "| optimizer steps | 2 |",
        }
        assert wanted <= set(card)
        assert [line.split(" | ")[1:3] for line in card if line.startswith("| train |")] == [["`d.jsonl`", "4"]]
        (loss,) = [line for line in card if line.startswith("| train/loss |")]
        assert loss in Path("sft/model/README.md").read_text().splitlines()
    with torch.no_grad():
        expected = load_causal_lm(name="sft/model")(IDS).logits
        torch.testing.assert_close(load_causal_lm(name="merged")(IDS).logits, expected, rtol=1e-5, atol=1e-5)
        import peft

        alone = peft.PeftModel.from_pretrained(load_causal_lm(name=name), "alone")
        torch.testing.assert_close(alone(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
    assert not (Path("alone") / "model.safetensors").exists()
    assert (Path("alone") / "tokenizer.json").exists()


def test_a_refused_resume_leaves_the_runs_own_config(
    script: Callable[..., None], causal_lm_folders: dict[str, Path]
) -> None:
    write("d.jsonl", *[{"prompt": "say hi", "response": "hi there"}] * 4)
    command = ["stage=sft", f"model.name={causal_lm_folders['llama']}", "data.train=d.jsonl", "run_dir=sft"]
    script(train.main, *command, "model/lora=default", "trainer.max_epochs=2")
    before = Path("sft/config.yaml").read_text()
    with pytest.raises(SystemExit):
        script(train.main, *command, "trainer.max_epochs=3", "resume=auto")
    assert Path("sft/config.yaml").read_text() == before
    script(train.main, *command, "model/lora=default", "trainer.max_epochs=3", "resume=auto")
    assert "max_epochs: 3" in Path("sft/config.yaml").read_text()


CHAT = (
    "{% for m in messages %}{{ m['role'] }}. {{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %}Ċ{% endfor %}{% if add_generation_prompt %}assistant. {% endif %}"
).replace("Ċ", "\n")
PLAIN = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, adapter, asked = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder)
if adapter:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, adapter)
tokenizer = AutoTokenizer.from_pretrained(adapter or folder)
messages = [{"role": "user", "content": asked}]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)
assert "rlhf_lightning" not in sys.modules
print(json.dumps([out[0, ids.shape[1]:].tolist(), tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)]))
"""


def test_generation_in_plain_transformers_and_peft_ends_where_responses_did(
    script: Callable[..., None], make_causal_lm: Callable[..., Any], encoder: Encoder
) -> None:
    own = Encoder(copy.deepcopy(encoder.tokenizer))
    own.tokenizer.chat_template = CHAT
    save_model_folder(make_causal_lm(), own, "base")
    answers = {"say hi": "hi there.", "name a cat": "tom, my cat."}
    write("d.jsonl", *[{"messages": [said("user", ask), said("assistant", reply)]} for ask, reply in answers.items()])
    command = ["stage=sft", "model.name=base", "data.train=d.jsonl", "run_dir=sft", "trainer.max_epochs=60"]
    script(train.main, *command, "model/lora=default", "model.lora.rank=8", "module.learning_rate=2e-2")
    for folder, adapter in (("sft/model", ""), ("base", "sft/model/adapter")):
        for ask, reply in answers.items():
            done = subprocess.run(
                [sys.executable, "-c", PLAIN, folder, adapter, ask], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            ids, text = json.loads(done.stdout.splitlines()[-1])
            assert text == reply
            assert ids[-1] == own.eos_token_id and own.eos_token_id not in ids[:-1]


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize("roles", ["separate", "shared"])
@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("language model", "holds no score head"),
        ("fresh", "the score head is as it was drawn and was never trained"),
    ],
)
def test_ppo_does_not_start_on_what_is_no_trained_reward_model(
    script: Callable[..., None],
    causal_lm_folders: dict[str, Path],
    encoder: Encoder,
    capsys: pytest.CaptureFixture[str],
    roles: str,
    reward: str,
    message: str,
) -> None:
    name = str(causal_lm_folders["llama"])
    load: Any = load_causal_lm if reward == "language model" else functools.partial(load_scalar_model, head="new")
    save_model_folder(load(name=name, lora=Lora(rank=2)), encoder, "reward")
    write("p.jsonl", {"prompt": "say hi"}, {"prompt": "why"})
    command = [
        "stage=ppo",
        f"model.name={name}",
        "module.reward.name=reward",
        "data.train=p.jsonl",
        "data.iterations=1",
    ]
    with pytest.raises(SystemExit):
        script(train.main, *command, "data.iterations=1", f"module.roles={roles}", "model/lora=default", "run_dir=ppo")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert message in line and ("stage=reward" in line or "give a reward model's adapter" in line)
    assert not list(Path("ppo").glob("checkpoints/*"))


def test_a_policy_is_exported_after_its_reward_model_was_trained_anew(
    script: Callable[..., None], causal_lm_folders: dict[str, Path], encoder: Encoder, as_trained: Callable[..., Any]
) -> None:
    name = str(causal_lm_folders["llama"])
    reward = as_trained(load_scalar_model(name=name, head="new"))
    save_model_folder(reward, encoder, "reward")
    write("p.jsonl", {"prompt": "say hi"}, {"prompt": "why"})
    ppo = ["data.rollout_batch_size=2", "module.minibatch_size=2", "module.max_new_tokens=4", "data.iterations=1"]
    names = [f"model.name={name}", "module.reward.name=reward", "trainer.accelerator=cpu"]
    script(train.main, "stage=ppo", *names, "data.train=p.jsonl", *ppo, "run_dir=ppo")
    save_model_folder(as_trained(reward), encoder, "reward")
    (checkpoint,) = Path("ppo/checkpoints").glob("*.ckpt")
    script(export.main, f"checkpoint={checkpoint}", "out=exported")
    assert Path("exported/model.safetensors").read_bytes() == Path("ppo/model/model.safetensors").read_bytes()


def test_a_damaged_checkpoint_is_not_resumed_from(
    script: Callable[..., None], causal_lm_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write("d.jsonl", {"prompt": "say hi", "response": "hi there"})
    Path("half.ckpt").write_bytes(b"PK")
    command = ["stage=sft", f"model.name={causal_lm_folders['llama']}", "data.train=d.jsonl", "run_dir=sft"]
    with pytest.raises(SystemExit):
        script(train.main, *command, "resume=half.ckpt")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert "half.ckpt is no checkpoint, or one that was cut off" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint=none.ckpt", "out=x"], "none.ckpt: no such file"),
        (["checkpoint=run/checkpoints/a.ckpt", "out=x"], "there is no run/config.yaml"),
        (["checkpoint=sft/checkpoints/CKPT", "out=sft"], "out=sft exists already"),
        (["checkpoint=sft/checkpoints/empty.ckpt", "out=x"], "empty.ckpt is no checkpoint, or one that was cut off"),
        (["checkpoint=sft/checkpoints/half.ckpt", "out=x"], "half.ckpt is no checkpoint, or one that was cut off"),
        (["checkpoint=sft/checkpoints/damaged.ckpt", "out=x"], "damaged.ckpt could not be read ("),
        (["checkpoint=sft/checkpoints/other.ckpt", "out=x"], "other.ckpt holds no state of a module"),
        (["checkpoint=sft/checkpoints/CKPT", "out=x", "merge=false"], "this checkpoint has none: set merge=true"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_line(
    script: Callable[..., None],
    causal_lm_folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    write("d.jsonl", *[{"prompt": "say hi", "response": "hi there"}] * 4)
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/a.ckpt").touch()
    command = ["stage=sft", f"model.name={causal_lm_folders['llama']}", "data.train=d.jsonl", "run_dir=sft"]
    script(train.main, *command, "trainer.max_epochs=1")
    (whole,) = Path("sft/checkpoints").glob("*.ckpt")
    name, content = whole.name, whole.read_bytes()
    whole.with_name("empty.ckpt").touch()
    whole.with_name("half.ckpt").write_bytes(content[: len(content) // 2])
    torch.save({"weights": 1}, whole.with_name("other.ckpt"))
    start = content.index(b"data.pkl")
    whole.with_name("damaged.ckpt").write_bytes(content[: start + 60] + b"?" * 100 + content[start + 160 :])
    with pytest.raises(SystemExit):
        script(export.main, *(argument.replace("CKPT", name) for argument in arguments))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert message in line
