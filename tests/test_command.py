"""What is told apart on a command line, and the messages that depend on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins

from rlhf_lightning import pipeline, train
from rlhf_lightning.command import is_override, of_run

OWN = ["hydra.run.dir=${run_dir}", "hydra.sweep.dir=${run_dir}", "hydra.job.chdir=false"]
Fails = Callable[..., str]


@pytest.fixture
def fails(fails: Fails, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fails:
    monkeypatch.chdir(tmp_path)
    return fails


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["a=1", "b"], [True, True]),
        (["-m", "a=1"], [False, True]),
        (["--cfg", "job", "a=1"], [False, False, True]),
        (["-c", "job", "-cd", "runs", "-cn", "x", "a=1"], [False] * 6 + [True]),
        (["--config-dir=runs", "a=1", "--resolve"], [False, True, False]),
    ],
)
def test_flags_and_their_values_are_no_overrides(arguments: list[str], wanted: list[bool]) -> None:
    assert [is_override(arguments, place) for place in range(len(arguments))] == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--config-dir", "{kept}", "seed=1"], [*OWN, "seed=1"]),
        (["--config-dir={kept}"], OWN),
        (["-cd", "{kept}", "--cfg", "job"], ["--cfg", "job", *OWN]),
        (["-m", "seed=1,2", "--cfg", "job", "-cd={kept}"], ["-m", *OWN, "seed=1,2", "--cfg", "job"]),
        (["--cfg", "job", "seed=1", "run_dir=x", "-cd", "{kept}"], ["--cfg", "job", *OWN, "seed=1", "run_dir=x"]),
    ],
)
def test_the_config_of_a_run_is_found_wherever_its_folder_stands(
    given: list[str], wanted: list[str], tmp_path: Path
) -> None:
    """Overrides stand in one row, as Hydra wants them, and the user's own are the last."""
    (tmp_path / "overrides.yaml").touch()
    arguments = [argument.format(kept=tmp_path) for argument in given]
    assert of_run(arguments) == ["--config-dir", str(tmp_path), "--config-name", "config", *wanted]


def test_another_folder_of_configs_is_left_alone(tmp_path: Path) -> None:
    arguments = ["--config-dir", str(tmp_path), "stage=mine"]
    assert of_run(arguments) == arguments
    (tmp_path / "overrides.yaml").touch()
    assert of_run([*arguments, "-cn", "mine"]) == [*arguments, "-cn", "mine"]


@pytest.mark.parametrize("flag", ["--config-dir", "-cd"])
def test_the_value_of_a_flag_is_not_taken_for_an_override(flag: str, fails: Fails, tmp_path: Path) -> None:
    line = fails(train.main, flag, tmp_path, "stage=pro")
    assert "did you mean stage=ppo?" in line


SFT = ("stage=sft", "model.name=m", "data.train=d.jsonl")
MESSAGES: Mapping[str, tuple[Callable[[], None], tuple[str, ...], tuple[str, ...]]] = {
    "an environment variable": (train.main, (*SFT, "run_dir=${oc.env:NOT_SET}"), ("NOT_SET",)),
    "an environment variable of data": (
        train.main,
        ("stage=sft", "model.name=m", "data.train=${oc.env:NOT_SET}", "run_dir=r"),
        ("NOT_SET",),
    ),
    "an environment variable of a pipeline": (
        pipeline.main,
        ("experiment=quickstart", "run_dir=r", "steps.sft.data.train=${oc.env:NOT_SET}"),
        ("NOT_SET",),
    ),
    "no seed": (train.main, (*SFT, "seed=null"), ("seed=null", "a whole number", "seed=$RANDOM")),
    "a mapping": (
        train.main,
        ("stage=ppo", "module.reward={_target_: x, size: 3}"),
        ("module.reward={...}", "size", "++module.reward={...}", "~module.reward +module.reward={...}"),
    ),
    "sizes of a step": (
        pipeline.main,
        ("experiment=quickstart", "run_dir=r", "steps.sft.data.batch_size=0"),
        ("steps.sft: data.batch_size=0 must be at least 1",),
    ),
    "batches of a step": (
        pipeline.main,
        ("experiment=quickstart", "run_dir=r", "steps.ppo.module.minibatch_size=7"),
        ("steps.ppo: ", "minibatch_size=7"),
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_mistake_is_one_line_with_the_way_out(name: str, fails: Fails, tmp_path: Path) -> None:
    main, arguments, wanted = MESSAGES[name]
    line = fails(main, *arguments)
    for part in wanted:
        assert part in line, line
    assert not (tmp_path / "r" / "steps").exists()


def test_a_number_is_a_folders_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, causal_lm_folders: dict[str, Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").write_text('{"prompt": "say hi", "response": "hi"}\n' * 4)
    arguments = ["stage=sft", f"model.name={causal_lm_folders['gpt2']}", "data.train=d.jsonl", "data.batch_size=4"]
    monkeypatch.setattr(sys, "argv", ["script", *arguments, "trainer.accelerator=cpu", "run_dir=2024"])
    train.main()
    assert (tmp_path / "2024" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "2024" / "csv" / "metrics.csv").is_file()


# Name of our config, name of the launcher's own, extra.
LAUNCHERS = {"parallel": ("joblib", "joblib"), "slurm": ("submitit_slurm", "submitit"), "ray_local": ("ray", "ray")}


@pytest.fixture
def launchers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Configs of launchers by file name, for this test alone."""
    Plugins.instance()  # finds those that are installed
    hydra = ConfigStore.instance().repo["hydra"]
    found: dict[str, Any] = dict(hydra["launcher"])
    monkeypatch.setitem(hydra, "launcher", found)
    return found


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_that_is_not_installed_names_its_extra(name: str, fails: Fails, launchers: dict[str, Any]) -> None:
    own, extra = LAUNCHERS[name]
    launchers.pop(f"{own}.yaml", None)
    line = fails(train.main, "-m", "sweep=seeds", f"hydra/launcher={name}", *SFT, "run_dir=r")
    assert line.endswith(f"hydra/launcher needs {extra}: pip install rlhf-lightning[{extra}]")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_that_is_installed_takes_our_settings(name: str, launchers: dict[str, Any]) -> None:
    """The config of hydra-ray-launcher 1.2, which wants an environment of its own, is typed in here."""
    own, _ = LAUNCHERS[name]
    if f"{own}.yaml" not in launchers and name == "ray_local":
        ray = {
            "_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
            "ray": {"init": {"address": None}, "remote": {}},
        }
        ConfigStore.instance().store(group="hydra/launcher", name="ray", node=ray, provider="ray_launcher")
    elif f"{own}.yaml" not in launchers:
        pytest.skip(f"the launcher {own} is not installed")
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        config = compose("train", [f"hydra/launcher={name}", *SFT, "run_dir=r"], return_hydra_config=True)
    launcher = config.hydra.launcher
    if name == "ray_local":
        assert launcher.ray == {"init": {"address": None, "num_cpus": 2}, "remote": {"num_cpus": 1}}
    elif name == "parallel":
        assert launcher.n_jobs == 2
        assert launcher._target_.endswith("JoblibLauncher")
    else:
        assert (launcher.nodes, launcher.tasks_per_node) == (config.trainer.num_nodes, config.trainer.devices)
        assert launcher._target_.endswith("SlurmLauncher")
