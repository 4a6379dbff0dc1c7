"""Every dataset preset composes, and a small file of the dataset's true schema loads through the real data module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rlhf_lightning.data import Encoder

ROOT = Path(__file__).resolve().parents[1]
BASES = {"comparisons", "demonstrations", "prompts", "text"}
PRESETS = sorted(path.stem for path in (ROOT / "conf" / "data").glob("*.yaml") if path.stem not in BASES)
STAGES = {"comparisons": "reward", "demonstrations": "sft", "prompts": "ppo", "text": "pretrain"}
FIXTURES = ROOT / "tests" / "data" / "fixtures"
# What may be asked of each dataset: file of the fixture, (configuration, split) pairs, revision, files.
HUB: dict[str, tuple[str, set[tuple[str | None, str]], str | None, str | None]] = {
    "Anthropic/hh-rlhf": ("hh_rlhf", {(None, "train"), (None, "test")}, None, None),
    "openai/summarize_from_feedback": (
        "summarize_from_feedback",
        {(None, "train"), (None, "validation")},
        "refs/convert/parquet",  # the main branch is a script, which `datasets` does not run
        "comparisons/{split}/*.parquet",
    ),
    "trl-lib/tldr": ("tldr_prompts", {(None, "train"), (None, "validation"), (None, "test")}, None, None),
    "tatsu-lab/alpaca": ("alpaca", {(None, "train")}, None, None),
    "HuggingFaceH4/ultrafeedback_binarized": (
        "ultrafeedback",
        {(None, f"{part}_{task}") for part in ("train", "test") for task in ("prefs", "sft", "gen")},
        None,
        None,
    ),
    "nvidia/HelpSteer2": ("helpsteer2", {(None, "train"), (None, "validation")}, None, None),
    "OpenAssistant/oasst2": ("oasst2", {(None, "train"), (None, "validation")}, None, None),
    "databricks/databricks-dolly-15k": ("dolly", {(None, "train")}, None, None),
    "Salesforce/wikitext": (
        "wikitext",
        {
            (f"wikitext-{size}-{form}v1", split)
            for size in (2, 103)
            for form in ("", "raw-")
            for split in ("train", "validation", "test")
        },
        None,
        None,
    ),
    "allenai/c4": ("c4", {("en", "train"), ("en", "validation")}, None, None),
}


def base_of(preset: str) -> str:
    return str(OmegaConf.load(ROOT / "conf" / "data" / f"{preset}.yaml").defaults[0])


def composed(preset: str, *overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        return compose("train", [f"stage={STAGES[base_of(preset)]}", f"data={preset}", *overrides])


@pytest.fixture(autouse=True)
def _hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A Hub whose datasets are the fixtures."""
    original = datasets.load_dataset

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        if path not in HUB:
            return original(path, name, **options)
        fixture, parts, revision, files = HUB[path]
        assert (name, options["split"]) in parts
        assert options.get("revision") == revision
        asked = options.get("data_files")
        assert asked == (None if files is None else {options["split"]: files.format(split=options["split"])})
        file = str(FIXTURES / f"{fixture}.jsonl")
        return original("json", data_files=file, split="train", streaming=options.get("streaming", False))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    GlobalHydra.instance().clear()


def data_of(preset: str, encoder: Encoder, **options: Any) -> Any:
    config = composed(preset).data
    if base_of(preset) == "prompts":
        options = {"iterations": 1, "rollout_batch_size": 2} | options
    data = instantiate(config, encoder=Encoder(encoder.tokenizer), seed=0, **options)
    data.setup()
    return data


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_differs_from_its_base_by_what_it_says(preset: str) -> None:
    node = composed(preset).data
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        base = compose("train", [f"stage={STAGES[base_of(preset)]}"]).data
    assert node._target_ == base._target_
    assert set(node) == set(base)
    assert node.train.hub in HUB


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_what_it_is_and_the_command_that_uses_it(preset: str) -> None:
    head = (ROOT / "conf" / "data" / f"{preset}.yaml").read_text().split("defaults:")[0]
    assert head.startswith("# ")
    assert f"rlhf-train stage={STAGES[base_of(preset)]} data={preset}" in head


def test_parts_of_a_source_are_set_from_the_command_line() -> None:
    node = composed("hh_rlhf", "data.train.split=test", "+data.train.weight=2", "data.validation=null").data
    assert node.train == {"hub": "Anthropic/hh-rlhf", "split": "test", "weight": 2}
    assert node.validation is None
    GlobalHydra.instance().clear()
    with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
        config = compose("train", ["stage=sft", "data.train=[{path: a.jsonl, weight: 2}, {hub: x/y, split: test}]"])
        single = compose("train", ["stage=sft", "+data.train.hub=x/y", "+data.train.split=test"])
    assert config.data.train == [{"path": "a.jsonl", "weight": 2}, {"hub": "x/y", "split": "test"}]
    assert single.data.train == {"hub": "x/y", "split": "test"}


@pytest.mark.parametrize(
    ("preset", "rows", "responses"),
    [
        ("hh_rlhf", 2, ["seven minutes.", "no idea."]),
        ("summarize_from_feedback", 3, [" read a long book, liked it.", " book was long."]),
        ("ultrafeedback", 2, ["water that falls.", "a colour."]),
        ("helpsteer2", 3, ["frozen water.", "a bird."]),  # the third prompt's answers are tied
        ("oasst2_comparisons", 2, ["a far sun.", "a fish."]),
    ],
)
def test_comparisons(preset: str, rows: int, responses: list[str], encoder: Encoder) -> None:
    data = data_of(preset, encoder)
    assert data.counts["rows"] == rows
    assert data.counts["pairs"] == rows
    row = data.train_rows[0]
    ((better, worse),) = row["pairs"]
    ordered = [data.encoder.decode(row["response_ids"][index]) for index in (better, worse)]
    assert [text.strip() for text in ordered] == [text.strip() for text in responses]


@pytest.mark.parametrize(
    ("preset", "rows", "first"),
    [
        ("alpaca", 2, ("name a colour.", "blue.")),  # the third answer is empty
        ("dolly", 2, ("the bridge was built long ago.", "long ago.")),
        ("oasst2", 2, ("how far?", "very far away.")),
    ],
)
def test_demonstrations(preset: str, rows: int, first: tuple[str, str], encoder: Encoder) -> None:
    data = data_of(preset, encoder)
    assert len(data.train_rows) == rows
    row = data.train_rows[0]
    prompt = encoder.tokenizer.decode(row["input_ids"][: row["prompt_length"]])
    assert first[0] in prompt
    assert data.encoder.decode(row["input_ids"][row["prompt_length"] :]).strip() == first[1]


@pytest.mark.parametrize(
    ("preset", "rows", "first"),
    [
        ("tldr_prompts", 2, "i read a long book."),
        ("alpaca_prompts", 3, "name a colour."),
        ("oasst2_prompts", 2, "what is a star?"),
    ],
)
def test_prompts(preset: str, rows: int, first: str, encoder: Encoder) -> None:
    data = data_of(preset, encoder)
    assert len(data.train_rows) == rows
    assert first in encoder.tokenizer.decode(data.train_rows[0]["input_ids"])


def test_wikitext_is_articles(encoder: Encoder) -> None:
    data = data_of("wikitext", encoder, block_size=8)
    assert data.counts["documents"] == 2


def test_c4_is_streamed(encoder: Encoder) -> None:
    data = data_of("c4", encoder, block_size=12, shuffle_buffer=1)
    (block,) = data.train_rows.take(1)
    assert encoder.tokenizer.decode(block["input_ids"]) == "a page about"


def test_every_preset_is_tried() -> None:
    tried = {
        *("hh_rlhf", "summarize_from_feedback", "ultrafeedback", "helpsteer2", "oasst2_comparisons"),
        *("alpaca", "dolly", "oasst2", "tldr_prompts", "alpaca_prompts", "oasst2_prompts", "wikitext", "c4"),
    }
    assert set(PRESETS) == tried
