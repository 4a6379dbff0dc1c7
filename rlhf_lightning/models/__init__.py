"""Everything that knows transformers: loading, forward passes, generation, scoring, export."""

from rlhf_lightning.models.context import context_length
from rlhf_lightning.models.export import save_model_folder, weights_fingerprint
from rlhf_lightning.models.forward import TokenLogprobs, hidden_states
from rlhf_lightning.models.generation import Generation, generate
from rlhf_lightning.models.heads import ScalarModel
from rlhf_lightning.models.loading import load_causal_lm, load_scalar_model
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.scoring import RewardModelScorer, WeightedSum

__all__ = [
    "Generation",
    "RewardModelScorer",
    "ScalarModel",
    "TokenLogprobs",
    "WeightedSum",
    "context_length",
    "generate",
    "generation_mode",
    "hidden_states",
    "load_causal_lm",
    "load_scalar_model",
    "save_model_folder",
    "weights_fingerprint",
]
