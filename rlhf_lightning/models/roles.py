"""Several roles on one base: each an adapter of its own, and a head where it gives scalars."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.adapters import load_adapter
from rlhf_lightning.models.export import BASE
from rlhf_lightning.models.fingerprints import base_fingerprint, weights_fingerprint
from rlhf_lightning.models.forward import hidden_states, last_states
from rlhf_lightning.models.heads import NEW_HEAD, check_trained_head
from rlhf_lightning.models.lora import ADAPTER, adapter_active, adapter_modules, has_adapters, require_peft
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.quantization import Quantization
from rlhf_lightning.models.scoring import RewardModelScorer, score_by_length
from rlhf_lightning.models.sharding import is_sharded, shard, through


class AdaptedScalar(nn.Module):
    """A scalar per token from a base that other roles use, too: hidden states under an adapter, then a linear head.

    It acts as a :class:`~rlhf_lightning.models.ScalarModel`. Of its parts only the head is a submodule; base and
    adapter belong to the policy.

    Args:
        base: a causal language model with the adapter.
        adapter: its name.
        head: from a hidden state to the scalar.
    """

    def __init__(self, base: nn.Module, adapter: str, head: nn.Linear) -> None:
        super().__init__()
        self.head = head
        self.adapter = adapter
        self._base = (base,)  # in a tuple it is no submodule

    @property
    def base(self) -> nn.Module:
        """The shared model."""
        return self._base[0]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within it the adapter acts: around a backward pass that computes anew."""
        with adapter_active(self.base, self.adapter):
            yield

    def shard(self, mesh: DeviceMesh | None) -> AdaptedScalar:
        """Share the head's weights among processes (:func:`~rlhf_lightning.models.shard`); the base is its owner's."""
        shard(self.head, mesh)
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        """Scalars [b, s] of right-padded ``input_ids`` [b, s]."""
        with self.active():
            states = through(self.base, hidden_states, self.base, input_ids)
            scalars: Tensor = self.head(states.to(self.head.weight.dtype)).squeeze(-1)
        return scalars

    def score(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores [b]: the scalar at the last real token of right-padded sequences [b, s]."""
        with self.active():
            last = through(self.base, last_states, self.base, input_ids, lengths)
        scores: Tensor = self.head(last.to(self.head.weight.dtype)).squeeze(-1)
        return scores


class SharedReward:
    """The reward model as an adapter on the policy's base; a reward of :class:`~rlhf_lightning.modules.PPOModule`.

    The module binds it to its base. It reads the ids that the policy wrote.

    Args:
        name: the model folder of a reward model that was trained with ``model/lora`` from the policy's SFT model.
        batch_size: sequences per forward pass.

    Raises:
        UserError: the folder holds no adapter.
    """

    def __init__(self, *, name: str, batch_size: int = 64) -> None:
        self.folder = Path(name) / "adapter"
        if not (self.folder / BASE).is_file():
            raise UserError(
                f"module.reward.name={name} holds no adapter/, which module.roles=shared puts on the policy's base: "
                "train the reward model with model/lora=default from the same SFT model, or set module.roles=separate"
            )
        self.batch_size = batch_size
        self.model: AdaptedScalar | None = None

    def bind(self, base: Any) -> AdaptedScalar:
        """Load the adapter onto ``base`` as ``reward``, frozen, and once more as ``value``, which trains; returns the
        value model.

        Raises:
            UserError: the adapter was trained on another base.
        """
        if not has_adapters(base):
            raise UserError("module.roles=shared puts every role's adapter on one frozen base: set model/lora=default")
        if base.peft_config[ADAPTER].modules_to_save:
            raise UserError(
                "module.roles=shared: model.lora.modules_to_save trains whole modules, which other roles' adapters do "
                "not have; leave it empty or set module.roles=separate"
            )
        known = json.loads((self.folder / BASE).read_text(encoding="utf-8"))
        trained_on = known["fingerprint"]
        mine = base_fingerprint(base)
        if trained_on != mine:
            raise UserError(
                f"the reward adapter in {self.folder} was trained on base {trained_on}, the policy's is {mine}: train "
                "it from the same SFT model with the same model/quantization, or set module.roles=separate"
            )
        rows = require_peft().LoraConfig.from_pretrained(str(self.folder)).trainable_token_indices
        if rows and not base.peft_config[ADAPTER].trainable_token_indices:
            raise UserError(
                f"the reward adapter in {self.folder} trains tokens of its own and the policy's trains none, which "
                "peft does not save: set model.lora.trainable_tokens here, too, or module.roles=separate"
            )
        roles = {}
        for role in ("reward", "value"):
            device = next(base.parameters()).device
            head = nn.Linear(base.config.get_text_config().hidden_size, 1, bias=False, device=device)
            load_adapter(base, self.folder, adapter=role, head=head)
            check_trained_head(head.weight, known.get(NEW_HEAD), f"module.reward.name={self.folder.parent}")
            roles[role] = AdaptedScalar(base, role, head)
        roles["reward"].requires_grad_(False).eval()
        for parameter in adapter_modules(base, "value").parameters():
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()
        self.model = roles["reward"]
        return roles["value"]

    def fingerprint(self) -> str:
        """Of the adapter and its head."""
        assert self.model is not None  # bound in PPOModule.configure_model
        return weights_fingerprint(nn.ModuleList([self.model, adapter_modules(self.model.base, self.model.adapter)]))

    def shard(self, mesh: DeviceMesh) -> None:
        """Share the head's weights among processes."""
        assert self.model is not None  # bound in PPOModule.configure_model
        self.model.shard(mesh)

    def to(self, device: torch.device | str) -> SharedReward:
        """Move the head; the base is the policy's."""
        if self.model is not None:
            self.model.to(device)
        return self

    def shares_tokenizer(self, encoder: Encoder) -> bool:
        """It reads the policy's ids: :meth:`check_tokenizer` has refused others."""
        return True

    def check_tokenizer(self, encoder: Encoder) -> None:
        """Compare the tokenizer beside the reward adapter with the policy's.

        Raises:
            UserError: other ids, or another chat template.
        """
        own = Encoder.from_pretrained(self.folder.parent)
        if Encoder(own.tokenizer, system=encoder.system if own.tokenizer.chat_template else None).fingerprint() == (
            encoder.fingerprint()
        ):
            return
        same = own.tokenizer.get_vocab() == encoder.tokenizer.get_vocab()
        raise UserError(
            f"module.reward.name={self.folder.parent} has another {'chat template' if same else 'tokenizer'} than the "
            "policy, whose ids it would read with module.roles=shared: train the reward model from the policy's SFT "
            "model, or set module.roles=separate, where it reads text"
        )

    def score_ids(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores [b] of right-padded token ids [b, s], a prompt and its response in one row."""
        assert self.model is not None  # bound in PPOModule.configure_model
        base = self.model.base
        with generation_mode(base):
            return score_by_length(self.model.score, input_ids, lengths, self.batch_size, in_step=is_sharded(base))


def trained_reward(
    *,
    name: str,
    roles: Literal["separate", "shared"] = "separate",
    batch_size: int = 64,
    dtype: str = "float32",
    frozen_dtype: str | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    quantization: Quantization | None = None,
) -> RewardModelScorer | SharedReward:
    """The reward model in a folder: with ``roles="shared"`` its adapter alone, else the whole of it.

    Args:
        name: the folder of a reward model.
        roles: of the PPO module that it is for.
        frozen_dtype: of its weights, in place of ``dtype``.
        batch_size, dtype, revision, attn_implementation, trust_remote_code, quantization: as in
            :class:`~rlhf_lightning.models.RewardModelScorer`; an adapter takes all but ``batch_size`` from its base.
    """
    if roles == "shared":
        return SharedReward(name=name, batch_size=batch_size)
    return RewardModelScorer(
        name=name,
        batch_size=batch_size,
        dtype=frozen_dtype or dtype,
        revision=revision,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        quantization=quantization,
    )
