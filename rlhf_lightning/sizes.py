"""Sizes and rates of a stage that cannot be, found in its config before anything is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import PPOModule
from rlhf_lightning.modules.ppo_checks import check_batch_sizes, check_settings

PPO = ("rlhf_lightning.PPOModule", "rlhf_lightning.modules.PPOModule", "rlhf_lightning.modules.ppo.PPOModule")
AT_LEAST_ONE = (
    "data.batch_size",
    "data.rollout_batch_size",
    "data.iterations",
    "data.ptx_ratio",
    "data.max_length",
    "data.max_prompt_length",
    "module.minibatch_size",
    "module.micro_batch_size",
    "module.micro_batch_tokens",
    "model.lora.rank",
    "trainer.devices",
    "trainer.num_nodes",
)
AT_LEAST_ZERO = (
    "module.learning_rate",
    "module.value_learning_rate",
    "module.weight_decay",
    "module.warmup_steps",
    "module.warmup_iterations",
    "module.schedule_floor",
    "data.num_workers",
)
POSITIVE = ("module.clip", "module.value_clip", "module.max_grad_norm", "module.target_kl")


def check_sizes(stage: Mapping[str, Any]) -> None:
    """Refuse numbers that are out of their range, and batch sizes that do not divide.

    Args:
        stage: the resolved config of one stage, whose values are of the right kinds.

    Raises:
        UserError: names the key, its value and what it must be.
    """
    ranges: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
        (AT_LEAST_ONE, lambda number: number >= 1, "at least 1"),
        (AT_LEAST_ZERO, lambda number: number >= 0, "at least 0"),
        (POSITIVE, lambda number: number > 0, "positive"),
    )
    for keys, fits, wording in ranges:
        for key in keys:
            value = _value(stage, key)
            of_all = key == "trainer.devices" and value == -1  # every device of the machine
            if isinstance(value, int | float) and not fits(value) and not of_all:
                raise UserError(f"{key}={value} must be {wording}")
    module, data = stage["module"], stage["data"]
    if module.get("_target_") in PPO:
        defaults = {name: one.default for name, one in inspect.signature(PPOModule).parameters.items()}
        module = {**defaults, **module}
        check_settings(module)
        episodes, ratio = data.get("rollout_batch_size"), data.get("ptx_ratio")
        if episodes is None:  # data of a user's own
            return
        text_rows = None if ratio is None or data.get("text") is None else episodes * ratio
        check_batch_sizes(episodes=episodes, minibatch_size=module["minibatch_size"], text_rows=text_rows)


def _value(node: Any, key: str) -> Any:
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
