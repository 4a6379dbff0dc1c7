"""The presets of conf/model: what they choose, and the memory that they state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

FOLDER = Path(__file__).resolve().parents[1] / "conf" / "model"
HUB = {
    "smollm2_135m": "HuggingFaceTB/SmolLM2-135M",
    "smollm2_360m": "HuggingFaceTB/SmolLM2-360M",
    "smollm2_1.7b": "HuggingFaceTB/SmolLM2-1.7B",
    "qwen3_0.6b": "Qwen/Qwen3-0.6B-Base",
    "qwen3_1.7b": "Qwen/Qwen3-1.7B-Base",
    "qwen3_4b": "Qwen/Qwen3-4B-Base",
    "qwen3_8b": "Qwen/Qwen3-8B-Base",
    "llama3.2_1b": "meta-llama/Llama-3.2-1B",
    "llama3.2_3b": "meta-llama/Llama-3.2-3B",
    "llama3.1_8b": "meta-llama/Llama-3.1-8B",
    "gemma3_270m": "google/gemma-3-270m",
    "gemma3_1b": "google/gemma-3-1b-pt",
    "pythia_160m": "EleutherAI/pythia-160m",
    "pythia_410m": "EleutherAI/pythia-410m",
    "pythia_1b": "EleutherAI/pythia-1b",
    "pythia_1.4b": "EleutherAI/pythia-1.4b",
    "pythia_2.8b": "EleutherAI/pythia-2.8b",
    "pythia_6.9b": "EleutherAI/pythia-6.9b",
    "gpt2": "openai-community/gpt2",
    "opt_1.3b": "facebook/opt-1.3b",
}
# Counted on models built from the published configurations; tied embeddings once.
PARAMETERS = {
    "smollm2_135m": 134_515_008,
    "smollm2_360m": 361_821_120,
    "smollm2_1.7b": 1_711_376_384,
    "qwen3_0.6b": 596_049_920,
    "qwen3_1.7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "llama3.2_1b": 1_235_814_400,
    "llama3.2_3b": 3_212_749_824,
    "llama3.1_8b": 8_030_261_248,
    "gemma3_270m": 268_098_176,
    "gemma3_1b": 999_885_952,
    "pythia_160m": 162_322_944,
    "pythia_410m": 405_334_016,
    "pythia_1b": 1_011_781_632,
    "pythia_1.4b": 1_414_647_808,
    "pythia_2.8b": 2_775_208_960,
    "pythia_6.9b": 6_857_302_016,
    "gpt2": 124_439_808,
    "opt_1.3b": 1_315_758_080,
}
OPTIONS = {"dtype": "bfloat16", "revision": "v2", "attn_implementation": "eager", "trust_remote_code": True}


def composed(name: str, *overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        return compose(name, overrides=list(overrides))


def test_the_presets_are_these() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"default", *HUB}


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_every_preset_composes_for_every_stage(stage: str) -> None:
    default = dict(composed("train", f"stage={stage}", "model.name=m", "run_dir=/r").model)
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        configs = {preset: compose("train", [f"stage={stage}", f"model={preset}", "run_dir=/r"]) for preset in HUB}
    for preset, hub in HUB.items():
        config = configs[preset]
        assert config.model.name == config.encoder.name == config.data.encoder.name == hub
        assert config.model.dtype == "float32"
        if stage == "reward":
            assert config.module.reward_model.name == hub
        else:
            assert config.module.policy.name == hub
        assert dict(config.model) == default | {"name": hub}


def test_presets_serve_collecting_and_pipelines() -> None:
    assert composed("collect", "labeler=vader", "model=smollm2_1.7b").collect.policy.name == HUB["smollm2_1.7b"]
    config = composed("pipeline", "experiment=stories", "model=gpt2", "run_dir=/r")
    assert config.steps.sft.model.name == config.steps.evaluate.models.base.name == "openai-community/gpt2"


@pytest.mark.parametrize("preset", HUB)
def test_the_memory_that_a_preset_states(preset: str) -> None:
    text = " ".join(line.lstrip("# ") for line in (FOLDER / f"{preset}.yaml").read_text().splitlines())
    count = PARAMETERS[preset]
    assert f"{count:,} parameters" in text
    weights = re.search(r"Weights: ([\d.]+) GB in bfloat16, ([\d.]+) GB in float32", text)
    training = re.search(r"AdamW in float32: ([\d.]+) GB for one role \(16 bytes", text)
    ppo = re.search(r"four roles of this size: ([\d.]+) GB", text)
    assert weights and training and ppo
    stated = [float(found) for found in (*weights.groups(), training[1], ppo[1])]
    assert stated == pytest.approx([count * size / 1e9 for size in (2, 4, 16, 40)], rel=0.02)
    gated = preset.startswith(("llama", "gemma"))
    assert ("Not gated." in text, "accept its licence" in text) == (not gated, gated)


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_model_options_reach_every_role_that_loads_from_the_models_name(stage: str) -> None:
    given = [f"model.{key}={value}" for key, value in OPTIONS.items()]
    config = composed("train", f"stage={stage}", "model.name=m", "model.init=random", *given, "run_dir=/r")
    OmegaConf.update(config, "module.reward.name", "rm", force_add=True) if stage == "ppo" else None
    for tokenizer in (config.encoder, config.data.encoder):
        assert (tokenizer.revision, tokenizer.trust_remote_code) == ("v2", True)
    role = config.module.reward_model if stage == "reward" else config.module.policy
    assert {key: role[key] for key in ("init", *OPTIONS)} == {"init": "random"} | OPTIONS
    if stage == "ppo":  # of a model of its own: its revision too
        own = OPTIONS | {"revision": None}
        for role in (config.module.reward, config.module.value):
            assert {key: role[key] for key in own} == own
        config.module.reward.revision = "v3"
        assert config.module.value.revision == "v3"


def test_a_value_model_needs_no_reward_model() -> None:
    config = composed("train", "stage=ppo", "model.name=m", "~module.reward", "module.value.name=m", "run_dir=/r")
    assert config.module.value.revision is None


def test_model_options_reach_collecting() -> None:
    given = [f"model.{key}={value}" for key, value in OPTIONS.items()]
    collect = composed("collect", "labeler=vader", "model.name=m", *given).collect
    assert {key: collect.policy[key] for key in OPTIONS} == OPTIONS
    assert (collect.encoder.revision, collect.encoder.trust_remote_code) == ("v2", True)


@pytest.mark.parametrize("experiment", ["stories", "quickstart"])
def test_model_options_reach_every_step_of_a_pipeline(experiment: str) -> None:
    given = [f"model.{key}={value}" for key, value in OPTIONS.items()]
    steps = composed("pipeline", f"experiment={experiment}", "run_dir=/r", *given).steps
    for name in ("pretrain", "sft", "reward", "ppo", "ppo_ptx"):
        if steps[name] is not None:
            assert {key: steps[name].model[key] for key in OPTIONS} == OPTIONS, name
            assert steps[name].encoder.revision == "v2"
    for name in ("collect", "collect_heldout"):
        assert {key: steps[name].policy[key] for key in OPTIONS} == OPTIONS, name
    assert {key: steps.evaluate[key] for key in OPTIONS} == OPTIONS
