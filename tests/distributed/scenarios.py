"""What the processes of test_*.py do; every function returns plain values and tensors that the tests compare."""

from cells import cell
from sharded_runs import memory, staggered, traffic
from stage_runs import packed, ppo, reward, sft
from survival import resumable

__all__ = ["cell", "memory", "packed", "ppo", "resumable", "reward", "sft", "staggered", "traffic"]
