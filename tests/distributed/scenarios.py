"""What the processes of test_*.py do; every function returns plain values and tensors that the tests compare."""

from cells import cell
from combinations import dropout, lonely_stop, mixed, own_data, target_kl
from sharded_runs import memory, staggered, traffic
from stage_runs import packed, ppo, reward, sft
from survival import resumable

__all__ = [
    "cell",
    "dropout",
    "lonely_stop",
    "memory",
    "mixed",
    "own_data",
    "packed",
    "ppo",
    "resumable",
    "reward",
    "sft",
    "staggered",
    "target_kl",
    "traffic",
]
