"""LoRA: low-rank updates beside frozen weights, through peft."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.token_rows import refuse_tied, token_rows

ADAPTER = "default"
"""The name of an adapter where a model has one alone, which is the name that peft gives it."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Settings of an adapter: a frozen ``W`` acts as ``W + (α / r) B A`` (Hu et al. 2021, eq. 3), B zero at first.

    Args:
        rank: r, the inner dimension of ``B A``.
        alpha: α.
        dropout: of what A reads; 0 for PPO, whose ratio must be 1 before an update.
        target_modules: names of the layers to adapt; ``all-linear``: all but the output layer; ``None``: those that
            peft knows for the architecture.
        use_rslora: scale by α / √r instead (Kalajdzievski 2023).
        use_dora: learn the length of each column apart from its direction (Liu et al. 2024, DoRA).
        modules_to_save: names of modules that are trained in full beside the adapter.
        trainable_tokens: tokens whose rows of the embedding, and of the output layer, are trained in full: an EOS that
            the base never learned, or tokens that are new to it; "eos", "bos", "pad", a token such as "</s>", or an id.
            Each forward pass then copies the embedding, which is what peft does.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | Sequence[str] | None = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: Sequence[str] = ()
    trainable_tokens: Sequence[str | int] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"model.lora.rank={self.rank} must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"model.lora.dropout={self.dropout} must lie between 0 and 1")


def add_lora(model: Any, lora: Lora, *, adapter: str = ADAPTER, head: str | None = None) -> None:
    """Freeze a transformers model and give it an adapter that trains, its weights in float32.

    Args:
        model: changed in place.
        lora: the adapter's settings.
        adapter: its name.
        head: a module of the model that is new and trains in full, such as a scalar head, which is not adapted.

    Raises:
        UserError: peft is not installed; no module has one of the names; an adapter on one of two layers whose weights
            are tied; tokens that are no ids of the model.
    """
    peft = require_peft()
    targets = lora.target_modules
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if targets is None or isinstance(targets, str) else list(targets),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2 stores weights transposed
        modules_to_save=list(lora.modules_to_save) or None,
        trainable_token_indices=token_rows(model, lora, head) or None,
        task_type="CAUSAL_LM" if head is None else "SEQ_CLS",
    )
    known = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    unknown = [name for name in lora.modules_to_save if name.rpartition(".")[2] not in known]
    if unknown:
        raise UserError(f"model.lora.modules_to_save: {type(model).__name__} has no module {unknown[0]!r}")
    if not has_adapters(model):
        model.requires_grad_(False)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        with beside(model):
            model.add_adapter(config, adapter)
    except ValueError as error:
        raise UserError(
            f"model.lora.target_modules={targets}: {str(error).splitlines()[0]}; name layers of "
            f"{type(model).__name__}, such as {', '.join(_linear_names(model))}, or take all-linear"
        ) from error
    activate(model, [adapter])
    if head is None:
        refuse_tied(model)
    for name, parameter in model.named_parameters():
        if name in flags:
            parameter.requires_grad_(flags[name])  # adding one adapter would freeze the others
        if parameter.requires_grad and any(part in name for part in ("lora_", "trainable_tokens_")):
            parameter.data = parameter.data.float()  # peft casts what they read; of other modules it does not
    if head is not None:
        model.get_submodule(head).requires_grad_(True)


def beside(model: nn.Module) -> AbstractContextManager[Any]:
    """Within it an adapter's weights are made without values if the model has none, as
    :func:`~rlhf_lightning.models.loaded_by_first` makes it."""
    return torch.device("meta") if next(model.parameters()).is_meta else nullcontext()


def has_adapters(model: nn.Module) -> bool:
    """Whether a model carries peft adapters."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def adapter_modules(model: nn.Module, adapter: str) -> nn.ModuleList:
    """What an adapter of that name consists of: its factors, its copies of modules that are trained in full, and its
    rows of embeddings."""
    parts = ("lora_", "modules_to_save", "trainable_tokens_delta")

    def own(name: str) -> bool:
        place, _, last = name.rpartition(".")
        return last == adapter and place.rpartition(".")[2].startswith(parts)

    modules: list[nn.Module] = [module for name, module in model.named_modules() if own(name)]
    single = [parameter for name, parameter in model.named_parameters() if own(name)]  # of embeddings
    return nn.ModuleList([*modules, nn.ParameterList(single)] if single else modules)


@contextlib.contextmanager
def adapter_active(model: nn.Module, adapter: str | None) -> Iterator[None]:
    """Within it, ``adapter`` acts, or with ``None`` the bare base; then what acted before acts again, also after an
    exception. What trains is left as it is, where peft would freeze all but the active adapter.

    With activation checkpointing a backward pass computes anew, so that it belongs into the same context as its
    forward pass.
    """
    layers = list(_adapted_layers(model))
    before = [(layer, list(layer.active_adapters), bool(layer.disable_adapters)) for layer in layers]
    flags = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]

    def leave_as_it_was() -> None:
        for parameter, trains in flags:
            parameter.requires_grad_(trains)

    try:
        for layer in layers:
            if adapter is None:
                layer.enable_adapters(False)
            else:
                _switch(layer, [adapter])
                layer.enable_adapters(True)
        leave_as_it_was()
        yield
    finally:
        for layer, adapters, disabled in before:
            _switch(layer, adapters)
            layer.enable_adapters(not disabled)
        leave_as_it_was()


def require_peft() -> Any:
    """The package peft.

    Raises:
        UserError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise UserError("model/lora needs the package peft: pip install 'rlhf-lightning[lora]'") from error
    return peft


def acting(model: nn.Module) -> dict[int, list[str]]:
    """Which adapters act, by the identity of the layer."""
    return {id(layer): list(layer.active_adapters) for layer in _adapted_layers(model)}


def activate(model: nn.Module, adapters: list[str] | dict[int, list[str]]) -> None:
    """Have adapters act from now on, in those layers that have them, or as :func:`acting` found it; layers that were
    not there then act as in the base."""
    for layer in _adapted_layers(model):
        _switch(layer, adapters if isinstance(adapters, list) else adapters.get(id(layer), []))


def _switch(layer: Any, adapters: list[str]) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(layer, BaseTunerLayer) and adapters and layer.check_set_adapter(adapters) is None:
        adapters = []  # a module that this adapter does not train acts as in the base
    layer.set_adapter(adapters)


def _adapted_layers(model: nn.Module) -> Iterator[Any]:
    """Layers with factors, and modules that are trained in full or row by row; such a one speaks for what is in it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper

    within: set[int] = set()
    for module in model.modules():
        if isinstance(module, TrainableTokensWrapper):
            within.add(id(module.token_adapter))
        whole = isinstance(module, ModulesToSaveWrapper | TrainableTokensWrapper)
        if whole or (isinstance(module, BaseTunerLayer) and id(module) not in within):
            yield module


def _linear_names(model: nn.Module) -> list[str]:
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return sorted(names)[:8]
