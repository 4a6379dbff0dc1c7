"""What a user probably meant: the nearest key, group or option to one that Hydra does not know."""

from __future__ import annotations

import importlib.resources
import re
import sys
from collections.abc import Iterator
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf_lightning.arguments import nearest
from rlhf_lightning.command import is_override
from rlhf_lightning.errors import one_line

CONFIGS = "rlhf_lightning.conf"
WHOLE_PIPELINE = "this experiment describes a whole pipeline; run it with rlhf-pipeline"
ONE_STAGE = "this experiment trains one stage; run it with rlhf-train"
MOST = 12  # unknown keys of one command line


def composition_reason(text: str, config_name: str) -> str | None:
    """What Hydra says of a config that does not compose, with the nearest that does; ``None`` if it is something else.

    Args:
        text: of the error and its causes.
        config_name: of the script's primary config.
    """
    unreadable = _unreadable()
    if unreadable is not None:
        return unreadable
    override = re.search(r"Could not override '([^']+)'", text)
    if override and "@steps." in override[1] and config_name == "train":
        return WHOLE_PIPELINE
    if override and override[1] == "stage" and config_name == "pipeline" and "In 'experiment/" in text:
        return ONE_STAGE
    needed = re.search(r"You must specify '([^']+)'", text)
    if needed:
        return _needed(needed[1], text)
    option = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if option and "/" in option[1]:
        group, _, wrong = option[1].partition("/")
        while _options(f"{group}/{wrong.partition('/')[0]}") and group != "experiment":
            group, wrong = f"{group}/{wrong.partition('/')[0]}", wrong.partition("/")[2]
        listed = re.search(r"Available options in '[^']+':\s*(.*?)\s*Config search path", text, flags=re.DOTALL)
        options = sorted({*_options(group), *(listed[1].split() if listed else ())})
        hint = nearest(f"{group}={wrong}", [f"{group}={name}" for name in options])
        shown = one_line(Exception(text), most=None).split(" Config search path:")[0].split(" Available options")[0]
        return f"{shown}; {hint or 'no option is near'} Available options in '{group}': {' '.join(options)}"
    if override:
        inner = re.search(r"Key '([^']+)' is not in struct", text)
        return _unknown_key(override[1], inner[1] if inner else "", config_name)
    return None


def _unreadable() -> str | None:
    """What is wrong with the first argument that is no ``key=value``."""
    parser = OverridesParser.create()
    for place, argument in enumerate(sys.argv):
        if place == 0 or not is_override(sys.argv, place):
            continue
        try:
            parser.parse_override(argument)
        except HydraException as error:
            if "=" not in argument and not argument.startswith("~"):
                return f"{argument}: a value is missing; give it as {argument}=..."
            reason = one_line(error, most=None).split(" See http")[0]
            return f"{argument}: {reason}; a value with blanks, commas or brackets is quoted: 'key=\"value\"'"
    return None


def _needed(group: str, text: str) -> str:
    arguments = [argument.lstrip("+~") for argument in sys.argv[1:]]
    chosen = next((argument for argument in arguments if argument.startswith("experiment=")), None)
    if group == "stage" and chosen:
        return f"{chosen} says no stage: it is for rlhf-pipeline, or needs stage=pretrain, sft, reward or ppo beside it"
    shown = " ".join(_options(group))
    for argument in arguments:
        key = argument.partition("=")[0]
        if key != group and nearest(key, [group]) and "." not in key:
            return f"no such key: {key}; did you mean {group}? ({group} is needed: {shown})"
    return f"{group} is needed and has no default; give it as {group}=..., one of {shown}"


def _unknown_key(key: str, inner: str, config_name: str) -> str:
    known = known_keys(config_name)
    if key in known:
        return (
            f"{key}={{...}} is merged into what is there, and {inner or 'one of its keys'} is no key of it: "
            f"++{key}={{...}} adds it; ~{key} +{key}={{...}} puts the new values in place of all"
        )
    hint = nearest(key, known) or "list the keys with --cfg job"
    return f"no such key: {key}; {hint} (+{key}=... adds a new one)"


def known_keys(config_name: str) -> list[str]:
    """Every key and group of the config that the command line's choices give, unknown ones left out."""
    given = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIGS, version_base="1.3"):
        for _ in range(MOST):
            try:
                config = compose(config_name, overrides=given)
            except (HydraException, OmegaConfBaseException) as error:
                unknown = re.search(r"Could not override '([^']+)'", str(error))
                left = [argument for argument in given if unknown and _key(argument) != unknown[1]]
                if unknown is None or len(left) == len(given):
                    return []
                given = left
            else:
                return [*_paths(OmegaConf.to_container(config, resolve=False), ""), *_groups()]
    return []


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~").partition("@")[0]


def _paths(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _paths(value, f"{prefix}{key}.")


def _groups() -> list[str]:
    return sorted({name.rpartition("/")[0] for name in _files(importlib.resources.files(CONFIGS), "") if "/" in name})


def _options(group: str) -> list[str]:
    """Names of a group's options, those of its folders behind their names."""
    folder = importlib.resources.files(CONFIGS).joinpath(*group.split("/"))
    found = sorted(_files(folder, "")) if folder.is_dir() else []
    return found if group == "experiment" else [name for name in found if "/" not in name]


def _files(folder: Any, prefix: str) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith("_"):
            yield from _files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name.removesuffix(".yaml")
