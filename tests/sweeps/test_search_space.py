"""Overrides of Hydra's sweeps as distributions of Optuna."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rlhf_lightning.sweeps.search_space import split_overrides


def split(*texts: str) -> tuple[dict[str, BaseDistribution], list[str]]:
    return split_overrides(OverridesParser.create().parse_overrides(list(texts)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2.5,word", CategoricalDistribution([1, 2.5, "word"])),
        ("choice(2,4,9)", CategoricalDistribution([2, 4, 9])),
        ("'[4,4]','[9,9]'", CategoricalDistribution(["'[4,4]'", "'[9,9]'"])),
        ("range(1,9,2)", IntDistribution(1, 7, step=2)),
        ("range(0,1,0.25)", CategoricalDistribution([0.0, 0.25, 0.5, 0.75])),
        ("interval(0.1,1)", FloatDistribution(0.1, 1.0)),
        ("interval(1,9)", FloatDistribution(1.0, 9.0)),
        ("int(interval(1,9))", IntDistribution(1, 9)),
        ("tag(log,interval(2.55e-6,2.55e-5))", FloatDistribution(2.55e-6, 2.55e-5, log=True)),
        ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
    ],
)
def test_each_kind_of_sweep(text: str, expected: BaseDistribution) -> None:
    space, fixed = split("a=b", f"module.x={text}")
    assert space == {"module.x": expected}
    assert fixed == ["a=b"]


def test_the_command_line_comes_last() -> None:
    assert split("x=interval(0,1)", "x=3") == ({}, ["x=3"])
    assert split("x=3", "x=1,2")[0] == {"x": CategoricalDistribution([1, 2])}
