"""What samples a rollout."""

from rlhf_lightning.models.engines.continuous import ContinuousEngine
from rlhf_lightning.models.engines.native import NativeEngine, generate

__all__ = ["ContinuousEngine", "NativeEngine", "generate"]
