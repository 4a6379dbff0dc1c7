"""What the console scripts share: errors as one line, exit code 1."""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra_plugins.rlhf_lightning import OptunaSweeper
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf_lightning.errors import UserError, one_line
from rlhf_lightning.launching import rank

TRACEBACK = "HYDRA_FULL_ERROR"
WHOLE_PIPELINE = "this experiment describes a whole pipeline; run it with rlhf-pipeline"
MENDABLE = (HydraException, OmegaConfBaseException, UserError)

_failures: list[Exception] = []
_script: dict[str, bool] = {}  # of this process, while it runs one: whether its user asked for tracebacks


def reported(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Keep a task's mendable error for :func:`run_script`, which prints it as one line; Hydra would add its own.

    In a process that runs no script, such as a job of a launcher, the error is raised: Hydra takes it to the script.
    """

    @functools.wraps(task)
    def run(config: DictConfig) -> Any:
        try:
            return task(config)
        except MENDABLE as error:
            _keep(error)
            return None

    return run


def _keep(error: Exception) -> None:
    # A function by itself: a launcher takes a task to its job by value, with what it knows of this module.
    if not _script:
        raise error
    _failures.append(error)


def keep_failure(error: Exception) -> None:
    """What :func:`run_script` says at its end, and why its exit code is 1; nothing where no script runs."""
    if _script and not _failures:
        _failures.append(error)


def runs_script() -> bool:
    """Whether this process is a console script, whose command Lightning can give to the processes that it starts."""
    return bool(_script)


def environment_of_user() -> dict[str, str]:
    """The environment without what :func:`run_script` has set, for a command that reports its errors by itself."""
    hidden = TRACEBACK if _script and not _script["asked"] else None
    return {name: value for name, value in os.environ.items() if name != hidden}


def run_script(app: Callable[[], Any], *, name: str, config_name: str, example: str) -> None:
    """Run a Hydra application; what a user can mend becomes one line on standard error and exit code 1.

    ``HYDRA_FULL_ERROR=1`` asks for the whole traceback. Errors that are no user's fault keep theirs.

    Args:
        app: the function that ``hydra.main`` decorates, its task wrapped in :func:`reported`.
        name: of the script.
        config_name: of its primary config.
        example: a choice without which the config does not compose; ``--help`` shows it.
    """
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments) and not any(a.startswith(example.split("=")[0] + "=") for a in arguments):
        sys.argv.append(example)
    # A process that Lightning has started inherits the variable from the first one, which may have set it itself.
    asked = os.environ.get(TRACEBACK) == "1" and rank() == 0
    os.environ[TRACEBACK] = "1"  # Hydra then hands its errors on instead of printing them over several lines
    _failures.clear()
    _script["asked"] = asked
    Plugins.instance().register(OptunaSweeper)  # in an editable install Hydra does not find it by itself
    try:
        app()
        if _failures:
            raise _failures[0]
    except MENDABLE as error:
        reason = user_reason(error, config_name)
        if asked or reason is None:
            raise
        who = name if rank() == 0 else f"{name}, process {rank()}"
        print(f"{who}: error: {reason}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the last complete checkpoint is kept", file=sys.stderr)
        sys.exit(130)
    finally:
        _script.clear()
        if not asked:
            os.environ.pop(TRACEBACK, None)


def require_values(config: DictConfig, prefix: str = "") -> None:
    """Refuse a config in which a mandatory value is missing.

    Raises:
        UserError: names the first such key.
    """
    for key in _missing(OmegaConf.to_container(config, resolve=False), prefix):
        raise UserError(f"{key} is needed and has no default; give it as {key}=...")


def _missing(node: Any, prefix: str) -> Iterator[str]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if value == "???":
            yield f"{prefix}{key}"
        yield from _missing(value, f"{prefix}{key}.")


def user_reason(error: BaseException, config_name: str) -> str | None:
    """The error as one line, or ``None`` if it is a bug rather than a mistake in the input."""
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return one_line(cause, most=None)
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    for group, name in (("launcher", "submitit"), ("launcher", "joblib"), ("launcher", "ray")):
        if f"hydra/{group}/{name}" in str(error):
            return f"hydra/{group} needs {name}: pip install rlhf-lightning[{name}]"
    if any(isinstance(cause, ModuleNotFoundError) and cause.name == "optuna" for cause in _causes(error)):
        return "hydra/sweeper=optuna needs optuna: pip install rlhf-lightning[optuna]"
    if unknown and "@steps." in unknown.group(1) and config_name == "train":
        return WHOLE_PIPELINE
    if unknown and "Key" in "".join(str(cause) for cause in _causes(error)):
        return _unknown_key(unknown.group(1), config_name)
    if type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        return None
    return one_line(error, most=None).split(" Config search path:")[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_key(key: str, config_name: str) -> str:
    nearest = difflib.get_close_matches(key, _known_keys(config_name), n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else "list the keys with --cfg job"
    return f"no such key: {key}; {hint} (+{key}=... adds a new one)"


def _known_keys(config_name: str) -> list[str]:
    """Every key of the config that the command line's choices of stage or experiment give."""
    choices = [argument for argument in sys.argv[1:] if argument.split("=")[0] in ("stage", "experiment", "labeler")]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
            config = compose(config_name, overrides=choices)
    except MENDABLE:
        return []
    return list(_paths(OmegaConf.to_container(config, resolve=False), ""))


def _paths(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _paths(value, f"{prefix}{key}.")
