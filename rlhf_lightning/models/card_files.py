"""Where model cards stand, and which of them are kept."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

from rlhf_lightning.data import Encoder
from rlhf_lightning.models.card import CARD, RunRecord, base_of, is_own_card, model_card
from rlhf_lightning.models.lora import ADAPTER, has_adapters
from rlhf_lightning.models.quantization import is_quantized
from rlhf_lightning.models.usage import usage

log = logging.getLogger(__name__)
LORA = {
    "r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    "modules_to_save": "lora.modules_to_save",
    "trainable_token_indices": "lora.trainable_tokens",
}


def write_cards(
    record: RunRecord, model: Any, encoder: Encoder, folder: Path, *, scalar: bool, merge: bool, told: str
) -> None:
    """The card of a folder, and of the adapter in it.

    Args:
        record: of the run.
        model: the transformers model that was trained.
        encoder: of the model.
        folder: that is being written.
        scalar: whether the model gives scores, or else text.
        merge: whether the folder holds whole weights, or the adapter alone.
        told: how the folder was compared with the model.
    """
    record = dataclasses.replace(record, settings={**record.settings, **_settings(model)})
    base = base_of(model.name_or_path)
    kinds = [(folder, not merge)]
    if merge and has_adapters(model):
        kinds.append((folder / "adapter", True))
    for place, adapter in kinds:
        code = usage(encoder, scalar=scalar, adapter=adapter)
        export = None if adapter and merge else told
        text = model_card(record, base=base, scalar=scalar, adapter=adapter, usage=code, export=export)
        (place / CARD).write_text(text, encoding="utf-8")


def keep_cards(old: Path, new: Path) -> None:
    """Take cards that a person wrote or edited from the folder that is replaced to the one that replaces it."""
    for place in (".", "adapter"):
        card = old / place / CARD
        if card.is_file() and (new / place).is_dir() and not is_own_card(card):
            shutil.copyfile(card, new / place / CARD)
            log.info("%s was written by hand and is kept as it is; its figures may be those of an earlier run", card)


def _settings(model: Any) -> dict[str, object]:
    """What of a model's own settings belongs to its training."""
    found: dict[str, object] = {"model.dtype": str(model.dtype).removeprefix("torch.")}
    stored = getattr(model.config, "quantization_config", None)
    if is_quantized(model) and stored is not None:
        found["base stored in"] = "8 bits (int8)" if stored.load_in_8bit else f"4 bits ({stored.bnb_4bit_quant_type})"
    if has_adapters(model):
        config = model.peft_config[ADAPTER]
        found |= {shown: getattr(config, own) for own, shown in LORA.items()}
        targets = config.target_modules
        kinds = [targets] if isinstance(targets, str) else sorted({name.rpartition(".")[2] for name in targets})
        found["lora.target_modules"] = ", ".join(kinds)
    return found
