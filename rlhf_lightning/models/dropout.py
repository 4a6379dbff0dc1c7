"""Dropout probabilities of a configuration, which transformers calls by many names."""

from __future__ import annotations

from transformers import PretrainedConfig

from rlhf_lightning.errors import UserError

RESIDUAL = ("resid_pdrop", "resid_dropout", "residual_dropout", "hidden_dropout", "dropout")
"""What architectures call the dropout of what a block adds to the residual stream: GPT-2, GPT-J and Phi; GPT-Neo;
StarCoder 2; GPT-NeoX, BLOOM and Falcon; OPT, whose embeddings it covers, too."""


def set_dropout(config: PretrainedConfig, name: str, dropout: float | None, residual: float | None) -> None:
    """Set every dropout probability to ``dropout``, then that of the residual branches to ``residual``.

    Args:
        config: changed in place.
        name: of the model, for errors.
        dropout, residual: probabilities; ``None`` leaves what is there.

    Raises:
        UserError: no probability; one above 0 for an architecture that has no such dropout.
    """
    for key, value in (("dropout", dropout), ("residual_dropout", residual)):
        if value is not None and not 0 <= value < 1:
            raise UserError(f"model.{key}={value} must be a probability, at least 0 and below 1")
    parts = (config, config.get_text_config())
    if dropout is not None:
        keys = {key for part in parts for key in _probabilities(part)}
        if dropout > 0 and not keys:
            raise UserError(
                f"model.dropout={dropout}: {name} ({config.model_type}) has no dropout; set model.dropout=0"
            )
        for part in parts:
            for key in _probabilities(part):
                setattr(part, key, float(dropout))
    if residual is not None:
        found = [(part, key) for part in parts for key in RESIDUAL if key in _probabilities(part)]
        if residual > 0 and not found:
            raise UserError(
                f"model.residual_dropout={residual}: {name} ({config.model_type}) has no dropout of its residual "
                "branches; set model.residual_dropout=null to train without"
            )
        for part, key in found:
            setattr(part, key, float(residual))


def _probabilities(config: PretrainedConfig) -> list[str]:
    return [
        key
        for key, value in config.to_dict().items()
        if ("dropout" in key or key.endswith("pdrop"))
        and isinstance(value, float | int)
        and not isinstance(value, bool)
    ]
