"""Every YAML of conf/ and sweeps/, found by itself, composes; what can be made without a model of the hub is made."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from hydra.errors import InstantiationException, MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from rlhf_lightning.arguments import check_arguments
from rlhf_lightning.modules import PPOModule
from rlhf_lightning.sizes import check_sizes
from rlhf_lightning.train import check_combination

ROOT = Path(__file__).resolve().parents[1]
HEADER = re.compile(r"^#.*?(rlhf-(?:train|pipeline)) (.*)$", flags=re.MULTILINE)
PRIMARY = {
    "train": ["stage=sft"],
    "pipeline": ["experiment=quickstart"],
    "collect": ["labeler=vader"],
    "doctor": [],
    "export": [],
    "evaluate": ["benchmarks=[crows_pairs]"],
}
# Group -> what a config with an option of it is composed from, and where the option lands. A new group is added here;
# one whose options are of several kinds says so in the header of each file, as experiments and presets of data do.
GROUPS: dict[str, tuple[str, list[str], str]] = {
    "stage": ("train", ["stage={option}"], ""),
    "module": ("train", ["stage={option}"], "module"),
    "model": ("train", ["stage=sft", "model={option}"], "model"),
    "model/lora": ("train", ["stage=sft", "model/lora={option}"], "model.lora"),
    "model/quantization": ("train", ["stage=sft", "model/quantization={option}"], "model.quantization"),
    "trainer": ("train", ["stage=sft", "trainer={option}"], "trainer"),
    "rollout": ("train", ["stage=ppo", "rollout={option}"], "rollout"),
    "optimizer": ("train", ["stage=sft", "optimizer={option}"], "optimizer"),
    "callbacks": (
        "train",
        ["stage=ppo", "callbacks=[{option}]", "optimized_metric=val/score", "data.validation=p.jsonl"],
        "callbacks",
    ),
    "strategy": ("train", ["stage=sft", "strategy={option}"], "strategy"),
    "logger": ("train", ["stage=sft", "logger=[{option}]"], "logger"),
    "data/hygiene": ("train", ["stage=ppo", "data/hygiene={option}"], "data.hygiene"),
    "labeler": ("collect", ["labeler={option}"], "labeler"),
    "strategies": ("pipeline", ["experiment=quickstart", "strategies={option}"], ""),
    "hydra/launcher": ("train", ["stage=sft", "hydra/launcher={option}"], ""),
    "hydra/sweeper": ("train", ["stage=sft", "hydra/sweeper={option}"], ""),
    "hydra/sweeper/sampler": ("train", ["stage=sft", "hydra/sweeper=optuna", "hydra/sweeper/sampler={option}"], ""),
    "benchmarks": ("evaluate", ["benchmarks=[{option}]"], ""),
}
DATA = {"demonstrations": "sft", "comparisons": "reward", "prompts": "ppo", "text": "pretrain"}
MADE = ("trainer", "rollout", "optimizer", "callbacks", "logger", "data/hygiene", "labeler", "model/lora")
"""Groups whose options are made, not only compared with their classes: they need no model and no other machine."""


def found() -> dict[str, list[str]]:
    """Group -> options, of both folders; the group of what stands at the top is ''."""
    groups = defaultdict(list)
    for folder in ("conf", "sweeps"):
        for path in sorted((ROOT / folder).rglob("*.yaml")):
            name = path.relative_to(ROOT / folder).with_suffix("").as_posix()
            # The names of experiments hold folders; those of adapted are `EXPERIMENT/ADAPTER`.
            group, _, option = (
                name.partition("/") if name.startswith(("experiment/", "adapted/")) else name.rpartition("/")
            )
            groups[group].append(option)
    return groups


FOUND = found()
EXPERIMENTS = FOUND["experiment"]


def composed(name: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        config = compose(name, ["hydra.searchpath=[pkg://rlhf_lightning.sweeps]", *overrides])
    check_arguments(config.steps if "steps" in config else config)
    return config


def header(group: str, option: str) -> tuple[str, list[str]]:
    """Script and choices of the command that a file states."""
    path = next(p for f in ("conf", "sweeps") if (p := ROOT / f / group / f"{option}.yaml").is_file())
    command = HEADER.search(path.read_text().replace("\\\n#", ""))
    assert command, f"{path.relative_to(ROOT)}: say in its header the rlhf-train or rlhf-pipeline command that uses it"
    words = [word for word in command[2].split() if "=" in word and "." not in word.partition("=")[0]]
    return command[1].removeprefix("rlhf-"), words


def test_every_group_is_known() -> None:
    known = {"", "experiment", "adapted", "data", "sweep", *GROUPS}
    new = sorted(set(FOUND) - known)
    assert not new, f"new groups {new}: say in GROUPS of {Path(__file__).name} what their options are composed from"


@pytest.mark.parametrize("name", FOUND[""])
def test_a_primary_config_composes(name: str) -> None:
    assert name in PRIMARY, f"say in PRIMARY what {name} is composed with"
    composed(name, PRIMARY[name])


@pytest.mark.parametrize("group", [group for group in GROUPS if FOUND[group]])
def test_every_option_of_a_group_composes_and_is_made(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, overrides, place = GROUPS[group]
    for option in FOUND[group]:
        given = [override.format(option=option) for override in overrides]
        if "model" not in group and name not in ("pipeline", "evaluate"):
            given += ["model.name=m"]
        try:
            config = composed(name, given + ([f"run_dir={tmp_path}"] if name == "train" else []))
        except MissingConfigException as error:
            if group == "hydra/launcher" and error.missing_cfg_file in ("hydra/launcher/ray", "hydra/launcher/joblib"):
                continue  # an extra that is not installed here
            raise
        if group not in MADE:
            continue
        node = OmegaConf.select(config, place)
        nodes = node.values() if group in ("callbacks", "logger", "rollout") else [node]
        for part in nodes:
            if not part:  # model/lora=off
                continue
            try:
                made = instantiate(part)
                if group == "optimizer":
                    weight = torch.nn.Parameter(torch.zeros(4, 4))
                    made([{"params": [weight], "kind": "matrix", "role": "policy", "lr": 0.1, "weight_decay": 0.0}])
            except (InstantiationException, ImportError) as error:
                missing = error if isinstance(error, ImportError) else error.__cause__
                if "pip install" not in str(missing) and not isinstance(missing, ModuleNotFoundError):
                    raise  # else an extra that is not installed here


@pytest.mark.parametrize("option", FOUND["data"])
def test_data_composes(option: str) -> None:
    given = [f"stage={DATA[option]}", f"data={option}"] if option in DATA else header("data", option)[1]
    assert f"data={option}" in given
    composed("train", [word for word in given if word.partition("=")[0] in ("stage", "data")])


@pytest.mark.parametrize("option", FOUND["adapted"])
def test_what_experiments_set_for_adapters_composes(option: str) -> None:
    experiment, _, adapter = option.rpartition("/")
    composed("pipeline", [f"experiment={experiment}", f"model/lora={adapter}"])


@pytest.mark.parametrize("option", FOUND["sweep"])
def test_the_trials_of_a_sweep_are_sound(option: str, tmp_path: Path) -> None:
    """Each value of each search space stands in a trial whose config passes the checks that one run's does."""
    path = ROOT / "sweeps" / "sweep" / f"{option}.yaml"
    command = HEADER.search(path.read_text().replace("\\\n#", ""))
    assert command
    words = [word for word in command[2].split() if "=" in word and not word.startswith(("run_dir", "hydra."))]
    assert f"sweep={option}" in words
    given = [f"run_dir={tmp_path}", *words]
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        parser = OverridesParser.create()
        of_command = [word for word in given if parser.parse_override(word).is_sweep_override()]
        fixed = [word for word in given if word not in of_command]
        config = compose(
            command[1].removeprefix("rlhf-"),
            ["hydra.searchpath=[pkg://rlhf_lightning.sweeps]", *fixed],
            return_hydra_config=True,
        )
    asked = config.hydra.sweeper.params or {}
    overrides = parser.parse_overrides([*(f"{key!s}={value!s}" for key, value in asked.items()), *of_command])
    assert overrides
    with open_dict(config):
        del config.hydra
    values = {override.get_key_element(): _values(override) for override in overrides}
    for number in range(max(map(len, values.values()))):
        for key, possible in values.items():
            OmegaConf.update(config, key, possible[number % len(possible)])  # no key that is not there: it is a struct
        stages = {name: step for name, step in config.steps.items() if step} if "steps" in config else {"": config}
        check_arguments(config.steps if "steps" in config else config)
        for stage in stages.values():
            if "module" in stage:
                check_combination(stage)
                check_sizes(OmegaConf.to_container(stage, resolve=True))  # type: ignore[arg-type]  # keys are texts


def _values(override: Override) -> list[Any]:
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [value.start, value.end]
    assert override.is_sweep_override()
    return list(override.sweep_iterator(transformer=Transformer.identity))


@pytest.mark.parametrize("option", EXPERIMENTS)
def test_an_experiment_states_its_command_and_composes(option: str) -> None:
    script, given = header("experiment", option)
    assert f"experiment={option}" in given
    assert "@package _global_" in (ROOT / "conf" / "experiment" / f"{option}.yaml").read_text().splitlines()[0]
    composed(script, [f"experiment={option}"])


@pytest.mark.parametrize("option", [option for option in EXPERIMENTS if header("experiment", option)[0] == "train"])
def test_the_module_and_the_data_of_a_stages_experiment_are_made(
    option: str, causal_lm_folders: dict[str, Path], reward_model_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = composed(
        "train", [f"experiment={option}", f"model.name={causal_lm_folders['gpt2']}", f"run_dir={tmp_path}"]
    )
    config.data.train = "rows.jsonl"
    if config.module._target_.endswith("PPOModule"):
        config.module.reward.name = str(reward_model_folders["gpt2"])
    instantiate(config.data)
    module = instantiate(config.module)
    module.configure_model()
    assert isinstance(module, PPOModule) == option.endswith("ppo_ptx")
    for callback in config.callbacks.values():
        instantiate(callback)
