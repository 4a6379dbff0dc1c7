"""What a config may hold besides plain values of the annotated kind."""

from __future__ import annotations

import sys
import types

import pytest
from omegaconf import OmegaConf

from rlhf_lightning.arguments import check_arguments
from rlhf_lightning.errors import UserError
from rlhf_lightning.sizes import check_sizes


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a user's own class, whose annotations do not say that ``None`` is its default."""

    class Own:
        def __init__(self, every: int = None, name: str = "a") -> None:  # type: ignore[assignment]  # noqa: RUF013  # as users write
            self.every = every

    module = types.ModuleType("users_own")
    module.Own = Own  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users_own", module)
    return "users_own.Own"


@pytest.mark.parametrize("every", [None, 3, {"_target_": "builtins.int", "_args_": [3]}])
def test_defaults_and_values_that_are_made_fit(target: str, every: object) -> None:
    check_arguments(OmegaConf.create({"callback": {"_target_": target, "every": every}}))


def test_a_value_of_another_kind_does_not(target: str) -> None:
    with pytest.raises(UserError, match="callback.every=often must be a whole number"):
        check_arguments(OmegaConf.create({"callback": {"_target_": target, "every": "often"}}))


def test_sizes_that_are_left_out_have_the_defaults_of_the_class() -> None:
    stage = {
        "module": {"_target_": "rlhf_lightning.modules.PPOModule"},
        "data": {"rollout_batch_size": 64},
        "trainer": {},
    }
    check_sizes(stage)
    stage["data"] = {"rollout_batch_size": 65}  # the default minibatch is 64
    with pytest.raises(UserError, match="65"):
        check_sizes(stage)
    check_sizes({"module": {"_target_": "users_own.PPOModule", "lr": 1.0}, "data": {}, "trainer": {}})
