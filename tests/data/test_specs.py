from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhf_lightning.data.specs import Spec, specs_of
from rlhf_lightning.errors import UserError


def test_a_path_a_mapping_and_lists_of_both() -> None:
    assert specs_of("a.jsonl") == [Spec(path="a.jsonl")]
    assert specs_of(Path("a.jsonl")) == [Spec(path="a.jsonl")]
    assert specs_of({"hub": "x/y", "config": "c", "revision": None}) == [Spec(hub="x/y", config="c", split="train")]
    assert specs_of(["a.jsonl", {"path": "b.csv", "weight": 2}]) == [
        Spec(path="a.jsonl"),
        Spec(path="b.csv", weight=2),
    ]


def test_what_hydra_makes_of_a_command_line_is_understood() -> None:
    node = OmegaConf.create({"train": [{"path": "a.jsonl", "columns": {"prompt": "q", "responses": ["x", "y"]}}]})
    assert specs_of(node.train) == [Spec(path="a.jsonl", columns={"prompt": "q", "responses": ["x", "y"]})]


def test_names_say_config_and_split() -> None:
    specs = specs_of(["a.jsonl", {"hub": "x/y", "config": "c", "split": "test"}, {"hub": "x/y"}])
    assert [spec.name for spec in specs] == ["a.jsonl", "x/y (config c, split test)", "x/y (split train)"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "empty list of data files: name at least one"),
        (5, "5 is no source of data: give a path or a mapping of path, hub, config"),
        ({"path": "a", "hub": "b"}, "has both path and hub: give one of them"),
        ({"weight": 2}, "has neither path nor hub"),
        ({"path": "a", "wieght": 2}, "no field 'wieght': the fields are path, hub"),
        ({"path": "a", "split": "test"}, "a: split belongs to a hub dataset"),
        ({"path": "a", "weight": 0}, "a: weight must be a positive number, not 0"),
        ({"path": "a", "weight": float("nan")}, "a: weight must be a positive number, not nan"),
        ({"path": "a", "weight": float("inf")}, "a: weight must be a positive number, not inf"),
        ({"path": "a", "weight": "much"}, "a: weight must be a positive number, not 'much'"),
        ({"path": "a", "columns": "x"}, "a: columns must be a mapping, not 'x'"),
    ],
)
def test_what_is_no_source_is_told(files: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        specs_of(files)  # type: ignore[arg-type]  # wrong on purpose
    assert message in str(error.value)
