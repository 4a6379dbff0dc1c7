"""Sweep overrides of Hydra as distributions of Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


def split_overrides(overrides: Sequence[Override]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """What is searched, by key, and the overrides that are the same in every trial; the last of a key counts.

    ``a,b``, ``choice(a, b)`` and what ``glob`` finds are categories, ``range(1, 9, 2)`` its numbers,
    ``interval(0.1, 1)`` real numbers, ``int(interval(1, 9))`` whole ones; ``tag(log, interval(...))`` is uniform in
    the logarithm.
    """
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            space[key] = distribution(override)
            fixed.pop(key, None)
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
            space.pop(key, None)
    return space, list(fixed.values())


def distribution(override: Override) -> BaseDistribution:
    """The distribution of one sweep override."""
    value: Any = override.value()  # of an interval, int(...) makes the ends whole
    if override.is_choice_sweep():
        words: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
        return CategoricalDistribution(words)
    if isinstance(value, RangeSweep):
        numbers = sorted(value.range())
        if all(isinstance(number, int) for number in numbers) and len(numbers) > 1:
            return IntDistribution(int(numbers[0]), int(numbers[-1]), step=int(numbers[1] - numbers[0]))
        return CategoricalDistribution(numbers)
    assert isinstance(value, IntervalSweep), override.input_line  # there is no other kind
    low: Any = value.start  # Hydra declares floats, and parses whole numbers as such
    high: Any = value.end
    log = "log" in value.tags
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)
