"""Exponential moving average of the policy's weights."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.optim.swa_utils import get_ema_avg_fn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import ADAPTER, adapter_modules, has_adapters, is_sharded, sharded_like, whole

PREFIX = "policy."


class PolicyView(L.LightningModule):
    """The policy as a module of its own: what Lightning's weight averaging is shown, so that the value model, the
    frozen reference and a reward model are neither copied nor averaged."""

    def __init__(self, policy: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.policy = policy
        self._where = device

    @property
    def device(self) -> torch.device:
        """Where training takes place; the average is kept there unless told otherwise."""
        return self._where


class PolicyEMA(WeightAveraging):
    """After each iteration ``ema ← decay·ema + (1 − decay)·w``, beginning with the weights that training begins with.

    Validation runs with the average, and training goes on with its own weights; at the end of training the policy
    becomes the average. A checkpoint holds both: the weights under ``state_dict``, the average under ``policy_ema``.

    Source: InstructGPT, appendix C.4 (decay 0.992 per iteration).

    Of a policy with an adapter, the adapter is averaged.

    Args:
        decay: share of the average that each iteration keeps; after n iterations ``decay**n`` of the initial weights
            is left in it (0.992: half after 86, 2 % after 500).
        device: where the average is kept; with the policy by default.
    """

    def __init__(self, *, decay: float = 0.992, device: str | None = None) -> None:
        if not 0.0 <= decay < 1.0:
            raise UserError(f"callbacks.policy_ema.decay={decay} must lie in [0, 1)")
        # Buffers are constants of the architecture (rotary frequencies): averaging would only round them.
        # torch leaves get_ema_avg_fn untyped.
        super().__init__(device=device, use_buffers=False, avg_fn=get_ema_avg_fn(decay))  # type: ignore[no-untyped-call]
        self.decay = decay
        self._view: PolicyView | None = None
        self._validating = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin the average with the policy's weights."""
        if stage != "fit":
            return
        pl_module.configure_model()
        policy = getattr(pl_module, "policy", None)
        if not isinstance(policy, nn.Module):
            raise UserError(
                f"PolicyEMA averages a policy and {type(pl_module).__name__} has none; "
                "leave the callback out of this stage"
            )
        self._view = PolicyView(_averaged(policy), pl_module.device)
        super().setup(trainer, self._view, stage)
        # The first update of torch's AveragedModel is a plain copy. Spent here, it makes the equation hold from the
        # first iteration on; the step of an earlier fit is forgotten with it.
        self.load_state_dict({"latest_update_step": -1})
        super().on_train_batch_end(trainer, self._view, None, None, 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One update an iteration, however many optimizer steps it took."""
        if self._view is not None:
            super().on_train_batch_end(trainer, self._view, outputs, batch, batch_idx)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average in."""
        if self._view is not None:
            super().on_validation_epoch_start(trainer, self._view)
            self._validating = True

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the trained weights back."""
        if self._view is not None and self._validating:
            super().on_validation_epoch_end(trainer, self._view)
            self._validating = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """A validation that fails leaves the trained weights in place, too."""
        self.on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The policy becomes the average."""
        if self._view is not None:
            super().on_train_end(trainer, self._view)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the average; ``state_dict`` stays what is being trained."""
        if self._view is None:
            return
        part: dict[str, Any] = {"state_dict": {}}
        super().on_save_checkpoint(trainer, self._view, part)
        weights = {}
        for name, weight in part["state_dict"].items():
            full = whole(weight)  # of a sharded policy all processes must ask for it, and one writes it
            if trainer.is_global_zero or full is weight:
                weights[name] = full if full is weight else full.cpu()
        checkpoint["policy_ema"] = {"state_dict": weights, "averaging_state": part["averaging_state"]}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the average back; a checkpoint without one begins it anew with its weights, with a warning."""
        if self._view is None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
            return
        held = self._view.state_dict()
        saved = checkpoint.get("policy_ema")
        if "state_dict" not in checkpoint:  # a sharded one: the policy has its weights already
            weights = held
        else:
            weights = {name: tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith(PREFIX)}
            if isinstance(self._view.policy, nn.ParameterDict):
                own = {f"{PREFIX}{name.replace('/', '.')}": f"{PREFIX}{name}" for name in self._view.policy}
                weights = {own[name]: tensor for name, tensor in weights.items() if name in own}
        if saved is not None:
            average = {name: sharded_like(held[name], weight) for name, weight in saved["state_dict"].items()}
            saved = saved | {"state_dict": average}
        part = {"state_dict": weights} if saved is None else {"current_model_state": weights, **saved}
        super().on_load_checkpoint(trainer, self._view, part)


def _averaged(policy: nn.Module) -> nn.Module:
    """The policy; of one with an adapter, the adapter's weights alone, since the rest never moves; of a sharded one,
    which torch does not copy, its weights. Their names keep no dots, which a ParameterDict does not take."""
    if not has_adapters(policy) and not is_sharded(policy):
        return policy
    averaged = adapter_modules(policy, ADAPTER) if has_adapters(policy) else policy
    own = {id(weight) for weight in averaged.parameters()}
    return nn.ParameterDict(
        {name.replace(".", "/"): weight for name, weight in policy.named_parameters() if id(weight) in own}
    )
