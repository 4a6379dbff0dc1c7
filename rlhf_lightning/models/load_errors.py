"""Errors of transformers while it loads a model, as one line that names the model and the way out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from safetensors import SafetensorError

from rlhf_lightning.errors import UserError

ATTENTION = "set model.attn_implementation to one that this architecture and machine have: eager, sdpa, or null"
# What an error says, and what the user can do about it.
WAYS_OUT = (
    (
        "SequenceClassification",
        "transformers cannot classify sequences with this architecture, which is what reward and value models need; "
        "take another architecture",
    ),
    (
        "Unrecognized configuration class",
        "transformers cannot generate text left to right with this architecture; take another one",
    ),
    (
        "custom code",
        "the model brings Python code of its own; read it, and if you trust it set model.trust_remote_code=true",
    ),
    ("attn_implementation", ATTENTION),
    ("FlashAttention", ATTENTION),
)


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Raise what goes wrong inside as a ``UserError`` about the model ``name``."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        whole = str(error).strip()
        for sign, way_out in WAYS_OUT:
            if sign in whole:
                raise UserError(f"model.name={name} could not be loaded: {way_out}") from error
        reason = whole.splitlines()[0][:160] if whole else type(error).__name__
        raise UserError(
            f"model.name={name} could not be loaded ({reason}); give a local model folder or a hub id"
        ) from error
