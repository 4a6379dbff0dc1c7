"""PPO's passes over rows without padding (``module.padding_free=true``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlhf_lightning.models import PaddingFreeLogprobs, PaddingFreeValues

if TYPE_CHECKING:
    from rlhf_lightning.modules.ppo import PPOModule

_READERS = ("_policy_logprobs", "_text_logprobs", "_reference_logprobs")


def read_without_padding(module: PPOModule) -> None:
    """Let the roles of a module that has just been configured read rows without padding, if it is to.

    Raises:
        UserError: a value model that cannot.
    """
    if not module.padding_free:
        return
    for name in _READERS:
        setattr(module, name, PaddingFreeLogprobs(getattr(module, name)))
    if module.value is not None:
        module._padding_free_values = PaddingFreeValues(module.value)


def check_without_padding(module: PPOModule) -> None:
    """Try it on a few tokens before anything is trained.

    Raises:
        UserError: a role that would let sequences of a row see each other.
    """
    readers: list[Any] = [*(getattr(module, name) for name in _READERS), module._padding_free_values]
    for reader in readers:
        if isinstance(reader, PaddingFreeLogprobs | PaddingFreeValues):
            reader.check()
