"""The trained model as a folder that transformers loads."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, Literal

import lightning as L
from torch import nn

from rlhf_lightning.callbacks.policy_ema import PolicyEMA
from rlhf_lightning.data import (
    ComparisonDataModule,
    DemonstrationDataModule,
    PromptDataModule,
    TextDataModule,
    data_card,
)
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import RunRecord, ScalarModel, export_model, is_own, is_sharded, outputs, whole_state
from rlhf_lightning.modules import run_record

log = logging.getLogger(__name__)
KNOWN_DATA = (ComparisonDataModule, DemonstrationDataModule, PromptDataModule, TextDataModule)


class HuggingFaceExport(L.Callback):
    """At the end of a fit, writes weights, configuration, tokenizer, chat template and a model card to ``folder``.

    What was written is compared with the trained model, and the outcome logged and told in the card. A card
    (``README.md``) that a person wrote or edited in an earlier folder of that name is kept.

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
        self._data_card: dict[str, Any] = {}

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
        model = getattr(pl_module, self.role)
        if is_own(model.model if isinstance(model, ScalarModel) else model):
            raise UserError(
                f"HuggingFaceExport writes models of transformers, and {type(model).__name__} is none: leave the "
                "callback out; checkpoints hold its weights under state_dict"
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"callbacks.export.folder={self.folder} is a file; give the path of a folder")
        data = _data(trainer)
        if isinstance(data, KNOWN_DATA) and trainer.is_global_zero:
            self._data_card = data_card(data)  # now, since files may be gone at the end

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the folder. Lightning calls this only after a fit that came to its end."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
            return
        model = getattr(pl_module, self.role)
        encoder = _encoder(trainer, pl_module)
        parts: dict[str, Any] = {}
        if is_sharded(model):  # every process has a part of the weights, and all must take part in a pass
            parts = {"weights": whole_state(model), "trained": outputs(model, encoder)}
        if trainer.is_global_zero:
            record = self._record(trainer, pl_module)
            done = export_model(model, encoder, self.folder, record=record, **parts)
            log.info("%s: %s", self.folder, done.comparison)

    def _record(self, trainer: L.Trainer, pl_module: L.LightningModule) -> RunRecord:
        iterations = getattr(pl_module, "iterations", None)
        progress: dict[str, object] = {"optimizer steps": trainer.global_step, "epochs": trainer.current_epoch}
        if iterations is not None:
            progress = {"iterations": iterations, "optimizer steps": trainer.global_step}
        progress["precision"] = trainer.precision
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        found = run_record(pl_module, data=_data(trainer), card=self._data_card, progress=progress, metrics=metrics)
        averages = [c for c in trainer.callbacks if isinstance(c, PolicyEMA)]  # type: ignore[attr-defined]
        if averages and self.role == "policy":
            note = f"Its weights are the average over iterations, of decay {averages[0].decay:g}."
            found = dataclasses.replace(found, notes=[*found.notes, note])
        return found


def _data(trainer: L.Trainer) -> Any:
    return getattr(trainer, "datamodule", None)  # Lightning sets it without declaring it


def _encoder(trainer: L.Trainer, pl_module: L.LightningModule) -> Any:
    own = getattr(pl_module, "encoder", None)
    return own if own is not None else getattr(_data(trainer), "encoder", None)
