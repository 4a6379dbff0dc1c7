"""Muon for the hidden matrices and AdamW for all else, as one optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from rlhf_lightning.errors import UserError
from rlhf_lightning.functional import newton_schulz


class Muon(Optimizer):
    """Momentum orthogonalised by Newton-Schulz steps, for hidden matrices; AdamW for embeddings, heads and vectors.

    ``B ← μ B + (1 − μ) G``, ``W ← W − lr (scale · NewtonSchulz(G + μ (B − G)) + λ W)``: every direction of a matrix
    moves by about the same, however small its gradient (Jordan et al. 2024, "Muon: An optimizer for hidden layers in
    neural networks"; scale of Liu et al. 2025, "Muon is Scalable for LLM Training"). The steps are those of
    ``torch.optim.Muon``, taken for all matrices of one shape at once, which is what costs time in a small model;
    AdamW is torch's own.

    Args:
        groups: from :func:`~rlhf_lightning.modules.optimization.parameter_groups`, which says what is a hidden matrix.
        matrix_lr_ratio: learning rate of the hidden matrices over the module's.
        adjust_lr_fn: ``match_rms_adamw``, scale 0.2 √max(rows, columns), for which AdamW's learning rates and weight
            decay are right; or ``original``, scale √max(1, rows / columns), which wants rates near 0.02.
        momentum, ns_steps: μ and the number of Newton-Schulz steps.
        betas, eps: of AdamW.

    Raises:
        UserError: an unknown ``adjust_lr_fn``, a ratio that is not positive, groups without a hidden matrix.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        matrix_lr_ratio: float = 1.0,
        adjust_lr_fn: str = "match_rms_adamw",
        momentum: float = 0.95,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-5,
    ) -> None:
        if adjust_lr_fn not in ("match_rms_adamw", "original"):
            raise UserError(f"optimizer.adjust_lr_fn={adjust_lr_fn!r} is neither 'match_rms_adamw' nor 'original'")
        if not matrix_lr_ratio > 0.0:
            raise UserError(f"optimizer.matrix_lr_ratio={matrix_lr_ratio} must be above 0")
        if any("kind" not in group for group in groups):
            raise UserError("optimizer: Muon needs the groups of rlhf_lightning.modules.optimization.parameter_groups")
        if all(group["kind"] != "matrix" for group in groups):
            raise UserError("optimizer: the model has no hidden matrix that Muon could train; take optimizer=adamw")
        own = {
            True: {"momentum": momentum, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn},
            False: {"betas": betas, "eps": eps},
        }
        super().__init__([group | own[group["kind"] == "matrix"] for group in groups], {})
        for group in self.param_groups:
            if group["kind"] == "matrix":
                group["lr"] *= matrix_lr_ratio
        self._connect()

    def _connect(self) -> None:
        """Give torch's AdamW the groups and the state of this one: what a scheduler, a checkpoint or Lightning does to
        this one is then done to it."""
        rest = [group for group in self.param_groups if group["kind"] != "matrix"]
        self._rest = torch.optim.AdamW(rest, fused=True) if rest else None
        if self._rest is not None:
            self._rest.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a checkpoint or a copy the groups and the state are new objects."""
        super().__setstate__(state)
        self._connect()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both; returns what ``closure`` gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["kind"] == "matrix":
                self._step(group)
        if self._rest is not None:
            self._rest.step()
        return loss

    @torch.no_grad()
    def _step(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for matrix in group["params"]:
            if matrix.grad is not None:
                by_shape[matrix.shape].append(matrix)
        for shape, alike in by_shape.items():
            most = max(1, _STACKED // shape.numel())
            for first in range(0, len(alike), most):
                self._step_alike(alike[first : first + most], shape, group)

    def _step_alike(self, matrices: list[nn.Parameter], shape: torch.Size, group: dict[str, Any]) -> None:
        updates = []
        for matrix in matrices:
            state, gradient = self.state[matrix], matrix.grad
            assert gradient is not None
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            buffer = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
            updates.append(gradient.lerp(buffer, group["momentum"]))
        matched = group["adjust_lr_fn"] == "match_rms_adamw"
        scale = 0.2 * math.sqrt(max(shape)) if matched else math.sqrt(max(1.0, shape[0] / shape[1]))
        for matrix, update in zip(matrices, newton_schulz(torch.stack(updates), steps=group["ns_steps"]), strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


# Numbers in one stack: enough for a small model's matrices together, little beside a large model's.
_STACKED = 2**22
