"""What samples a rollout."""

from rlhf_lightning.models.engines.native import NativeEngine, generate

__all__ = ["NativeEngine", "generate"]
