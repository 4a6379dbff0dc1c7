"""Values of a config against the arguments of what they are for: names and kinds, before anything is made."""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union

import lightning as L
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import make_trainer

PLAIN: Mapping[str, Any] = {"seed": int, "run_dir": str, "resume": str | None, "dry_run": bool}
"""What the values at the top of a config are."""
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
}


def check_arguments(config: DictConfig, prefix: str = "") -> None:
    """Refuse a value that its class has no argument for, or one of another kind than the argument's annotation.

    Only plain kinds are judged: numbers, truth values, texts and choices. What an interpolation gives is judged where
    it stands itself, and a class that cannot be imported tells why when it is made.

    Args:
        config: of one stage, composed.
        prefix: of its keys, for the message, such as ``steps.sft.``.

    Raises:
        UserError: names the key, the value, and the nearest right one.
    """
    node: Any = OmegaConf.to_container(config, resolve=False)
    if "seed" in node and node["seed"] is None:
        raise UserError(
            f"{prefix}seed=null must be a whole number, for the run to be repeated; seed=$RANDOM is another each time"
        )
    for key, kind in PLAIN.items():
        if key in node:
            _check_value(f"{prefix}{key}", node[key], kind)
    for path, found in _targets(node, prefix):
        try:
            made = get_object(found["_target_"])
            parameters = _parameters(made)
        except Exception:  # an extra that is missing, a class of C: making it says so better
            continue
        for key, value in found.items():
            if key.startswith("_"):
                continue
            if key in parameters:
                _check_value(f"{path}.{key}", value, parameters[key])
            elif "**" not in parameters:
                name = getattr(made, "__name__", found["_target_"])
                hint = nearest(f"{path}.{key}", [f"{path}.{other}" for other in parameters])
                raise UserError(f"no such key: {path}.{key}; {hint or f'{name} takes {_listed(parameters)}'}")


def nearest(wrong: str, known: Iterable[str]) -> str:
    """``did you mean ...?``, or nothing if nothing is near."""
    found = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else ""


def _targets(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield path.rstrip("."), node
        for key, value in node.items():
            yield from _targets(value, f"{path}{key}.")


def _parameters(made: Any) -> dict[str, Any]:
    """Name -> annotation of each argument; ``**`` is among them where any other name is taken, too."""
    if made is make_trainer:  # hands on what it does not take itself
        return {**_parameters(L.Trainer), **{k: v for k, v in _own(made).items() if k != "**"}}
    return _own(made)


def _own(made: Any) -> dict[str, Any]:
    function = made.__init__ if inspect.isclass(made) else made
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # annotations of names that are imported for type checking alone
        hints = {}
    parameters = inspect.signature(made).parameters.values()
    named = {p.name: hints.get(p.name, Any) for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    named |= {p.name: named[p.name] | None for p in parameters if p.name in named and p.default is None}
    return named | ({"**": Any} if any(p.kind is p.VAR_KEYWORD for p in parameters) else {})


def _check_value(key: str, value: Any, kind: Any) -> None:
    if isinstance(value, str) and ("${" in value or value == "???"):
        return
    if not _fits(value, kind):
        choices = [choice for choice in _choices(kind) if isinstance(choice, str)]
        hint = nearest(str(value), choices) if isinstance(value, str) else ""
        raise UserError(f"{key}={_shown(value)} must be {_wording(kind)}" + (f"; {hint}" if hint else ""))


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(value, Mapping) and "_target_" in value:
        return True  # what it makes is known once it is made
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(kind))
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(kind))
    if kind in (None, type(None)):
        return value is None
    if kind in (bool, str, Path):
        return isinstance(value, bool if kind is bool else str) or (kind is not bool and type(value) in (int, float))
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if origin in (list, tuple, set, dict) or kind in (list, tuple, set, dict):
        return isinstance(value, list | dict)
    return True  # of a class, of any kind: only that which takes it can judge


def _choices(kind: Any) -> Iterator[Any]:
    for part in typing.get_args(kind):
        if typing.get_origin(kind) is Literal:
            yield part
        else:
            yield from _choices(part)


def _wording(kind: Any) -> str:
    if typing.get_origin(kind) in (Union, types.UnionType):
        choices = [_wording(part) for part in typing.get_args(kind)]
        return " or ".join(dict.fromkeys(choices))
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if kind in WORDS:
        return WORDS[kind]
    return "a list" if (typing.get_origin(kind) or kind) in (list, tuple, set) else "a mapping"


def _shown(value: Any) -> str:
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, list | dict)
        else str(value)
    )


def _listed(parameters: Iterable[str]) -> str:
    return ", ".join(sorted(parameters)) or "no argument"
