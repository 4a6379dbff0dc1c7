"""Options that do nothing in the chosen combination, as a table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

Config = Mapping[str, Any]


class Idle(NamedTuple):
    """Options that have no effect where ``when`` holds.

    Args:
        keys: of the options; what stands below one belongs to it.
        when: of the resolved config of a stage.
        reason: why, as one says it behind "has no effect:".
    """

    keys: tuple[str, ...]
    when: Callable[[Config], bool]
    reason: str


def _is(key: str, *values: Any) -> Callable[[Config], bool]:
    """Whether the config has ``key``, with one of the values."""

    def holds(config: Config) -> bool:
        found = value_of(config, key, missing := object())
        return found is not missing and any(found is value or found == value for value in values)

    return holds


def _all(*conditions: Callable[[Config], bool]) -> Callable[[Config], bool]:
    return lambda config: all(condition(config) for condition in conditions)


def _not(condition: Callable[[Config], bool]) -> Callable[[Config], bool]:
    return lambda config: not condition(config)


def _micro_batch_of_all(config: Config) -> bool:
    micro, batch = (value_of(config, key, None) for key in ("module.micro_batch_size", "data.batch_size"))
    return isinstance(micro, int) and isinstance(batch, int) and micro > batch


TEXT = ("text_block", "document_eos", "sample_by", "min_characters")
IDLE: tuple[Idle, ...] = (
    Idle(
        ("module.ptx_coef",),
        _all(_is("data.text", None), _not(_is("module.ptx_coef", 0, 0.0))),  # what is off beside it is no surprise
        "data.text=null gives no pretraining text",
    ),
    Idle(
        tuple(f"data.{key}" for key in (*TEXT, "ptx_ratio", "text_share", "text_streaming", "text_shuffle_buffer")),
        _is("data.text", None),
        "data.text=null gives no pretraining text",
    ),
    Idle(
        ("data.text",),
        _all(_is("module.ptx_coef", 0, 0.0), _not(_is("data.text", None))),
        "module.ptx_coef=0 takes nothing of its gradient",
    ),
    Idle(("data.text_shuffle_buffer",), _is("data.text_streaming", False), "data.text_streaming=false reads no stream"),
    Idle(("data.shuffle_buffer",), _is("data.streaming", False), "data.streaming=false reads no stream"),
    Idle(
        ("module.value_clip", "module.value_coef", "module.value_learning_rate"),
        _is("module.value", None),
        "module.value=null: there is no value model",
    ),
    Idle(
        ("module.missing_eos_penalty",),
        _is("module.missing_eos", "keep", "drop"),
        "module.missing_eos takes no penalty",
    ),
    Idle(
        ("module.target_kl",), _is("module.epochs", 1), "module.epochs=1 makes no further pass that it could leave out"
    ),
    Idle(
        ("module.schedule_floor",),
        _all(_is("module.schedule", "constant"), _is("module.warmup_steps", 0)),
        "module.schedule=constant without module.warmup_steps never leaves the rate",
    ),
    Idle(
        ("module.schedule_floor",),
        _is("module.warmup_iterations", 0),
        "module.warmup_iterations=0: there is no warm-up",
    ),
    Idle(("module.center",), _is("data.demonstrations", None), "data.demonstrations=null: nothing to centre on"),
    Idle(("module.micro_batch_size",), _micro_batch_of_all, "a batch has no more than data.batch_size rows"),
    Idle(
        ("model.frozen_dtype",),
        _all(_is("model.lora", {}, None), lambda config: value_of(config, "module.kl_coef", None) is None),
        "without model/lora=default nothing of the model is frozen",
    ),
    Idle(
        ("data.overlong",),
        _all(_is("data.max_length", None), lambda config: value_of(config, "data.packing", None) is None),
        "data.max_length=null sets no limit",
    ),
    Idle(("data.overlong",), _is("data.max_prompt_length", None), "data.max_prompt_length=null sets no limit"),
    Idle(
        ("data.hygiene.min_common_prefix",),
        _is("data.hygiene.deduplicate", False),
        "data.hygiene.deduplicate=false drops no duplicates",
    ),
    Idle(
        ("callbacks.checkpoint.mode", "callbacks.checkpoint.keep_best"),
        _is("callbacks.checkpoint.monitor", None),
        "callbacks.checkpoint.monitor=null: no metric says which are best",
    ),
    Idle(
        ("trainer.limit_val_batches", "trainer.val_check_interval", "trainer.check_val_every_n_epoch"),
        _all(_is("data.validation", None), lambda config: not value_of(config, "data.hygiene.validation_fraction", 0)),
        "data.validation=null: there is nothing to validate on",
    ),
)


def without_effect(config: Config, given: Collection[str]) -> Iterator[str]:
    """A sentence for each option among ``given`` that does nothing.

    Args:
        config: of one stage, resolved.
        given: keys that the user has set.
    """
    told = set()
    for idle in IDLE:
        if not idle.when(config):
            continue
        for key in given:
            known = value_of(config, key, missing := object()) is not missing
            if known and key not in told and any(key == one or key.startswith(f"{one}.") for one in idle.keys):
                told.add(key)
                yield f"{key}={_shown(value_of(config, key, None))} has no effect: {idle.reason}"


def value_of(config: Any, key: str, default: Any) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return default
        config = config[part]
    return config


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
