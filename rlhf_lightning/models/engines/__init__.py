"""What samples a rollout."""

from rlhf_lightning.models.engines.continuous import ContinuousEngine
from rlhf_lightning.models.engines.native import NativeEngine, generate
from rlhf_lightning.models.engines.vllm import VllmEngine

__all__ = ["ContinuousEngine", "NativeEngine", "VllmEngine", "generate"]
