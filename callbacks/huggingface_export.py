"""The trained model as a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning as L
from torch import nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import is_sharded, save_model_folder, whole_state


class HuggingFaceExport(L.Callback):
    """At the end of a fit, writes weights, configuration, tokenizer and chat template to ``folder``.

    It runs after everything that changes weights at the end of training (the average of ``PolicyEMA``, the shift of
    the reward). A fit that fails or is interrupted writes nothing and leaves an earlier folder as it is.

    Args:
        folder: where to.
        role: ``policy``, for ``AutoModelForCausalLM``, or ``reward_model``, for
            ``AutoModelForSequenceClassification``.
    """

    def __init__(self, *, folder: str | Path, role: Literal["policy", "reward_model"] = "policy") -> None:
        if role not in ("policy", "reward_model"):
            raise UserError(f"callbacks.export.role={role!r} is neither 'policy' nor 'reward_model'")
        self.folder = Path(folder)
        self.role = role

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The role and an encoder must be there before hours of training, not after."""
        if not isinstance(getattr(pl_module, self.role, None), nn.Module):
            raise UserError(
                f"HuggingFaceExport writes the {self.role} and {type(pl_module).__name__} has none; "
                "set callbacks.export.role to one it trains"
            )
        if _encoder(trainer, pl_module) is None:
            raise UserError(
                "HuggingFaceExport found no tokenizer: neither the module nor trainer.datamodule has an encoder; "
                "give fit() one of this package's data modules, or set pl_module.encoder"
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"callbacks.export.folder={self.folder} is a file; give the path of a folder")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the folder. Lightning calls this only after a fit that came to its end."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
            return
        model = getattr(pl_module, self.role)
        weights = whole_state(model) if is_sharded(model) else None  # every process has a part of them
        if trainer.is_global_zero:
            save_model_folder(model, _encoder(trainer, pl_module), self.folder, weights=weights)


def _encoder(trainer: L.Trainer, pl_module: L.LightningModule) -> Any:
    own = getattr(pl_module, "encoder", None)
    # Lightning sets datamodule without declaring it.
    return own if own is not None else getattr(trainer.datamodule, "encoder", None)  # type: ignore[attr-defined]
