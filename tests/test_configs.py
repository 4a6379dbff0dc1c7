"""Composed configs: what is written is what arrives, addressed by module, independent of the working folder."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[1]
STAGES = sorted(path.stem for path in (ROOT / "conf" / "stage").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
PAPER = {"kl_coef": 0.02, "ptx_coef": 27.8, "gamma": 1.0, "clip": 0.2, "epochs": 1, "minibatch_size": 64}


def composed(name: str, *overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        return compose(name, overrides=list(overrides))


def targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}")


@pytest.mark.parametrize("stage", STAGES)
def test_every_key_of_a_stage_is_an_argument_of_its_class(stage: str) -> None:
    """A config cannot offer an option that its class does not have, nor miss one that it has."""
    config = OmegaConf.to_container(composed("train", f"stage={stage}"), resolve=False)
    ours = [(path, node) for path, node in targets(config) if node["_target_"].startswith("rlhf_lightning")]
    assert ours
    for path, node in ours:
        signature = inspect.signature(get_object(node["_target_"]))
        open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        given = {key for key in node if not key.startswith("_")}
        assert open_ended or given <= set(signature.parameters), path
        if path in (".module", ".data", ".model"):
            assert given == set(signature.parameters), path


@pytest.mark.parametrize("stage", STAGES)
def test_the_optimizer_is_chosen_by_name(stage: str) -> None:
    made = OmegaConf.to_container(composed("train", f"stage={stage}", "optimizer=muon").optimizer)
    assert isinstance(made, dict)
    assert made["_target_"] == "rlhf_lightning.modules.Muon"
    options = set(inspect.signature(get_object(made["_target_"])).parameters) - {"groups"}
    assert {key for key in made if not key.startswith("_")} == options


@pytest.mark.parametrize("stage", STAGES)
def test_one_seed_and_one_folder_reach_everything(stage: str) -> None:
    config = composed("train", f"stage={stage}", "seed=7", "run_dir=/r", "model.name=m")
    assert config.data.seed == 7
    assert config.callbacks.export.folder == "/r/model"
    assert config.callbacks.checkpoint.folder == "/r/checkpoints"
    assert config.logger.csv.save_dir == "/r"
    assert config.data.encoder.name == "m"


def test_ppo_starts_from_the_papers_settings() -> None:
    module = composed("train", "stage=ppo").module
    assert {key: module[key] for key in PAPER} == PAPER
    data = composed("train", "stage=ppo").data
    assert (data.rollout_batch_size, data.ptx_ratio) == (512, 8)
    assert composed("train", "stage=ppo").optimizer.betas == [0.9, 0.95]


@pytest.mark.parametrize("extra", ["policy_ema", "adaptive_kl", "kl_early_stop"])
def test_callbacks_are_added_by_name(extra: str) -> None:
    config = composed("train", "stage=ppo", f"callbacks=[ppo,{extra}]")
    assert extra in config.callbacks
    assert "export" in config.callbacks
    assert config.callbacks.checkpoint.every == 1


@pytest.mark.parametrize("logger", ["csv", "tensorboard", "wandb", "mlflow"])
def test_loggers_are_chosen_by_name(logger: str) -> None:
    config = composed("train", "stage=sft", f"logger=[{logger}]")
    assert list(config.logger) == [logger]
    target = config.logger[logger]["_target_"]
    accepted = inspect.signature(get_object(target)).parameters
    assert {key for key in config.logger[logger] if not key.startswith("_")} <= set(accepted)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_values_of_an_experiment_win_over_defaults_and_the_command_line_over_both(experiment: str) -> None:
    """The mistake of an experiment that is silently ignored because `_self_` stands behind it."""
    written = OmegaConf.load(ROOT / "conf" / "experiment" / f"{experiment}.yaml")
    config = composed("pipeline", f"experiment={experiment}", "run_dir=/r", "seed=5")
    raw = OmegaConf.to_container(config, resolve=False)

    def compare(node: Any, found: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                compare(value, found[key], f"{path}.{key}")
        else:
            assert node == found, path

    values = OmegaConf.to_container(written, resolve=False)
    assert isinstance(values, dict)
    chosen = [entry for entry in values.pop("defaults", []) if isinstance(entry, dict)]
    for choice, name in [item for entry in chosen for item in entry.items() if item[0].startswith("override ")]:
        group, package = choice.removeprefix("override /").split("@")
        file = OmegaConf.load(ROOT / "conf" / group / f"{name}.yaml")
        assert OmegaConf.select(config, package)._target_ == file._target_, choice
    compare(values, raw, "")
    assert config.steps.ppo.seed == 5
    assert config.steps.ppo.module.seed == 5
    assert config.steps.sft.data.seed == 5
    assert composed("pipeline", f"experiment={experiment}", "steps.ppo.module.kl_coef=9").steps.ppo.module.kl_coef == 9


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_ppo_ptx_differs_from_ppo_by_its_pretraining_text_alone(experiment: str) -> None:
    steps = composed("pipeline", f"experiment={experiment}", "run_dir=/r").steps
    ppo, ptx = (OmegaConf.to_container(steps[name].module, resolve=False) for name in ("ppo", "ppo_ptx"))
    assert isinstance(ppo, dict)
    assert isinstance(ptx, dict)
    for key in ppo:
        same = steps.ppo_ptx.module[key] == steps.ppo.module[key]
        assert same or key in ("policy", "reward", "value", "encoder", "optimizer"), key
    assert steps.ppo.data.text is None
    assert steps.ppo_ptx.data.text is not None
    assert steps.ppo_ptx.data.iterations == steps.ppo.data.iterations


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_experiments_state_their_command(path: Path) -> None:
    head = path.read_text().split("\nsteps:")[0]
    assert "@package _global_" in head
    assert f"rlhf-pipeline experiment={path.stem}" in head


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_options_of_an_adapter_reach_every_stage_of_an_experiment(experiment: str) -> None:
    options = ["model.lora.rank=5", "model.lora.dropout=0.25", "model.lora.trainable_tokens=[eos]"]
    config = composed("pipeline", f"experiment={experiment}", "model/lora=default", "model.name=m", *options)
    for step in ("sft", "reward", "ppo", "ppo_ptx"):
        lora = config.steps[step].model.lora
        assert (lora.rank, lora.dropout, list(lora.trainable_tokens)) == (5, 0.25, ["eos"]), step
        assert set(lora) == set(config.model.lora), step


def test_the_experiment_of_a_pipeline_chooses_the_strategy_of_all_steps_or_one(tmp_path: Path) -> None:
    """The command line overrules it."""
    (tmp_path / "experiment").mkdir()
    for name, chosen in (("all", "/strategy: ddp"), ("one", "/strategy@steps.sft.strategy: ddp")):
        text = f"# @package _global_\ndefaults:\n  - quickstart\n  - override {chosen}\n"
        (tmp_path / "experiment" / f"{name}.yaml").write_text(text)

    def strategies(*overrides: str) -> dict[str, str]:
        config = composed("pipeline", f"hydra.searchpath=[file://{tmp_path}]", *overrides)
        return {name: step.strategy._target_ for name, step in config.steps.items() if step and "strategy" in step}

    auto, ddp, fsdp2 = (
        composed("train", "stage=sft", f"strategy={name}").strategy._target_ for name in ("auto", "ddp", "fsdp2")
    )
    steps = strategies("experiment=quickstart").keys()
    assert strategies("experiment=all") == dict.fromkeys(steps, ddp)
    assert strategies("experiment=one") == dict.fromkeys(steps, auto) | {"sft": ddp}
    assert strategies("experiment=one", "strategy=fsdp2") == dict.fromkeys(steps, fsdp2) | {"sft": ddp}
    assert strategies("experiment=one", "strategy@steps.sft.strategy=fsdp2")["sft"] == fsdp2
