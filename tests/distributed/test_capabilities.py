"""The table of what works with what: what it lets pass trains, and it says of the rest what to do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from rlhf_lightning.errors import UserError
from rlhf_lightning.modules.capabilities import ANSWERS, check_capabilities, refusal, strategy_name

# Cells that are let pass and that a CPU can run with two processes; those of one are tested where the feature is.
CELLS: dict[str, dict[str, Any]] = {
    f"{strategy}-{'-'.join(str(value) for value in options.values())}": {"strategy": strategy, **options}
    for strategy, options in [
        ("ddp", {"clipping": False}),
        ("ddp", {"optimizer": "Muon"}),
        ("ddp", {"optimizer": "adamw8bit"}),
        ("ddp", {"lora": True, "quantization": None, "roles": "separate"}),
        ("ddp", {"lora": True, "quantization": None, "roles": "shared"}),
        ("ddp", {"lora": True, "quantization": "int8", "roles": "separate"}),
        ("ddp", {"lora": True, "quantization": "int8", "roles": "shared"}),
        ("ddp", {"lora": True, "quantization": "nf4", "roles": "separate"}),
        ("ddp", {"lora": True, "quantization": "nf4", "roles": "shared"}),
        ("fsdp2", {"clipping": False}),
        ("fsdp2", {"lora": True, "roles": "separate"}),
        ("fsdp2", {"lora": True, "roles": "shared"}),
        ("fsdp2", {"lora": True, "roles": "shared", "clipping": False}),
        # An adapter in each of its forms.
        ("fsdp2", {"lora": {"rank": 4, "trainable_tokens": [5, 6]}, "roles": "shared"}),
        ("fsdp2", {"lora": {"rank": 4, "use_dora": True}, "roles": "shared"}),
        ("fsdp2", {"lora": {"rank": 4, "modules_to_save": ["embed_tokens"]}, "roles": "separate"}),
        ("fsdp2", {"lora": True, "roles": "shared", "activation_checkpointing": True}),
        ("fsdp2", {"lora": True, "roles": "shared", "dtype": "bfloat16"}),
    ]
}


@pytest.fixture(scope="session")
def cells(
    plan: Callable[..., dict[str, Any]], launch: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("cells")
    launch(2, [plan(name, "cell", **options) for name, options in CELLS.items()], out)
    return out


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_that_is_let_pass_trains(cells: Path, name: str) -> None:
    asked = {question: value for question, value in CELLS[name].items() if question in ANSWERS}
    asked |= {"lora": bool(asked.get("lora"))}
    assert refusal(**{question: answers[0] for question, answers in ANSWERS.items()} | asked) is None
    first, second = (torch.load(cells / f"{name}.{rank}.pt", weights_only=False) for rank in (0, 1))
    assert first["steps"] == second["steps"]
    assert all(math.isfinite(value) for step in first["steps"] for value in step.values())
    weights = [weight for weight in first["begin"] if "/" not in weight]
    moved = [weight for weight in weights if not torch.equal(first["begin"][weight], first["end"][weight])]
    assert any(weight.startswith("policy.") for weight in moved)
    assert any(weight.startswith("value.") or ".value." in weight for weight in moved)
    assert all(torch.equal(first["end"][weight], second["end"][weight]) for weight in weights)


def test_every_cell_is_let_pass_or_refused_with_a_way_out() -> None:
    """The whole table. What is refused leads, by what it says, to a cell that is not."""
    passed = 0
    for answers in itertools.product(*ANSWERS.values()):
        choice = dict(zip(ANSWERS, answers, strict=True))
        refused = refusal(**choice)
        if refused is None:
            passed += 1
            assert choice["strategy"] in ("auto", "ddp", "fsdp2")
            continue
        with pytest.raises(UserError, match="is not possible: .*; use "):
            check_capabilities(**choice)
        steps = 0
        while (refused := refusal(**choice)) is not None and steps < 5:
            choice |= _taken(refused.instead)
            steps += 1
        assert refused is None, choice
    # auto and ddp: without an adapter full weights and roles apart, with one all; fsdp2: the same with full weights
    # and AdamW.
    assert passed == 2 * (1 + 6) * 2 * 3 + (1 + 2) * 2


def _taken(instead: str) -> dict[str, Any]:
    """The first thing that a way out says, as answers."""
    key, _, value = instead.split(",")[0].partition("=")
    question = {"model/lora": "lora", "module.roles": "roles"}.get(key, key)
    return {question: {"default": True, "off": False, "adamw": "AdamW"}.get(value, value)}


def test_strategies_are_known_by_any_of_their_names() -> None:
    assert strategy_name("auto") == "auto"
    assert strategy_name("ddp_find_unused_parameters_true") == strategy_name(DDPStrategy()) == "ddp"
    assert strategy_name(ModelParallelStrategy()) == "fsdp2"
    assert strategy_name("fsdp_cpu_offload") == "fsdp"
    assert strategy_name("deepspeed") == "deepspeed_2"
    assert strategy_name("deepspeed_stage_3_offload") == "deepspeed_3"
    assert strategy_name({"_target_": "lightning.pytorch.strategies.DeepSpeedStrategy", "stage": 3}) == "deepspeed_3"
    assert strategy_name({"_target_": "builtins.str", "_args_": ["ddp"]}) == "ddp"
