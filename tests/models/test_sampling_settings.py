from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.data import Encoder, collate_prompts
from rlhf_lightning.evaluation.collecting import collect_comparisons
from rlhf_lightning.models import (
    TokenLogprobs,
    generate,
    ignored_sampling_settings,
    load_causal_lm,
    save_model_folder,
    warn_of_ignored_sampling,
)
from rlhf_lightning.modules.trajectory import join, response_targets

CHANGING: dict[str, Any] = {
    "temperature": 0.6,
    "top_k": 2,
    "top_p": 0.5,
    "min_p": 0.1,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": [5, 6, 7],
    "begin_suppress_tokens": [8],
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 0,
    "bad_words_ids": [[4]],
    "sequence_bias": [[[3], -10.0]],
    "min_new_tokens": 3,
    "exponential_decay_length_penalty": [2, 1.5],
    "num_beams": 4,
    "guidance_scale": 1.5,
    "stop_strings": ["a"],
}
HARMLESS = {"do_sample": True, "max_new_tokens": 7, "use_cache": True, "eos_token_id": [0, 7], "bos_token_id": 2}


@pytest.fixture
def folder(model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    copied = Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))
    (copied / "generation_config.json").write_text(json.dumps(CHANGING | HARMLESS))
    return copied


def test_what_changes_the_distribution_is_named_and_nothing_else(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_causal_lm(name=str(folder))
    assert ignored_sampling_settings(model).keys() == CHANGING.keys()
    with caplog.at_level(logging.WARNING):
        warn_of_ignored_sampling(model)
    (record,) = caplog.records
    assert "temperature=0.6, top_k=2, top_p=0.5, min_p=0.1" in record.getMessage()
    assert all(f"{name}=" in record.getMessage() for name in CHANGING)
    assert not any(f" {name}=" in record.getMessage() for name in HARMLESS)


@pytest.mark.parametrize("name", CHANGING)
def test_every_setting_alone(model_folder: Callable[..., Path], name: str) -> None:
    model = load_causal_lm(name=str(model_folder("llama")))
    assert ignored_sampling_settings(model) == {}
    setattr(model.generation_config, name, CHANGING[name])
    assert ignored_sampling_settings(model) == {name: CHANGING[name]}


def test_settings_of_an_old_config_json_are_found_too(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    copied = Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))
    (copied / "generation_config.json").unlink()
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"repetition_penalty": 1.3}))
    assert ignored_sampling_settings(load_causal_lm(name=str(copied))) == {"repetition_penalty": 1.3}


def test_samples_and_training_see_the_distribution_of_a_model_without_settings(
    folder: Path, model_folder: Callable[..., Path], encoder: Encoder
) -> None:
    """The same samples from the same noise, and log-probabilities that are those of a plain forward pass."""
    rows = [{"input_ids": encoder.prompt(text), "prompt": text} for text in ("hi", "name a cat", "why")] * 20
    prompts = collate_prompts(rows, pad_id=1)
    found = []
    for name in (folder, model_folder("llama")):
        model = load_causal_lm(name=str(name))
        generator = torch.Generator().manual_seed(3)
        sampled = generate(
            model,
            prompts.input_ids,
            prompts.lengths,
            max_new_tokens=10,
            eos_token_id=0,
            pad_token_id=1,
            generator=generator,
        )
        found.append(sampled)
    assert torch.equal(found[0].response_ids, found[1].response_ids)
    assert found[0].response_ids.unique().numel() > 20  # no top-k of 2
    ids = join(prompts, found[0], 1)
    model = load_causal_lm(name=str(folder))
    targets = response_targets(prompts.lengths, found[0].lengths, ids.shape[1])
    trained, _ = TokenLogprobs(model)(ids, targets)
    expected = []
    for row in range(len(rows)):
        start, end = int(prompts.lengths[row]), int(prompts.lengths[row] + found[0].lengths[row])
        with torch.no_grad():
            plain = model(input_ids=ids[row : row + 1, :end], use_cache=False).logits[0].log_softmax(-1)
        expected.append(plain[torch.arange(start - 1, end - 1), ids[row, start:end]])
    torch.testing.assert_close(trained, torch.cat(expected), rtol=0, atol=1e-5)


def test_an_export_keeps_the_settings(folder: Path, encoder: Encoder, tmp_path: Path) -> None:
    model = load_causal_lm(name=str(folder))
    exported = json.loads((save_model_folder(model, encoder, tmp_path / "out") / "generation_config.json").read_text())
    assert {name: exported[name] for name in CHANGING | HARMLESS} == CHANGING | HARMLESS


def test_settings_that_transformers_calls_invalid_do_not_stop_an_export(
    folder: Path, encoder: Encoder, tmp_path: Path
) -> None:
    """A temperature without do_sample: published models have it, and transformers refuses to write it."""
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": False, "temperature": 0.6, "eos_token_id": 5})
    )
    model = load_causal_lm(name=str(folder))
    model.generation_config.top_p = 0.9
    exported = save_model_folder(model, encoder, tmp_path / "out")
    written = json.loads((exported / "generation_config.json").read_text())
    assert (written["do_sample"], written["temperature"], written["top_p"]) == (False, 0.6, 0.9)
    assert written["eos_token_id"] == 0  # where our responses end
    assert model.generation_config.temperature == 0.6


def test_collecting_warns_once(
    folder: Path, encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "hi"}\n{"prompt": "go"}\n')
    with caplog.at_level(logging.WARNING):
        collect_comparisons(
            policy=lambda: load_causal_lm(name=str(folder)),
            encoder=encoder,
            prompts=str(tmp_path / "prompts.jsonl"),
            labeler=lambda rows, texts: [{"ranks": list(range(len(own)))} for own in texts],
            out=tmp_path / "out",
            max_new_tokens=4,
        )
    assert sum("generation_config sets temperature=0.6" in record.getMessage() for record in caplog.records) == 1
