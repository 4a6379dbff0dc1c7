"""Rewards as callables over text."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from rlhf_lightning.data import Encoder, Prompt
from rlhf_lightning.errors import UserError
from rlhf_lightning.functional import groups_of_like_length
from rlhf_lightning.models.fingerprints import weights_fingerprint
from rlhf_lightning.models.heads import ScalarModel
from rlhf_lightning.models.loading import load_scalar_model
from rlhf_lightning.models.quantization import Quantization
from rlhf_lightning.models.sharding import is_sharded, largest, shard
from rlhf_lightning.models.skeletons import as_reward
from rlhf_lightning.models.vocabulary import check_vocabulary

Reward = Callable[..., object]


def score_texts(
    reward: Callable[..., object], prompts: Sequence[Prompt], responses: Sequence[str], finished: Sequence[bool]
) -> object:
    """Call a reward; one that has an argument ``finished`` is told which responses ended by themselves.

    Args:
        reward: ``(prompts, responses)`` or ``(prompts, responses, finished)``, with ``finished`` by name.
        prompts, responses, finished: b entries each.

    Returns:
        What the reward gives, b numbers.
    """
    try:
        told = "finished" in inspect.signature(reward).parameters
    except ValueError:  # a callable of C shows no signature
        told = False
    return reward(prompts, responses, finished=finished) if told else reward(prompts, responses)


class RewardModelScorer:
    """A trained reward model as a callable ``(prompts, responses) -> scores [b]``.

    It encodes text with its own tokenizer, exactly as in reward training. Where the policy shares that tokenizer,
    PPO hands it token ids instead (:meth:`score_ids`), so that a response cut off before its EOS is seen as such.

    Args:
        name: the folder of a reward model.
        batch_size: sequences per forward pass.
        dtype, revision, attn_implementation, trust_remote_code, quantization: as in
            :func:`~rlhf_lightning.models.load_scalar_model`; the tokenizer is of the same revision.

    Raises:
        UserError: no model or tokenizer there, no score head, a tokenizer larger than the embedding.
    """

    def __init__(
        self,
        *,
        name: str,
        batch_size: int = 64,
        dtype: str = "float32",
        revision: str | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        quantization: Quantization | None = None,
    ) -> None:
        self.encoder = Encoder.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
        self.batch_size = batch_size
        self.source = functools.partial(
            load_scalar_model,
            name=name,
            head="pretrained",
            dtype=dtype,
            revision=revision,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            quantization=quantization,
        )
        with as_reward():
            self.model: ScalarModel = self.source()
        check_vocabulary(self.model.model, self.encoder, role="reward model")
        self.model.requires_grad_(False).eval()
        self._compared: tuple[Encoder, bool] | None = None

    def to(self, device: torch.device | str) -> RewardModelScorer:
        """Move the model to a device."""
        if not next(self.model.parameters()).is_meta:
            self.model.to(device)
        return self

    def shard(self, mesh: DeviceMesh) -> None:
        """Share the model's weights among processes (:func:`~rlhf_lightning.models.shard`)."""
        if not is_sharded(self.model):
            shard(self.model, mesh)

    def fingerprint(self) -> str:
        """Of the model's weights."""
        return weights_fingerprint(self.model)

    def shares_tokenizer(self, encoder: Encoder) -> bool:
        """Whether ids of ``encoder`` mean the same to this model, the chat template included."""
        if self._compared is None or self._compared[0] is not encoder:
            self._compared = encoder, self.encoder.fingerprint() == encoder.fingerprint()
        return self._compared[1]

    def shares_vocabulary(self, encoder: Encoder) -> bool:
        """Whether both tokenizers have the same tokens by the same ids, whatever their templates."""
        same: bool = self.encoder.tokenizer.get_vocab() == encoder.tokenizer.get_vocab()
        return same

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> Tensor:
        """Scores [b] of texts; ``finished`` says which responses ended by themselves (all by default). A prompt is a
        text or a conversation."""
        ended = [True] * len(responses) if finished is None else [bool(f) for f in finished]
        sequences = [
            [*itertools.chain(*self.encoder.example(prompt, response, finished=end))]
            for prompt, response, end in zip(prompts, responses, ended, strict=True)
        ]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        input_ids = torch.full((len(sequences), int(lengths.max())), self.encoder.pad_token_id)
        for row, sequence in enumerate(sequences):
            input_ids[row, : len(sequence)] = torch.tensor(sequence)
        return self.score_ids(input_ids, lengths)

    @torch.no_grad()
    def score_ids(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores [b] of right-padded token ids [b, s], a prompt and its response in one row."""
        device = next(self.model.parameters()).device
        if device.type == "meta":  # a reward around this one did not shard it
            self.model = self.source().requires_grad_(False).eval().to(input_ids.device)
            device = input_ids.device
        sharded = is_sharded(self.model)
        return score_by_length(
            self.model.score, input_ids.to(device), lengths.to(device), self.batch_size, in_step=sharded
        )


def score_by_length(
    score: Callable[[Tensor, Tensor], Tensor],
    input_ids: Tensor,
    lengths: Tensor,
    batch_size: int,
    *,
    in_step: bool = False,
) -> Tensor:
    """Scores [b], float32, of right-padded token ids [b, s], at most ``batch_size`` at a time; neighbours in length
    share a batch, so that little of it is padding. With ``in_step`` a process with fewer batches than another scores
    its last one again until both have made equally many."""
    scores = torch.empty(len(lengths), dtype=torch.float32, device=input_ids.device)
    known = lengths.cpu()  # asked once, and not in every batch
    # A pass of a sharded model gathers its weights.
    batches = groups_of_like_length(known, rows=batch_size, few=in_step)
    if in_step:
        batches += [batches[-1]] * (largest(len(batches)) - len(batches))
    for rows in batches:
        scores[rows] = score(input_ids[rows, : int(known[rows].max())], lengths[rows]).float()
    return scores


class WeightedSum:
    """Several rewards as one: ``Σ_i w_i · reward_i(prompts, responses)``. What is known of the responses' ends is
    passed on to the rewards that ask for it (:func:`score_texts`).

    Args:
        rewards: callables over text.
        weights: as many numbers.
    """

    def __init__(self, *, rewards: Sequence[Reward], weights: Sequence[float]) -> None:
        if len(rewards) != len(weights) or not rewards:
            raise UserError(f"{len(rewards)} rewards need as many weights, got {len(weights)}")
        self.rewards = list(rewards)
        self.weights = [float(weight) for weight in weights]

    def to(self, device: torch.device | str) -> WeightedSum:
        """Move the rewards that can be moved."""
        for reward in self.rewards:
            if hasattr(reward, "to"):
                reward.to(device)
        return self

    def shard(self, mesh: DeviceMesh) -> None:
        """Share the weights of the rewards that have some among processes."""
        for reward in self.rewards:
            if hasattr(reward, "shard"):
                reward.shard(mesh)

    def fingerprint(self) -> str:
        """Of those rewards that have one, with all weights."""
        own = [getattr(reward, "fingerprint", None) for reward in self.rewards]
        known = [str(make()) for make in own if callable(make)]
        return " ".join([*known, *map(str, self.weights)])

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> Tensor:
        """Weighted scores [b]; ``finished`` as in :class:`RewardModelScorer`."""
        ended = [True] * len(responses) if finished is None else finished
        parts = [
            weight * torch.as_tensor(score_texts(reward, prompts, responses, ended), dtype=torch.float32).cpu()
            for weight, reward in zip(self.weights, self.rewards, strict=True)
        ]
        return torch.stack(parts).sum(0)
