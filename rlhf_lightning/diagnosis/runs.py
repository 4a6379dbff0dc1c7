"""Checks that train: two iterations of PPO at learning rate 0, two steps of an adapter."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader

from rlhf_lightning.diagnosis.finding import CheckFailed, NothingToCheck
from rlhf_lightning.diagnosis.patient import Patient
from rlhf_lightning.models import has_adapters
from rlhf_lightning.modules import PPOModule, SFTModule

STEPS = 2


def first_ratio(patient: Patient) -> str:
    """PPO at learning rate 0: the ratio of new to old probabilities stays 1 and the KL to the reference 0."""
    prompts, model = patient.prompts(), patient.model
    episodes = len(prompts.prompts)
    module = PPOModule(
        policy=lambda: model,
        reward=lambda prompts, responses: torch.tensor([float(len(response)) for response in responses]),
        encoder=patient.encoder,
        roles="shared" if has_adapters(model) else "separate",
        max_new_tokens=patient.new_tokens,
        minibatch_size=episodes,
        learning_rate=0.0,
        epochs=2,
        optimizer=torch.optim.SGD,  # without a state, which at learning rate 0 would be for nothing
    )
    metrics = _fit(module, [{"prompts": prompts}] * STEPS, patient)
    ratio, moved, kl = (metrics[name] for name in ("train/ratio", "train/approx_kl", "rollout/kl"))
    found = f"ratio {ratio:.6f}, KL of the update {moved:.1g}, KL to the reference {kl:.1g} at learning rate 0"
    # KL is a sum over the tokens of a response; the update's KL is quadratic in what log-probabilities differ by.
    limit = patient.tolerance
    if not (abs(ratio - 1) <= limit and moved <= limit**2 and abs(kl) <= limit * patient.new_tokens):
        raise CheckFailed(found, "training and sampling disagree: set model.dropout=0, or take model.dtype=float32")
    return found


def adapter_learns(patient: Patient) -> str:
    """After two steps every second factor of the adapter is non-zero, and the base is bit for bit what it was."""
    model = patient.model
    if not has_adapters(model):
        raise NothingToCheck("no adapter; model/lora=default trains one")
    before = _frozen_weights(model)
    module = SFTModule(policy=lambda: model, learning_rate=1e-3, schedule="constant")
    _fit(module, [patient.demonstrations()] * STEPS, patient)
    factors = {name: weight for name, weight in model.named_parameters() if ".lora_B." in name}
    idle = [name for name, weight in factors.items() if not weight.any()]
    if idle or not factors:
        raise CheckFailed(
            f"{len(idle)} of {len(factors)} factors B are still zero after {STEPS} steps ({', '.join(idle[:2])})",
            "they get no gradient: unfreeze them, and check model.lora.target_modules",
        )
    after = _frozen_weights(model)
    changed = [name for name, digest in before.items() if after.get(name, digest) != digest]
    if changed:
        raise CheckFailed(
            f"{len(changed)} weights of the base changed ({changed[0]})", "freeze them: the base is shared"
        )
    return f"{len(factors)} factors B are non-zero after {STEPS} steps, {len(before)} weights of the base are unchanged"


def _fit(module: L.LightningModule, batches: list[Any], patient: Patient) -> dict[str, float]:
    """Train silently on the patient's device; the metrics of the last step. Nothing is written."""
    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = "cpu" if patient.device.type == "cpu" else "gpu"
        trainer = L.Trainer(accelerator=accelerator, devices=1, max_epochs=1, default_root_dir=folder, **quiet)
        loader: Any = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*")  # of loaders, workers and validation, which are meant
            trainer.fit(module, loader)
    patient.model.to(patient.device)  # a trainer leaves it on the CPU
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _frozen_weights(model: nn.Module) -> dict[str, str]:
    """A hash of all bytes of each weight that does not train."""
    return {
        name: hashlib.sha256(weight.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, weight in model.named_parameters()
        if not weight.requires_grad
    }
