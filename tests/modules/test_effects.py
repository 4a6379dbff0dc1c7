"""Options that do nothing are named."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_lightning.modules.effects import without_effect

PPO: dict[str, Any] = {
    "model": {"lora": {}, "frozen_dtype": None},
    "module": {
        "ptx_coef": 27.8, "kl_coef": 0.02, "value": None, "value_clip": 0.2, "epochs": 1, "target_kl": 1.0,
        "missing_eos": "keep", "missing_eos_penalty": 1.0, "warmup_iterations": 10, "schedule_floor": 0.1,
    },
    "data": {"text": None, "ptx_ratio": 8, "validation": None, "max_prompt_length": None, "overlong": "drop"},
    "trainer": {"limit_val_batches": 2},
}  # fmt: skip
SFT: dict[str, Any] = {
    "model": {"lora": {}, "frozen_dtype": "bf16"},
    "module": {"schedule": "constant", "warmup_steps": 0, "schedule_floor": 0.1, "micro_batch_size": 64},
    "data": {"text": None, "batch_size": 32, "max_length": None, "packing": None, "overlong": "drop"},
    "callbacks": {"checkpoint": {"monitor": None, "keep_best": 2}},
}


@pytest.mark.parametrize(
    ("config", "key", "words"),
    [
        (PPO, "module.ptx_coef", "module.ptx_coef=27.8 has no effect: data.text=null"),
        (PPO, "data.ptx_ratio", "data.text=null"),
        (PPO, "module.value_clip", "module.value=null"),
        (PPO, "module.target_kl", "module.epochs=1"),
        (PPO, "module.missing_eos_penalty", "module.missing_eos"),
        (PPO, "data.overlong", "data.max_prompt_length=null"),
        (PPO, "trainer.limit_val_batches", "data.validation=null"),
        (SFT, "module.schedule_floor", "module.schedule=constant"),
        (SFT, "module.micro_batch_size", "data.batch_size"),
        (SFT, "model.frozen_dtype", "model/lora=default"),
        (SFT, "data.overlong", "data.max_length=null"),
        (SFT, "callbacks.checkpoint.keep_best", "callbacks.checkpoint.monitor=null"),
    ],
)
def test_what_does_nothing_is_named_with_the_reason(config: dict[str, Any], key: str, words: str) -> None:
    (line,) = without_effect(config, [key])
    assert line.startswith(f"{key}=")
    assert words in line


def test_what_does_something_or_was_not_set_is_not_named() -> None:
    assert not list(without_effect(PPO, ["module.schedule_floor", "module.kl_coef", "model.frozen_dtype"]))
    assert not list(without_effect(PPO, []))
    ptx = PPO | {"data": PPO["data"] | {"text": "corpus.jsonl"}}
    assert not list(without_effect(ptx, ["module.ptx_coef", "data.ptx_ratio"]))
    # Each is the reason why the other one does nothing, which says nothing to who has turned both off.
    off = PPO | {"module": PPO["module"] | {"ptx_coef": 0.0}}
    assert not list(without_effect(off, ["module.ptx_coef", "data.text"]))
    half = off | {"data": PPO["data"] | {"text": "corpus.jsonl"}}
    assert list(without_effect(half, ["data.text"])) == [
        "data.text=corpus.jsonl has no effect: module.ptx_coef=0 takes nothing of its gradient"
    ]
    packed = SFT | {"data": SFT["data"] | {"packing": 128}}
    assert not list(without_effect(packed, ["data.overlong"]))
