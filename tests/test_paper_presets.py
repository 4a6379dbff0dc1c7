"""experiment=instructgpt/...: the settings of Ouyang et al. 2022, typed in from the paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from rlhf_lightning.cli import NEEDED

FOLDER = Path(__file__).resolve().parents[1] / "conf" / "experiment" / "instructgpt"
SIZES = ("1.3b", "6b", "175b")
# Of each stage: what all sizes share, then learning rate and batch of 1.3B, 6B and 175B.
COSINE = {"module.schedule": "cosine", "module.schedule_floor": 0.1}
SHARED: dict[str, dict[str, Any]] = {
    "sft": COSINE | {"trainer.max_epochs": 16, "model.residual_dropout": 0.2, "module.warmup_steps": 0},
    "reward": COSINE
    | {"trainer.max_epochs": 1, "data.batch_size": 64, "module.center": True, "module.reward_model.head": "new"},
    "rlhf_init": COSINE | {"trainer.max_epochs": 2, "data.text_share": 0.1, "data.text": NEEDED},
    "ppo_ptx": {
        "data.rollout_batch_size": 512,
        "data.ptx_ratio": 8,
        "data.text": NEEDED,
        "data.max_prompt_length": 1024,
        "data.overlong": "drop",
        "module.minibatch_size": 64,
        "module.epochs": 1,
        "module.max_new_tokens": 1024,
        "module.warmup_iterations": 10,
        "module.schedule_floor": 0.1,
        "module.kl_coef": 0.02,
        "module.ptx_coef": 27.8,
        "module.clip": 0.2,
        "module.gamma": 1.0,
        "module.temperature": 1.0,
        "module.reference": None,
        "callbacks.policy_ema.decay": 0.992,
        "module.value.head": "pretrained",
        # Not in the paper, as DESIGN has it:
        "module.lam": 0.95,
        "module.value_coef": 0.1,
        "module.value_clip": 0.2,
        "module.whiten_advantages": True,
        "module.whiten_rewards": False,
    },
}
BY_SIZE: dict[str, dict[str, tuple[Any, Any, Any]]] = {
    "sft": {"module.learning_rate": (9.65e-6, 9.65e-6, 5.03e-6), "data.batch_size": (32, 32, 8)},
    "reward": {"module.learning_rate": (9e-6, 9e-6, 9e-6)},
    "rlhf_init": {"module.learning_rate": (5e-6, 1.04e-5, 2.45e-6), "data.batch_size": (32, 32, 8)},
    "ppo_ptx": {"module.value_learning_rate": (9e-6, 9e-6, 5e-6)},
}
STAGES = {"sft": "sft", "reward": "reward", "rlhf_init": "sft", "ppo_ptx": "ppo"}


def composed(name: str, *overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        return compose(name, overrides=list(overrides))


def value(config: DictConfig, key: str) -> Any:
    node: Any = OmegaConf.to_container(config, resolve=False)
    for part in key.split("."):
        node = node[part]
    return node


def test_there_is_one_of_each() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {f"{size}_{name}" for size in SIZES for name in SHARED}


@pytest.mark.parametrize("name", SHARED)
def test_the_values_are_the_papers(name: str) -> None:
    for index, size in enumerate(SIZES):
        config = composed("train", f"experiment=instructgpt/{size}_{name}")
        wanted = SHARED[name] | {key: values[index] for key, values in BY_SIZE[name].items()}
        assert {key: value(config, key) for key in wanted} == wanted, size
        assert (config.optimizer.betas, config.optimizer.eps) == ([0.9, 0.95], 1e-5)
        stage = composed("train", f"stage={STAGES[name]}")
        assert value(config, "module._target_") == value(stage, "module._target_")


def test_what_follows_from_the_papers_numbers() -> None:
    data = composed("train", "experiment=instructgpt/1.3b_ppo_ptx").data
    assert data.iterations * data.rollout_batch_size == 256_000
    for size, (low, high) in {"1.3b": (2.55e-6, 8.05e-6), "6b": (2.55e-6, 8.05e-6), "175b": (2.55e-6, 3.74e-6)}.items():
        rate = composed("train", f"experiment=instructgpt/{size}_ppo_ptx").module.learning_rate
        assert low <= rate <= high
    low, high = composed("collect", "labeler=vader").collect.responses_per_prompt
    assert (low, high) == (4, 9)
    prompts = composed("train", "experiment=instructgpt/6b_reward").data["batch_size"]
    assert prompts * high * (high - 1) // 2 == 2304


def test_the_command_line_wins_over_a_preset() -> None:
    config = composed("train", "experiment=instructgpt/175b_ppo_ptx", "module.kl_coef=9", "callbacks=[ppo]", "seed=7")
    assert (config.module.kl_coef, config.seed, config.module.learning_rate) == (9, 7, 2.55e-6)


MARKED = (
    "weight_decay",
    "max_grad_norm",
    "eps",
    "lam",
    "value_clip",
    "value_coef",
    "whiten_",
    "missing_eos",
    "text_block",
)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_the_paper_does_not_give_is_marked(path: Path) -> None:
    for line in path.read_text().splitlines():
        if re.match(rf"\s+({'|'.join(MARKED)})\w*:", line):
            assert "# not in the paper" in line, line
    if "ppo_ptx" in path.stem and "  learning_rate" in path.read_text():
        assert "the last choice is not in the paper" in path.read_text()
