"""A cell of the capability table as a run, for test_capabilities.py."""

from __future__ import annotations

from typing import Any

from stage_runs import ppo_data, ppo_module
from watching import Watch, result, trainer

from rlhf_lightning.models import adamw8bit
from rlhf_lightning.modules import Muon

ADAPTER = {"rank": 4, "alpha": 8.0}


def cell(
    *,
    world: int,
    strategy: str,
    model: str,
    files: dict[str, str],
    lora: Any = False,
    quantization: Any = None,
    roles: Any = "separate",
    clipping: bool = True,
    optimizer: str = "AdamW",
    **own: Any,
) -> dict[str, Any]:
    """Two iterations of PPO in a cell of the capability table."""
    optimizers: dict[str, Any] = {"AdamW": None, "Muon": Muon, "adamw8bit": adamw8bit}
    adapter = (ADAPTER if lora is True else lora) or None
    module = ppo_module(
        model,
        adapted={"lora": adapter, "quantization": quantization, "roles": roles, **own},
        max_grad_norm=0.5 if clipping else None,
        optimizer=optimizers[optimizer],
    )
    watch = Watch()
    trainer(strategy, world, watch).fit(module, ppo_data(model, files, iterations=2))
    return result(watch)
