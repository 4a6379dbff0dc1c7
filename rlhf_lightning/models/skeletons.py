"""Loading weights once for all processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar, cast

import torch.distributed as dist

Value = TypeVar("Value")

_SKELETON: ContextVar[bool] = ContextVar("skeleton", default=False)
_REWARD_OF_FIRST: ContextVar[bool] = ContextVar("reward_of_first", default=False)


@contextlib.contextmanager
def loaded_by_first(sharded: bool) -> Iterator[None]:
    """Within it, if what is made is to be sharded, only the first process loads weights; on the others the loaders
    make meta tensors, which :func:`~rlhf_lightning.models.shard` fills. Models that are not made by this package's
    loaders are made in full by everyone."""
    token = _SKELETON.set(sharded and dist.is_initialized() and dist.get_rank() > 0)
    try:
        yield
    finally:
        _SKELETON.reset(token)


@contextlib.contextmanager
def reward_of_first(rank: int, sharded: bool) -> Iterator[None]:
    """Within it a :class:`~rlhf_lightning.models.RewardModelScorer` of a process that is not the first makes meta
    tensors, which :func:`~rlhf_lightning.models.shard` fills: a reward is made before the processes are connected, when
    only who starts them knows their ranks and whether weights will be sharded."""
    token = _REWARD_OF_FIRST.set(sharded and rank > 0)
    try:
        yield
    finally:
        _REWARD_OF_FIRST.reset(token)


@contextlib.contextmanager
def as_reward() -> Iterator[None]:
    """Within it what :func:`reward_of_first` says holds for the loaders."""
    token = _SKELETON.set(_REWARD_OF_FIRST.get())
    try:
        yield
    finally:
        _SKELETON.reset(token)


def from_first(sharded: bool, read: Callable[[], Value]) -> Value:
    """What the first process reads from weights that it alone may have, on every process; if nothing is sharded,
    what each reads."""
    if not sharded:
        return read()
    found = [read() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0)
    return cast("Value", found[0])


def skeleton_wanted() -> bool:
    """Whether this process is to make models without weights."""
    return _SKELETON.get()
