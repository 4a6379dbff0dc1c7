"""Padded batches read as one row without padding."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.forward import TokenLogprobs
from rlhf_lightning.models.heads import ScalarModel
from rlhf_lightning.models.packing import PackedStates
from rlhf_lightning.models.roles import AdaptedScalar
from rlhf_lightning.models.sharding import through

_KEY = "module.padding_free"


class _Flat(NamedTuple):
    """Sequences one behind the other. Shapes: input_ids, position_ids: [1, n]; targets: [1, n], bool, on the CPU."""

    input_ids: Tensor
    position_ids: Tensor
    targets: Tensor
    longest: int

    def states(self, packed: PackedStates) -> Tensor:
        """[1, n, d]."""
        lengths = torch.tensor([self.input_ids.shape[1]])
        return packed(self.input_ids, lengths, self.position_ids, longest=self.longest)


def _flat(input_ids: Tensor, targets: Tensor) -> _Flat:
    """Right-padded rows [b, s] up to the last target of each: what stands behind it has no part in any."""
    targets = targets.cpu()  # where it is already, in a training step: shapes depend on it
    column = torch.arange(targets.shape[1]).expand_as(targets)
    lengths = torch.where(targets, column + 1, 0).amax(1)
    real = column < lengths.unsqueeze(1)
    positions = column[real].unsqueeze(0).to(input_ids.device, non_blocking=True)
    return _Flat(input_ids[real].unsqueeze(0), positions, targets[real].unsqueeze(0), int(lengths.max()))


class PaddingFreeLogprobs:
    """A :class:`~rlhf_lightning.models.TokenLogprobs` that reads a batch as one row in which positions restart.

    Log-probabilities and gradients are those of the padded batch. How a model is told where a sequence ends is
    measured (:class:`~rlhf_lightning.models.PackedStates`). It pays where attention skips what other sequences hold:
    ``flash_attention_2`` and ``flex_attention``, and sdpa on a CPU. Under sdpa on a GPU, and under eager attention, a
    row of n tokens costs the attention of n² pairs.

    Args:
        logprobs: of the model.
    """

    def __init__(self, logprobs: TokenLogprobs) -> None:
        self.logprobs, self.model, self.within = logprobs, logprobs.model, logprobs.within
        self._packed = PackedStates(logprobs.model, key=_KEY, off=f"{_KEY}=false")

    def check(self) -> None:
        """Measure on a few tokens.

        Raises:
            UserError: the model does not keep the sequences of a row apart, or is not of transformers.
        """
        with self.within():
            through(self.model, self._packed.check)

    def __call__(self, input_ids: Tensor, targets: Tensor, *, entropy: bool = True) -> tuple[Tensor, Tensor]:
        """As :meth:`TokenLogprobs.__call__ <rlhf_lightning.models.TokenLogprobs>`."""
        flat = _flat(input_ids, targets)
        with self.within():
            hidden = through(self.model, flat.states, self._packed)
        return self.logprobs(flat.input_ids, flat.targets, hidden=hidden, entropy=entropy)


class PaddingFreeValues:
    """Values of a value model, likewise.

    Args:
        value: a scalar model of this package.

    Raises:
        UserError: another one.
    """

    def __init__(self, value: nn.Module) -> None:
        if not isinstance(value, ScalarModel | AdaptedScalar):
            raise UserError(
                f"{_KEY}=true: the value model {type(value).__name__} is none of this package, so it can only be given "
                f"padded rows; set {_KEY}=false"
            )
        self.value: Any = value
        model = value.model if isinstance(value, ScalarModel) else value.base
        self._packed = PackedStates(model, key=_KEY, off=f"{_KEY}=false")

    def check(self) -> None:
        """As :meth:`PaddingFreeLogprobs.check`."""
        through(self.value if isinstance(self.value, ScalarModel) else self.value.base, self._packed.check)

    def __call__(self, input_ids: Tensor, targets: Tensor) -> Tensor:
        """Values [n] of the states in which the target tokens [b, s] of right-padded ``input_ids`` were chosen."""
        flat = _flat(input_ids, targets)
        if isinstance(self.value, ScalarModel):
            scalars: Tensor = through(self.value, self._read, flat)
        else:
            with self.value.active():
                states = through(self.value.base, flat.states, self._packed)
            scalars = self.value.head(states.to(self.value.head.weight.dtype)).squeeze(-1)
        return scalars[:, :-1][flat.targets[:, 1:]]

    def _read(self, flat: _Flat) -> Tensor:
        scalars: Tensor = self.value.head(flat.states(self._packed)).squeeze(-1)
        return scalars
