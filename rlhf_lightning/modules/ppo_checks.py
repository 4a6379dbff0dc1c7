"""What a PPO run is refused for, before or in its first iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.functional import masked_mean
from rlhf_lightning.models import (
    RewardModelScorer,
    SharedReward,
    check_own,
    check_vocabulary,
    warn_of_ignored_sampling,
)
from rlhf_lightning.modules.batching import check_micro_batch
from rlhf_lightning.modules.context import check_context
from rlhf_lightning.modules.padding_free import check_without_padding
from rlhf_lightning.modules.trajectory import Trajectory

if TYPE_CHECKING:
    from rlhf_lightning.modules.experience import OldLogprobs
    from rlhf_lightning.modules.ppo import PPOModule

MISSING_EOS = ("keep", "subtract", "set", "drop")
KL_ESTIMATORS = ("k1", "k2", "k3")
OLD_LOGPROBS = ("policy", "engine")
_ENGINE = ", or the engine samples something else (set module.old_logprobs=policy),"


def check_settings(settings: Mapping[str, Any]) -> None:
    """Values that cannot work whatever the data."""
    for name in ("max_new_tokens", "minibatch_size", "epochs"):
        if settings[name] < 1:
            raise UserError(f"module.{name}={settings[name]} must be at least 1")
    if settings["temperature"] <= 0:
        raise UserError(f"module.temperature={settings['temperature']} must be positive")
    if not 0 <= settings["gamma"] <= 1 or not 0 <= settings["lam"] <= 1:
        raise UserError(f"module.gamma={settings['gamma']} and module.lam={settings['lam']} must lie between 0 and 1")
    if settings["missing_eos"] not in MISSING_EOS:
        raise UserError(f"module.missing_eos={settings['missing_eos']!r} is none of {', '.join(MISSING_EOS)}")
    if settings["kl_estimator"] not in KL_ESTIMATORS:
        raise UserError(f"module.kl_estimator={settings['kl_estimator']!r} is none of {', '.join(KL_ESTIMATORS)}")
    if settings["old_logprobs"] not in OLD_LOGPROBS:
        raise UserError(f"module.old_logprobs={settings['old_logprobs']!r} is neither 'policy' nor 'engine'")
    if settings["roles"] not in ("separate", "shared"):
        raise UserError(f"module.roles={settings['roles']!r} is neither 'separate' nor 'shared'")
    minibatch, micro_batch = settings["minibatch_size"], settings["micro_batch_size"]
    check_micro_batch(micro_batch, settings["micro_batch_tokens"])
    if micro_batch is not None and minibatch % micro_batch:
        raise UserError(
            f"module.micro_batch_size={micro_batch} does not divide module.minibatch_size={minibatch}; "
            "change one of the two"
        )


def check_shares(minibatch_size: int, ranks: int) -> None:
    """Every rank takes an equal part of a minibatch."""
    if minibatch_size % ranks:
        raise UserError(
            f"module.minibatch_size={minibatch_size} cannot be shared by {ranks} processes; set it to a multiple of "
            f"{ranks}"
        )


def check_data(data: Any, *, minibatch_size: int) -> None:
    """The batch sizes that a data module announces, before any of its data is read."""
    episodes = getattr(data, "rollout_batch_size", None)
    if episodes is not None:
        text_rows = episodes * data.ptx_ratio if getattr(data, "text", None) else None
        check_batch_sizes(episodes=episodes, minibatch_size=minibatch_size, text_rows=text_rows)


def check_batch_sizes(*, episodes: int, minibatch_size: int, text_rows: int | None) -> None:
    """Whole minibatches of episodes, and pretraining text for each of them."""
    if episodes % minibatch_size:
        raise UserError(
            f"module.minibatch_size={minibatch_size} does not divide data.rollout_batch_size={episodes}; "
            "change one of the two"
        )
    minibatches = episodes // minibatch_size
    if text_rows is not None and text_rows % minibatches:
        raise UserError(
            f"{text_rows} pretraining rows an iteration (data.rollout_batch_size x data.ptx_ratio) do not divide into "
            f"{minibatches} minibatches; change data.ptx_ratio or module.minibatch_size"
        )


def check_start(module: PPOModule) -> None:
    """What is known once the roles are there and the data is set up.

    Raises:
        UserError: see :func:`check_roles`; prompts and responses longer than the policy's context; a policy that the
            engine cannot sample from; a role that ``padding_free`` rows cannot be read by.
    """
    check_roles(module.policy, module.reference, module.value, module.reward, module.encoder)
    data = getattr(module.trainer, "datamodule", None)
    check_context(module.policy, data, new_tokens=module.max_new_tokens, key="max_prompt_length")
    module.engine.check(module.policy)
    with module.trainer.precision_plugin.forward_context():
        check_without_padding(module)


def check_roles(
    policy: nn.Module, reference: nn.Module | None, value: nn.Module | None, reward: Any, encoder: Encoder
) -> None:
    """Every role that reads the policy's ids must have rows for them, and mean the same by them.

    A reward model with a tokenizer of its own reads text; a value model that starts from it would read ids that mean
    something else to it. Sampling settings of the policy's own that rollouts do not follow are warned of.

    Raises:
        UserError: a tokenizer larger than an embedding; a value model that starts from a reward model with another
            vocabulary; a reward adapter with another tokenizer or template; a policy of one's own that reads ahead.
    """
    warn_of_ignored_sampling(policy)
    if isinstance(reward, SharedReward):
        reward.check_tokenizer(encoder)
    check_vocabulary(policy, encoder, role="policy")
    check_own(policy, encoder, samples=False)
    if reference is not None:
        check_vocabulary(reference, encoder, role="reference")
    if value is None:
        return
    start = getattr(getattr(value, "model", None), "name_or_path", None)
    for scorer in (reward, *getattr(reward, "rewards", ())):
        other = isinstance(scorer, RewardModelScorer) and not scorer.shares_vocabulary(encoder)
        if other and start and scorer.model.model.name_or_path == start:
            raise UserError(
                f"module.value.name={start} is a reward model with another tokenizer than the policy's, so it cannot "
                "read the policy's ids; start the value model from the policy (module.value.name=POLICY "
                "module.value.head=new) or leave it out (module.value=null)"
            )
    check_vocabulary(getattr(value, "model", None), encoder, role="value model")


def check_reference_is_policy(trajectory: Trajectory, reference: nn.Module, old: OldLogprobs = "policy") -> None:
    """Before the first update the policy is the reference, so their log-probabilities must agree: up to rounding, where
    the reference is kept in half precision, or an engine computes otherwise under autocast."""
    exact = next(reference.parameters()).dtype == torch.float32
    if old == "engine":
        exact = exact and not torch.is_autocast_enabled(trajectory.mask.device.type)
    tolerance = 1e-2 if exact else 1e-1
    gap = float(masked_mean((trajectory.logprobs - trajectory.ref_logprobs).abs(), trajectory.mask))
    if not gap <= tolerance:
        raise UserError(
            f"before any update the policy differs from the reference by {gap:.3g} nats a token: dropout is on "
            f"(set model.dropout=0){_ENGINE if old == 'engine' else ''} or they are different models; "
            "module.check_reference=false if that is meant"
        )


def check_scores(scores: Any, episodes: int, device: torch.device) -> Tensor:
    """The reward's answer as a float tensor [b] on the policy's device."""
    found = torch.as_tensor(scores, dtype=torch.float32, device=device).detach()
    if found.shape != (episodes,):
        raise UserError(
            f"the reward gave shape {tuple(found.shape)} for {episodes} responses; it must give one number each"
        )
    if not bool(found.isfinite().all()):
        worst = int((~found.isfinite()).nonzero()[0])
        raise UserError(f"the reward gave {float(found[worst])} for response {worst} of {episodes}; it must be finite")
    return found.clone()
