"""Model folders and checkpoints of adapters whose base is shared out among processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf_lightning import export
from rlhf_lightning.callbacks import newest_checkpoint
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import Lora, SharedReward, load_causal_lm, load_scalar_model
from rlhf_lightning.modules.checkpoints import read_checkpoint

TRAIN = [sys.executable, "-m", "rlhf_lightning.train"]
ONE_STAGE = ("reward-lora", "ppo-shared")


@pytest.mark.parametrize("stage", ONE_STAGE)
def test_the_folder_of_two_processes_is_that_of_one(trained: Callable[..., Any], stage: str) -> None:
    """Merged and adapter alone, on the base that one process names."""
    one, two = (Path(trained(f"{stage}-{how}")["folder"]) for how in ("one", "fsdp2"))
    assert {path.relative_to(one) for path in one.rglob("*")} == {path.relative_to(two) for path in two.rglob("*")}
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        mine, other = load_file(one / file), load_file(two / file)
        assert mine.keys() == other.keys()
        for name, weight in mine.items():
            torch.testing.assert_close(weight, other[name], atol=1e-5, rtol=0.0, msg=name)
    assert (one / "adapter/base.json").read_text() == (two / "adapter/base.json").read_text()
    assert (one / "config.json").read_text() == (two / "config.json").read_text()
    card = (two / "README.md").read_text()
    assert "With the adapter merged, a" in card and "were read back from the files" in card


@pytest.mark.parametrize("stage", ONE_STAGE)
def test_the_folder_holds_what_was_trained(trained: Callable[..., Any], stage: str) -> None:
    found = trained(f"{stage}-fsdp2")
    held = load_file(Path(found["folder"]) / "adapter/adapter_model.safetensors")
    factors = [name for name in held if "lora_" in name]
    assert factors
    for name in factors:
        own = name.removeprefix("base_model.model.").removesuffix(".weight") + ".default.weight"
        (trained_as,) = (key for key in found["end"] if key.endswith(own) and "/" not in key)
        assert torch.equal(held[name], found["end"][trained_as]), name
    if stage == "reward-lora":
        assert torch.equal(held["base_model.model.score.weight"], found["head"])


def test_a_reward_adapter_of_two_processes_serves_one(
    trained: Callable[..., Any], causal_lm_folders: dict[str, Path]
) -> None:
    folder = trained("reward-lora-fsdp2")["folder"]
    shared = SharedReward(name=folder)
    shared.bind(load_causal_lm(name=str(causal_lm_folders["llama"]), lora=Lora(rank=4)))
    ids, lengths = torch.tensor([[5, 6, 7, 8], [9, 10, 1, 1]]), torch.tensor([4, 2])
    alone = load_scalar_model(name=folder)
    torch.testing.assert_close(shared.score_ids(ids, lengths), alone.score(ids, lengths).detach(), atol=1e-5, rtol=0.0)


@pytest.mark.slow
def test_a_sharded_checkpoint_of_an_adapter_holds_what_trains_and_is_exported(
    causal_lm_folders: dict[str, Path], files: dict[str, str], tmp_path: Path
) -> None:
    """From the command line: the run's folder, that of rlhf-export and the adapter alone are the same weights, and a
    run on another base does not go on from the checkpoint."""
    run = tmp_path / "run"
    arguments = [
        "stage=sft",
        "model/lora=default",
        "model.lora.rank=4",
        f"data.train={files['demonstrations']}",
        "data.batch_size=8",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "trainer.devices=2",
        "strategy=fsdp2",
        f"run_dir={run}",
    ]
    base = f"model.name={causal_lm_folders['llama']}"
    subprocess.run([*TRAIN, *arguments, base, "trainer.max_steps=2"], check=True, timeout=100)
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None and checkpoint.is_dir()
    held = read_checkpoint(checkpoint)
    assert held["state_dict"] and all("lora_" in name for name in held["state_dict"])
    known = json.loads((run / "model/adapter/base.json").read_text())["fingerprint"]
    assert held["bases"] == {"policy": known}
    done = export.export_checkpoint(checkpoint=checkpoint, out=tmp_path / "merged")
    assert done.difference is not None and done.difference < 1e-4
    export.export_checkpoint(checkpoint=checkpoint, out=tmp_path / "alone", merge=False)
    for file, place in (("model.safetensors", "merged"), ("adapter/adapter_model.safetensors", "alone")):
        mine, other = load_file(run / "model" / file), load_file(tmp_path / place / Path(file).name)
        assert mine.keys() == other.keys()
        assert all(torch.equal(weight, other[name]) for name, weight in mine.items())
    recipe = run / "config.yaml"
    another = load_causal_lm(name=str(causal_lm_folders["llama"]), init="random")
    another.save_pretrained(tmp_path / "another")
    recipe.write_text(recipe.read_text().replace(str(causal_lm_folders["llama"]), str(tmp_path / "another")))
    for file in causal_lm_folders["llama"].glob("*token*"):
        (tmp_path / "another" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=f"adapter of the policy was trained on base {known}, this run's is"):
        export.export_checkpoint(checkpoint=checkpoint, out=tmp_path / "wrong")
    other = f"model.name={tmp_path / 'another'}"
    again = subprocess.run(
        [*TRAIN, *arguments, other, "trainer.max_steps=3", "resume=auto"], timeout=100, capture_output=True, text=True
    )
    assert again.returncode == 1
    assert f"was trained on base {known}, this run's is" in again.stderr
    without = [value for value in arguments if not value.startswith(("model/lora", "model.lora", "trainer.devices"))]
    plain = subprocess.run(
        [*TRAIN, *without, base, "trainer.max_steps=3", "resume=auto"], timeout=100, capture_output=True, text=True
    )
    assert plain.returncode == 1
    assert "the checkpoint holds an adapter and this run trains none" in plain.stderr.splitlines()[-1]
