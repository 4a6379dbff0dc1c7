"""Roles with adapters, and on one base, for the processes of test_*.py."""

from __future__ import annotations

import tempfile
from typing import Any

import torch

from rlhf_lightning.data import Encoder
from rlhf_lightning.models import (
    Lora,
    Quantization,
    SharedReward,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
)


def adapter_of(settings: dict[str, Any] | None) -> Lora | None:
    """The adapter of a plan's settings."""
    return None if settings is None else Lora(**settings)


def vowels(prompts: list[str], responses: list[str]) -> list[float]:
    return [sum(letter in "aeiou" for letter in response) / 4 for response in responses]


def roles_of(
    model: str, *, lora: dict[str, Any] | None = None, quantization: Any = None, roles: str = "separate", **own: Any
) -> dict[str, Any]:
    """What makes the roles of a ``PPOModule``."""
    stored = None if quantization is None else Quantization(kind=quantization)
    common: dict[str, Any] = {"name": model, "lora": adapter_of(lora), "quantization": stored, **own}
    return {
        "policy": lambda: load_causal_lm(**common),
        "value": lambda: load_scalar_model(head="new", **common),
        "reward": _shared_reward(common) if roles == "shared" else vowels,
        "roles": roles,
    }


def _shared_reward(common: dict[str, Any]) -> SharedReward:
    """The same for every process, each from a folder of its own."""
    before = torch.get_rng_state()
    torch.manual_seed(4)
    scalar = load_scalar_model(head="new", **common)
    for name, weight in scalar.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)  # an adapter that acts
    scalar.head.weight.data.mul_(1.01)  # a head as it was drawn is refused
    torch.set_rng_state(before)
    folder = save_model_folder(scalar, Encoder.from_pretrained(common["name"]), tempfile.mkdtemp(dir="."))
    return SharedReward(name=str(folder))
