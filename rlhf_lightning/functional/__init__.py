"""The mathematics of RLHF: pure functions of tensors, no state, no Lightning, no transformers."""

from rlhf_lightning.functional.centering import centering_direction
from rlhf_lightning.functional.gae import generalized_advantage_estimation
from rlhf_lightning.functional.grouping import group_sizes, groups_of_like_length
from rlhf_lightning.functional.kl import adaptive_kl_coef, kl_estimate, ratio_statistics
from rlhf_lightning.functional.logprobs import head_logprobs, selected_logprobs
from rlhf_lightning.functional.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    cross_entropy,
    ranking_loss,
)
from rlhf_lightning.functional.masking import (
    explained_variance,
    masked_mean,
    masked_moments,
    masked_sum,
    masked_whiten,
)
from rlhf_lightning.functional.newton_schulz import newton_schulz
from rlhf_lightning.functional.prompt_trees import PromptTrees, prompt_trees
from rlhf_lightning.functional.rewards import missing_eos_scores, per_token_rewards
from rlhf_lightning.functional.sampling import sample_tokens
from rlhf_lightning.functional.schedules import constant_with_warmup, cosine_decay

__all__ = [
    "PromptTrees",
    "adaptive_kl_coef",
    "centering_direction",
    "clipped_policy_loss",
    "clipped_value_loss",
    "constant_with_warmup",
    "cosine_decay",
    "cross_entropy",
    "explained_variance",
    "generalized_advantage_estimation",
    "group_sizes",
    "groups_of_like_length",
    "head_logprobs",
    "kl_estimate",
    "masked_mean",
    "masked_moments",
    "masked_sum",
    "masked_whiten",
    "missing_eos_scores",
    "newton_schulz",
    "per_token_rewards",
    "prompt_trees",
    "ranking_loss",
    "ratio_statistics",
    "sample_tokens",
    "selected_logprobs",
]
