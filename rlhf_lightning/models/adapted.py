"""A language model from a folder that holds weights, or an adapter alone."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedModel

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.adapters import CONFIG, load_adapter
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.lora import ADAPTER, require_peft


def base_of_adapter(name: str) -> str | None:
    """The base that an adapter folder names; ``None`` for anything else.

    Raises:
        UserError: the adapter names no base.
    """
    folder = Path(name)
    if not (folder / CONFIG).is_file() or (folder / "config.json").is_file():
        return None
    base = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise UserError(
            f"model.name={name} is an adapter whose {CONFIG} names no base_model_name_or_path: write the base's folder "
            "there, or export the model with merge=true"
        )
    return str(base)


def load_language_model(
    *,
    name: str,
    dtype: str = "float32",
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal language model to read and write with; of an adapter folder the base with the adapter beside it.

    Args:
        name: a local folder, of a model or of an adapter as peft writes it, or a hub id.
        dtype, revision, attn_implementation, trust_remote_code: as in
            :func:`~rlhf_lightning.models.load_causal_lm`; ``revision`` is that of the base.

    Raises:
        UserError: what :func:`~rlhf_lightning.models.load_causal_lm` and
            :func:`~rlhf_lightning.models.adapters.load_adapter` refuse; an adapter that names no base.
    """
    base = base_of_adapter(name)
    if base is not None:
        require_peft()
    model = load_causal_lm(
        name=base or name,
        dtype=dtype,
        revision=revision,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    if base is not None:
        load_adapter(model, name, adapter=ADAPTER)
    return model
