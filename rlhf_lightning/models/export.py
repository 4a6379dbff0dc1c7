"""Model folders that plain transformers loads, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.utils import GENERATION_CONFIG_NAME

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.adapters import merged, save_adapter
from rlhf_lightning.models.card import RunRecord
from rlhf_lightning.models.card_files import keep_cards, write_cards
from rlhf_lightning.models.fidelity import Difference, check_written, difference, outputs
from rlhf_lightning.models.fingerprints import base_fingerprint
from rlhf_lightning.models.heads import NEW_HEAD, ScalarModel
from rlhf_lightning.models.lora import has_adapters
from rlhf_lightning.models.policy import is_own
from rlhf_lightning.models.quantization import is_quantized
from rlhf_lightning.models.quiet import quiet_transformers

BASE = "base.json"


class Exported(NamedTuple):
    """A model folder, and what was found when it was compared with the model that was trained; ``difference`` is None
    where no adapter was merged."""

    folder: Path
    comparison: str
    difference: float | None


def save_model_folder(
    model: nn.Module,
    encoder: Encoder,
    folder: str | Path,
    *,
    merge: bool = True,
    max_shard_size: str = "5GB",
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write weights, configuration, tokenizer and chat template to ``folder``: :func:`export_model` without a card.

    Args:
        model: a transformers model, or a :class:`~rlhf_lightning.models.heads.ScalarModel` around one.
        encoder: whose tokenizer belongs to the model.
        folder: where to.
        merge: ``False`` leaves the merged weights out and writes the adapter into ``folder`` itself.
        max_shard_size: weights beyond it are written as several files.
        weights: the model's state in full, where its own is sharded.

    Raises:
        UserError: as :func:`export_model`.
    """
    done = export_model(model, encoder, folder, merge=merge, max_shard_size=max_shard_size, weights=weights)
    return done.folder


def export_model(
    model: nn.Module,
    encoder: Encoder,
    folder: str | Path,
    *,
    merge: bool = True,
    max_shard_size: str = "5GB",
    record: RunRecord | None = None,
    weights: Mapping[str, Tensor] | None = None,
    trained: Sequence[Tensor] | None = None,
) -> Exported:
    """Write weights, configuration, tokenizer, chat template and a model card to ``folder``.

    A model with an adapter is written merged, so that plain transformers loads it, with the adapter alone in
    ``adapter/``, for peft and for PPO with shared roles; ``adapter/base.json`` tells which base it belongs to.

    What was written is compared with the model: weights bit for bit, and where an adapter was merged, also the outputs
    with and without merging; the merged model is at hand for that, so that none is loaded again.

    The folder is written beside its place and moved there at the end, so that an interrupted run leaves the old one
    (or none), never half a new one. Of what was there, a README.md that a person wrote or edited stays.

    Args:
        model, encoder, folder, merge, max_shard_size, weights: as in :func:`save_model_folder`.
        record: what the card tells of the run; ``None`` writes no card.
        trained: what :func:`~rlhf_lightning.models.outputs` gives of the model, where it is sharded and one process
            cannot run it.

    Raises:
        UserError: a model of one's own; weights that are read back otherwise; a quantised base that cannot be loaded
            anew for merging.
    """
    scalar = isinstance(model, ScalarModel)
    plain: Any = model.model if isinstance(model, ScalarModel) else model
    if is_own(plain):
        raise UserError(
            f"{type(plain).__name__} is no model of transformers, so there is no folder that transformers would load: "
            "save its state_dict() with torch.save"
        )
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    _name_special_tokens(plain, encoder)
    adapter = partial / "adapter" if merge else partial
    whole: Any = plain
    largest: float | None = None
    told: list[str] = []
    prefix = "model." if scalar else ""
    if weights is not None:
        weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    if has_adapters(plain):
        save_adapter(plain, adapter, head="score" if scalar else None, weights=weights)
        known = {"fingerprint": base_fingerprint(plain), NEW_HEAD: getattr(plain.config, NEW_HEAD, None)}
        (adapter / BASE).write_text(json.dumps(known), encoding="utf-8")
        encoder.save(adapter)
        if merge:
            trained = outputs(model, encoder) if trained is None else trained
            whole = merged(plain, adapter, weights)
            weights = None  # those of the merged model are its own
            _name_special_tokens(whole, encoder)
            if known[NEW_HEAD] is not None:
                setattr(whole.config, NEW_HEAD, known[NEW_HEAD])
            found = difference(trained, outputs(ScalarModel(whole) if scalar else whole, encoder))
            largest = found.largest
            told.append(_told(found, plain, scalar))
    if merge:
        options: dict[str, Any] = {"max_shard_size": max_shard_size}
        if weights is not None:
            options["state_dict"] = weights
        _save_weights(whole, partial, options)
        compared = check_written(whole.state_dict() if weights is None else weights, partial)
        told.append(f"{compared} weights were read back from the files and are the model's bit for bit.")
    encoder.save(partial)
    if record is not None:
        write_cards(record, plain, encoder, partial, scalar=scalar, merge=merge, told=" ".join(told))
    keep_cards(folder, partial)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old)
    else:
        os.replace(partial, folder)
    return Exported(folder, " ".join(told), largest)


def _told(found: Difference, trained: nn.Module, scalar: bool) -> str:
    what = "a score" if scalar else "a logit"
    told = (
        f"With the adapter merged, {what} differs from the trained model's by at most {found.largest:.2g} "
        f"(on {found.tokens} tokens of text, where the largest is {found.scale:.3g})."
    )
    if is_quantized(trained):
        told += " The adapter was trained on a quantised base and is merged into the full one: that is the difference."
    return told


def _save_weights(model: Any, folder: Path, options: dict[str, Any]) -> None:
    """Weights, configuration, and the sampling settings as they are: transformers reads settings that it then refuses
    to write, such as a temperature without ``do_sample``."""
    settings = getattr(model, "generation_config", None)
    with quiet_transformers():
        if settings is None:
            model.save_pretrained(folder, **options)
            return
        model.generation_config = type(settings)()
        try:
            model.save_pretrained(folder, **options)
        finally:
            model.generation_config = settings
        settings.to_json_file(folder / GENERATION_CONFIG_NAME)


def _name_special_tokens(model: nn.Module, encoder: Encoder) -> None:
    """Tell plain transformers where a response ends and what padding is.

    Padding that is EOS stays unnamed in the configuration: a sequence classifier would take a final EOS for padding
    and score the token before it, and an embedding never trains the token that is named padding.
    """
    config: Any = model.config
    config.pad_token_id = None if encoder.pad_token_id == encoder.eos_token_id else encoder.pad_token_id
    for settings in (config, getattr(model, "generation_config", None)):
        if settings is not None and encoder.eos_token_id not in _as_list(settings.eos_token_id):
            settings.eos_token_id = encoder.eos_token_id


def _as_list(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
