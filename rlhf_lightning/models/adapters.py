"""Adapters as folders, and as part of plain weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.lora import ADAPTER, acting, activate, beside, has_adapters, require_peft
from rlhf_lightning.models.quantization import is_quantized
from rlhf_lightning.models.quiet import quiet_transformers
from rlhf_lightning.models.token_rows import foreign_rows

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PEFT = "base_model.model."
_LEARNED = ("lora_", "modules_to_save.", "trainable_tokens_")


def save_adapter(
    model: Any,
    folder: str | Path,
    *,
    head: str | None = None,
    adapter: str = ADAPTER,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write an adapter as peft reads it: ``adapter_model.safetensors`` and ``adapter_config.json``.

    Args:
        model: a transformers model with that adapter.
        folder: where to.
        head: a module that was trained in full, such as a scalar head; peft puts it in place of the base's.
        adapter: its name.
        weights: the model's state in full, where its own is sharded.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    own = dict(model.state_dict() if weights is None else weights)
    state = model.get_adapter_state_dict(adapter, state_dict=own)
    if head is not None:
        state |= {name: weight for name, weight in own.items() if name.startswith(f"{head}.")}
    config = copy.deepcopy(model.peft_config[adapter])
    config.inference_mode = True
    if head is not None:
        config.modules_to_save = [*(config.modules_to_save or []), head]
    config.save_pretrained(folder)
    save_file({_PEFT + name: weight.detach().cpu().contiguous() for name, weight in state.items()}, folder / WEIGHTS)


def load_adapter(model: Any, folder: str | Path, *, adapter: str, head: nn.Linear | None = None) -> None:
    """Give a model one more adapter, from a folder that :func:`save_adapter` wrote; it is frozen, the rest as before.

    Args:
        model: a transformers model on the same base.
        folder: of the adapter.
        adapter: the name that it gets.
        head: takes the weights of the head that the folder holds.

    Raises:
        UserError: no adapter there, no head in it, weights that do not fit the model.
    """
    peft = require_peft()
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no adapter ({CONFIG} and {WEIGHTS}): train that stage with model/lora=default")
    state = {name.removeprefix(_PEFT): weight for name, weight in load_file(folder / WEIGHTS).items()}
    own_head = {name: state.pop(name) for name in list(state) if name.startswith("score.")}
    if head is not None:
        if "score.weight" not in own_head or own_head["score.weight"].shape != head.weight.shape:
            raise UserError(
                f"{folder} holds no score head of {head.in_features} numbers: give a reward model's adapter"
            )
        with torch.no_grad():
            head.weight.copy_(own_head["score.weight"])
    config = peft.LoraConfig.from_pretrained(str(folder))
    config.modules_to_save = [name for name in config.modules_to_save or [] if name != "score"] or None
    config.task_type = "CAUSAL_LM"
    config.inference_mode = False
    before = acting(model) if has_adapters(model) else {}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with beside(model):
        model.add_adapter(config, adapter)
    others, aliases = foreign_rows(model, state)
    outcome = peft.set_peft_model_state_dict(model, state | others, adapter_name=adapter)
    unknown = [key for key in outcome.unexpected_keys if key.removesuffix(f".{adapter}") not in others]
    own = [key for key in outcome.missing_keys if f".{adapter}." in f"{key}." and not key.startswith(aliases)]
    missing = [key for key in own if any(part in key for part in _LEARNED)]
    if unknown or missing:
        raise UserError(
            f"the adapter in {folder} does not fit this model: {len(unknown)} weights are unknown and {len(missing)} "
            f"missing ({[*unknown, *missing][0]}); it is of another architecture"
        )
    if before:
        activate(model, before)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, False))


def merged(model: Any, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> Any:
    """A plain model, on the CPU, with the adapter in ``folder`` added to its weights: ``W + (α / r) B A``.

    A quantised base is loaded anew in full precision, since adding to 8-bit weights would round the update away.

    Args:
        model: the model that the adapter was trained on.
        folder: of the adapter.
        weights: the model's state in full, where its own is sharded.

    Raises:
        UserError: a quantised base that cannot be loaded anew.
    """
    peft = require_peft()
    if is_quantized(model):
        again = getattr(model, "load_unquantized", None)
        if again is None:
            raise UserError(
                "the quantised base of this adapter was not loaded by rlhf_lightning, so that it cannot be loaded anew "
                "for merging: save the adapter alone"
            )
        with quiet_transformers():
            plain = again()
    else:
        plain = plain_copy(model, weights)
    with quiet_transformers(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)  # peft's own
        whole = peft.PeftModel.from_pretrained(plain, str(folder))
        return whole.merge_and_unload(safe_merge=True)


def plain_copy(model: Any, weights: Mapping[str, Tensor] | None = None) -> Any:
    """The frozen base of a model with adapters as a model of its own, on the CPU; ``weights`` as in
    :func:`merged`."""
    base = base_weights(model.state_dict() if weights is None else weights)
    state = {name: weight.detach().cpu().clone() for name, weight in base.items()}
    config = copy.deepcopy(model.config)
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(state, strict=False, assign=True)
    plain.tie_weights()
    _copy_constants(model, plain)
    plain.generation_config = copy.deepcopy(getattr(model, "generation_config", None))
    still = [name for name, weight in plain.state_dict().items() if weight.is_meta]
    if still:
        raise UserError(f"the base of {type(model).__name__} lacks {', '.join(still[:3])}")
    return plain.eval()


def _copy_constants(model: nn.Module, plain: nn.Module) -> None:
    """Buffers that no file holds, such as rotary frequencies."""
    own = {_plain_name(name): buffer for name, buffer in model.named_buffers()}
    for name, buffer in list(plain.named_buffers()):
        if buffer.is_meta:
            parent, _, last = name.rpartition(".")
            plain.get_submodule(parent).register_buffer(last, own[name].detach().cpu().clone(), persistent=False)


def base_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the state of a model, the weights beneath the adapters, by the names that they have in a plain model."""
    return {_plain_name(name): weight for name, weight in state.items() if not any(part in name for part in _LEARNED)}


def _plain_name(name: str) -> str:
    return name.replace(".token_adapter.", ".").replace(".base_layer.", ".").replace(".original_module.", ".")
