"""Settings of a model's ``generation_config`` that would take samples from another distribution than the model's.

PPO compares the probability of each sampled token with the one that the model gives it in training, so samples must
come from the model's own distribution. :func:`~rlhf_lightning.models.generate` reads nothing of ``generation_config``;
here is what it therefore leaves out, to be said once and not silently.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

log = logging.getLogger(__name__)

# Each setting with the values at which it has no effect; unset (None) never has one.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,),
    "top_k": (0,),
    "top_p": (1.0,),
    "min_p": (0.0,),
    "top_h": (),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "exponential_decay_length_penalty": (),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "stop_strings": ([],),
    "num_beams": (1,),
    "penalty_alpha": (0.0,),
    "guidance_scale": (1.0,),
    "dola_layers": (),
    "watermarking_config": (),
}


def ignored_sampling_settings(model: nn.Module) -> dict[str, Any]:
    """The settings of the model's ``generation_config`` that change the distribution of samples, with their values."""
    settings = getattr(model, "generation_config", None)
    values = {name: getattr(settings, name, None) for name in NEUTRAL}
    return {name: value for name, value in values.items() if value is not None and value not in NEUTRAL[name]}


def warn_of_ignored_sampling(model: nn.Module) -> None:
    """Log one warning that names :func:`ignored_sampling_settings`, if there are any. Exports keep them."""
    found = ignored_sampling_settings(model)
    if found:
        log.warning(
            "generation_config sets %s: not used here, since samples must come from the model's own distribution; "
            "exported models keep these settings",
            ", ".join(f"{name}={value}" for name, value in found.items()),
        )
