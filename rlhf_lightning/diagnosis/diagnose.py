"""All checks of a model, in one order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rlhf_lightning.data import Encoder
from rlhf_lightning.diagnosis import belongings, memory, passes, rows, runs
from rlhf_lightning.diagnosis.finding import Finding, examine
from rlhf_lightning.diagnosis.patient import Patient
from rlhf_lightning.models import ScalarModel, context_length
from rlhf_lightning.planning import MemoryPlan


def diagnose(
    *,
    policy: Callable[[], nn.Module],
    encoder: Callable[[], Encoder],
    reward: Callable[[], ScalarModel] | None = None,
    data: Callable[[], Any] | None = None,
    plan: Callable[[], MemoryPlan | None] | None = None,
    device: torch.device | str = "cpu",
    new_tokens: int = 8,
    response_tokens: int = 256,
) -> list[Finding]:
    """Try on a model what training takes for granted. Nothing is written, and no check hides another.

    Args:
        policy: makes the causal language model, with its adapter if it has one.
        encoder: makes the encoder of its tokenizer.
        reward: loads a reward model, whose head is looked at.
        data: makes a data module, whose rows are looked at.
        plan: estimates the memory of the run that is planned.
        device: where the checks run.
        new_tokens: of the responses that the checks sample.
        response_tokens: that the planned run generates behind a prompt.
    """
    device = torch.device(device)
    available = memory.memory_of(device)
    patient = Patient(policy=policy, encoder=encoder, device=device, new_tokens=new_tokens)

    def data_rows() -> str:
        made = None if data is None else data()
        prompts = hasattr(made, "rollout_batch_size")
        try:
            context = context_length(patient.model)
        except Exception:
            context = None
        return rows.rows_fit(made, context=context, new_tokens=response_tokens if prompts else 0)

    checks: dict[str, Callable[[], str]] = {
        "model and tokenizer load": lambda: passes.loads(patient),
        "padding changes nothing": lambda: passes.padding(patient),
        "sampling is teacher forcing": lambda: passes.generation(patient),
        "EOS is learned": lambda: passes.end_of_response(patient),
        "chat template": lambda: belongings.chat_template(patient.encoder),
        "ratio 1, KL 0 at rate 0": lambda: runs.first_ratio(patient),
        "reward head": lambda: belongings.head(reward),
        "data": data_rows,
        "adapter learns": lambda: runs.adapter_learns(patient),  # behind the others: it moves the adapter
        "memory": lambda: memory.fits(plan() if plan else None, available, device),
    }
    return [examine(name, check) for name, check in checks.items()]
