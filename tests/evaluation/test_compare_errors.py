from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import compare, evaluate_models


def _broken(change: Mapping[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments | {key: arguments["models"] | value if key == "models" else value for key, value in change.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "sfx"}, r"baseline=sfx is none of the models \(base_prompted, ppo, sft\)"),
        ({"baseline": "base_prompted"}, r"models\.base_prompted\.prefix: the baseline"),
        ({"models": {"ppo": {"nam": "x"}}}, r"models\.ppo needs `name`"),
        ({"models": {"ppo": {"name": "x", "prefx": "y"}}}, r"models\.ppo needs `name`"),
        ({"models": {"base": {"name": "x", "prefix": "absent.txt"}}}, r"models\.base\.prefix=absent\.txt does not"),
        ({"limit": 0}, "limit=0"),
        ({"prompts": "absent.jsonl"}, r"absent\.jsonl does not exist"),
        ({"comparisons": "absent.jsonl"}, r"absent\.jsonl does not exist"),
    ],
)
def test_errors_come_before_any_sampling(
    arguments: dict[str, Any], change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(compare, "sample_responses")
    with pytest.raises(UserError, match=message):
        evaluate_models(**_broken(change, arguments))
