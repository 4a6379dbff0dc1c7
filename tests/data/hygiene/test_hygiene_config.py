"""Prompt hygiene from the command line's config."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rlhf_lightning.data import PersonalDataFilter, PromptHygiene


def composed(*overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        return compose("train", ["stage=ppo", *overrides])


def hygiene(*overrides: str) -> PromptHygiene:
    made = instantiate(composed(*overrides).data.hygiene)
    assert isinstance(made, PromptHygiene)
    return made


def test_every_step_is_off_until_it_is_asked_for() -> None:
    assert not hygiene().active
    assert OmegaConf.to_container(composed("seed=3").data.hygiene, resolve=True) == {
        "_target_": "rlhf_lightning.data.PromptHygiene",
        "deduplicate": False,
        "min_common_prefix": None,
        "max_per_user": None,
        "personal_data": None,
        "validation_fraction": 0.0,
        "seed": 3,
    }


@pytest.mark.parametrize("data", ["prompts", "alpaca_prompts"])
def test_the_papers_steps_are_one_choice(data: str) -> None:
    paper = hygiene(f"data={data}", "data/hygiene=paper", "seed=3")
    assert (paper.deduplicate, paper.min_common_prefix, paper.max_per_user) == (True, 128, 200)
    assert (paper.validation_fraction, paper.seed) == (0.34, 3)
    assert isinstance(paper.personal_data, PersonalDataFilter)
    assert paper.personal_data.kinds == ("email", "phone", "card", "account", "ip", "mac")


def test_a_step_is_one_value() -> None:
    assert hygiene("data.hygiene.max_per_user=200").max_per_user == 200
    chosen = hygiene("data.hygiene.personal_data=[email,ip]").personal_data
    assert chosen is not None
    assert list(chosen("a@b.io, 10.0.0.12, 555-123-4567")) == ["email", "ip"]
    assert not hygiene("data/hygiene=paper", "data.hygiene.validation_fraction=0").validation_fraction


def test_the_filter_for_personal_data_can_be_any_callable() -> None:
    made = hygiene("data.hygiene.personal_data={_target_: builtins.sorted, _partial_: true}")
    assert made.clean(["", "b", ""]).dropped == {"personal_data": 1}


def test_steps_reach_a_stage_of_a_pipeline() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        config = compose(
            "pipeline", ["experiment=quickstart", "run_dir=/r", "data/hygiene@steps.ppo.data.hygiene=paper"]
        )
    assert config.steps.ppo.data.hygiene.max_per_user == 200
    assert config.steps.ppo_ptx.data.hygiene.max_per_user is None
