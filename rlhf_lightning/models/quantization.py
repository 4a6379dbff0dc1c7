"""Frozen weights in 8 or 4 bits, through transformers and bitsandbytes."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.dtypes import torch_dtype

M_MMAP_THRESHOLD = -3  # of mallopt, in malloc.h


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a base model's frozen weights are stored.

    Args:
        kind: ``int8`` (Dettmers et al. 2022, LLM.int8()) or ``nf4`` (Dettmers et al. 2023, QLoRA, section 3).
        compute_dtype: of the products with weights in 4 bits; ``None``: ``model.dtype``.
        double: also quantise the quantisation constants of 4-bit weights.
        skip_modules: names of modules to leave as they are; the output layer and scalar heads always are.
        threshold: of int8 on a GPU: columns of the input with an entry beyond it are multiplied in 16 bits, which
            changes the rounding of every row of the batch, so that scores depend on batch mates; LLM.int8() has 6, 0 is
            without.
    """

    kind: Literal["int8", "nf4"]
    compute_dtype: str | None = None
    double: bool = False
    skip_modules: Sequence[str] = ()
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("int8", "nf4"):
            raise UserError(f"model.quantization.kind={self.kind!r} is neither 'int8' nor 'nf4'")

    @property
    def unquantized(self) -> tuple[str, ...]:
        """Names of modules that are never quantised: output layers and scalar heads."""
        return ("lm_head", "embed_out", "score")

    def config(self, dtype: torch.dtype) -> Any:
        """The ``BitsAndBytesConfig`` of transformers for a model of that dtype.

        Raises:
            UserError: bitsandbytes is not installed, an unknown ``compute_dtype``.
        """
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError(
                "model/quantization needs the package bitsandbytes: pip install 'rlhf-lightning[quantization]'"
            )
        import transformers

        make: Any = transformers.BitsAndBytesConfig  # which carries no types
        _say_once("bitsandbytes.autograd._functions")  # of every product, that its input is rounded to 16 bits
        skipped = [*self.unquantized, *self.skip_modules]
        if self.kind == "int8":
            return make(load_in_8bit=True, llm_int8_threshold=self.threshold, llm_int8_skip_modules=skipped)
        key = "model.quantization.compute_dtype"
        compute = dtype if self.compute_dtype is None else torch_dtype(self.compute_dtype, key)
        return make(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=compute,
            bnb_4bit_use_double_quant=self.double,
            llm_int8_skip_modules=skipped,
        )


def leave_file(model: nn.Module) -> None:
    """Copy on a CPU what is not quantised out of the mapped weight file: one weight that points into it keeps every
    page of the full weights that was read resident."""
    quantised = (torch.int8, torch.uint8)
    for weight in (*model.parameters(), *model.buffers()):
        if weight.device.type == "cpu" and weight.dtype not in quantised:
            weight.data = weight.data.clone()


def give_back_unpacked(model: nn.Module) -> None:
    """On a CPU let glibc hand blocks of 1 MiB and more back when they are freed: a layer's weights are unpacked there
    for every product, and would stay with the process. It concerns the whole process; a threshold that was chosen in
    the environment (``MALLOC_MMAP_THRESHOLD_``) stays. Other C libraries are left as they are."""
    on_cpu = any(weight.device.type == "cpu" for weight in model.parameters())
    if on_cpu and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        with contextlib.suppress(AttributeError, OSError, TypeError):
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)


def same_products_everywhere(model: nn.Module) -> None:
    """Have quantised layers on a CPU compute in evaluation what they compute in training, so that a rollout has the
    probabilities of the update: bitsandbytes would there also round 8-bit layers' inputs to 8 bits, and repack 4-bit
    weights for a kernel that rounds to bfloat16 and takes only some widths."""
    module: Any  # bitsandbytes declares no types
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        elif type(module).__name__ == "Linear8bitLt":
            module.register_forward_pre_hook(_as_in_training)


def _as_in_training(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
    if arguments[0].device.type == "cpu":
        layer.training = True


class _FirstOfEach(logging.Filter):
    """Lets every message pass once."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is new."""
        message = record.getMessage()
        new = message not in self.seen
        self.seen.add(message)
        return new


def _say_once(name: str) -> None:
    logger = logging.getLogger(name)
    if not any(isinstance(known, _FirstOfEach) for known in logger.filters):
        logger.addFilter(_FirstOfEach())


def computes_exactly(model: nn.Module) -> bool:
    """Whether two ways to compute the same differ by the rounding of float32 alone: weights in float32, not
    quantised."""
    return next(model.parameters()).dtype == torch.float32 and not is_quantized(model)


def is_quantized(model: nn.Module) -> bool:
    """Whether a transformers model stores weights in fewer bits."""
    return bool(getattr(model, "is_quantized", False))
