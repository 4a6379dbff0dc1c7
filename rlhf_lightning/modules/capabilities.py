"""What works with what, as a table that is read before any weights are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf_lightning.errors import UserError

STRATEGIES = ("auto", "ddp", "fsdp2", "fsdp", "deepspeed_2", "deepspeed_3")
ANSWERS: dict[str, tuple[Any, ...]] = {
    "strategy": STRATEGIES,
    "lora": (False, True),
    "quantization": (None, "int8", "nf4"),
    "roles": ("separate", "shared"),
    "clipping": (False, True),
    "optimizer": ("AdamW", "Muon", "adamw8bit"),
}
"""The questions of the table and what can be answered."""


class Refusal(NamedTuple):
    """A part of the table that cannot work.

    Args:
        when: question -> the answers that it takes, all together.
        reason: why.
        instead: the nearest that works, as what to set.
    """

    when: Mapping[str, tuple[Any, ...]]
    reason: str
    instead: str


REFUSED: tuple[Refusal, ...] = (
    Refusal(
        {"strategy": ("fsdp",)},
        "the first FSDP gathers weights in the forward pass of its wrapper alone, and PPO reads the parts of several "
        "models between their passes; Lightning and torch run it on GPUs only, where nothing of it was tried",
        "strategy=fsdp2",
    ),
    Refusal(
        {"strategy": ("deepspeed_2", "deepspeed_3")},
        "DeepSpeed's engine takes the backward pass, the clipping and the step of one loss into its own hands, and an "
        "update here sums the losses of several roles into one step; Lightning runs it on CUDA GPUs only, where "
        "nothing of it was tried",
        "strategy=fsdp2",
    ),
    Refusal(
        {"lora": (False,), "quantization": ("int8", "nf4")},
        "weights of 8 or 4 bits cannot be trained",
        "model/lora=default, or model/quantization=none",
    ),
    Refusal(
        {"lora": (False,), "roles": ("shared",)},
        "roles share a base through adapters on it",
        "model/lora=default, or module.roles=separate",
    ),
    Refusal(
        {"strategy": ("fsdp2",), "quantization": ("int8", "nf4")},
        "the packed weights of bitsandbytes cannot be cut into shards",
        "strategy=ddp",
    ),
    Refusal(
        {"strategy": ("fsdp2",), "optimizer": ("Muon",)},
        "Muon orthogonalises whole matrices, and a process has a part of each",
        "optimizer=adamw, or strategy=ddp",
    ),
    Refusal(
        {"strategy": ("fsdp2",), "optimizer": ("adamw8bit",)},
        "the 8-bit optimizer of bitsandbytes does not know sharded weights",
        "optimizer=adamw, which is sharded too, or strategy=ddp",
    ),
)
"""Clipping, the roles of PPO and the optimizers work with every strategy that is not refused here: the norm of a role
is taken over all processes."""

_KEYS = {"quantization": "model/quantization", "roles": "module.roles"}
_CLASSES = {
    "DDPStrategy": "ddp",
    "fsdp2_strategy": "fsdp2",
    "ModelParallelStrategy": "fsdp2",
    "FSDPStrategy": "fsdp",
}


def refusal(**choice: Any) -> Refusal | None:
    """The first part of the table that ``choice`` falls into; questions that it does not answer refuse nothing."""
    for refused in REFUSED:
        if all(question in choice and choice[question] in taken for question, taken in refused.when.items()):
            return refused
    return None


def check_capabilities(**choice: Any) -> None:
    """Refuse a combination that cannot work.

    Args:
        choice: answers to some of the questions of ``ANSWERS``.

    Raises:
        UserError: names the combination, the reason and the nearest that works.
    """
    refused = refusal(**choice)
    if refused is not None:
        named = " with ".join(_shown(question, choice[question]) for question in refused.when)
        raise UserError(f"{named} is not possible: {refused.reason}; use {refused.instead}")


def _shown(question: str, answer: Any) -> str:
    """An answer as one gives it on the command line."""
    if question == "lora":
        return f"model/lora={'default' if answer else 'off'}"
    return f"{_KEYS.get(question, question)}={str(answer).lower()}"


def strategy_name(strategy: Any) -> str:
    """The name in the table of a Lightning strategy: of its class, of a config node that makes it, or Lightning's own
    name for it. What the table does not know is given back as it is."""
    if isinstance(strategy, str):
        found = re.match(
            "ddp|fsdp|deepspeed(_stage_3)?", strategy
        )  # with what Lightning hangs on: _spawn, _cpu_offload
        if found is None:
            return strategy
        return {"deepspeed": "deepspeed_2", "deepspeed_stage_3": "deepspeed_3"}.get(found[0], found[0])
    if isinstance(strategy, Mapping):
        target, stage = str(strategy.get("_target_", "")).rpartition(".")[2], strategy.get("stage")
        if target == "str":
            return strategy_name(str(strategy["_args_"][0]))
    else:
        target = type(strategy).__name__
        stage = getattr(strategy, "config", {}) or {}
        stage = stage.get("zero_optimization", {}).get("stage") if isinstance(stage, Mapping) else None
    if target == "DeepSpeedStrategy":
        return f"deepspeed_{3 if stage == 3 else 2}"
    return _CLASSES.get(target, target)
