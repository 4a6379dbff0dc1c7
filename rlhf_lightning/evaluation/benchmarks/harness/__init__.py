"""lm-evaluation-harness (extra ``eval``) as benchmarks like the others."""

from rlhf_lightning.evaluation.benchmarks.harness.task import harness

__all__ = ["harness"]
