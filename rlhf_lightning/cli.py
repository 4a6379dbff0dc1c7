"""What the console scripts share: errors as one line, exit code 1."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf_lightning.command import VALUED, of_run
from rlhf_lightning.errors import UserError, one_line
from rlhf_lightning.launching import rank
from rlhf_lightning.suggestions import composition_reason

TRACEBACK = "HYDRA_FULL_ERROR"
NEEDED = "<needed>"
"""What stands in an experiment for a value that it needs and its stage does not: ``???`` would not replace a null."""
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
            _name_folders(config)
            return task(config)
        except MENDABLE as error:
            _keep(error)
            return None

    return run


def _name_folders(config: DictConfig) -> None:
    """``run_dir=2024`` is read as a number, and meant as a name."""
    for key in ("run_dir", "base_dir", "out"):
        if key in config and not OmegaConf.is_missing(config, key) and type(config[key]) in (int, float):
            config[key] = str(config[key])


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


def run_script(
    app: Callable[[], Any], *, name: str, config_name: str, example: str, own_folder: str = "${run_dir}"
) -> None:
    """Run a Hydra application; what a user can mend becomes one line on standard error and exit code 1.

    ``HYDRA_FULL_ERROR=1`` asks for the whole traceback. Errors that are no user's fault keep theirs.

    Args:
        app: the function that ``hydra.main`` decorates, its task wrapped in :func:`reported`.
        name: of the script.
        config_name: of its primary config.
        example: a choice without which the config does not compose; ``--help`` shows it.
        own_folder: where Hydra keeps the config of a run that another run's is the config of.
    """
    arguments = sys.argv[1:]
    dashes = [a for a in arguments if re.match(r"--[a-z_]+([./][a-z_./]+)?=", a) and a.split("=")[0] not in VALUED]
    if dashes:
        print(f"{name}: error: {dashes[0]}: keys have no dashes; give {dashes[0].lstrip('-')}", file=sys.stderr)
        sys.exit(1)
    sys.argv[1:] = of_run(arguments, own_folder)
    if {"--help", "-h"} & set(arguments) and not any(a.startswith(example.split("=")[0] + "=") for a in arguments):
        sys.argv.append(example)
    # A process that Lightning has started inherits the variable from the first one, which may have set it itself.
    asked = os.environ.get(TRACEBACK) == "1" and rank() == 0
    os.environ[TRACEBACK] = "1"  # Hydra then hands its errors on instead of printing them over several lines
    _failures.clear()
    _script["asked"] = asked
    _register_sweeper()
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


def _register_sweeper() -> None:
    """In an editable install Hydra does not find it by itself; in one from before it was there, nothing does."""
    try:
        from hydra_plugins.rlhf_lightning import OptunaSweeper
    except ModuleNotFoundError:
        return  # who asks for it is told by user_reason
    Plugins.instance().register(OptunaSweeper)


def command_line(name: str) -> str:
    """What was typed to run this script; folders of this machine outside the working folder lose their own names."""
    given = [re.sub(r"(?<=[=:])/(?:[^/\s\]},]+/)+", ".../", argument) for argument in sys.argv[1:]]
    return shlex.join([name, *given])


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
        if value in ("???", NEEDED):
            yield f"{prefix}{key}"
        yield from _missing(value, f"{prefix}{key}.")


def user_reason(error: BaseException, config_name: str) -> str | None:
    """The error as one line, or ``None`` if it is a bug rather than a mistake in the input."""
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return one_line(cause, most=None)
    for name in ("submitit", "joblib", "ray"):
        if f"hydra/launcher/{name}" in str(error):
            return f"hydra/launcher needs {name}: pip install rlhf-lightning[{name}]"
    if "hydra_plugins.rlhf_lightning" in str(error):
        return "hydra/sweeper=optuna: the sweeper is not installed; install this version of rlhf-lightning once more"
    if any(isinstance(cause, ModuleNotFoundError) and cause.name == "optuna" for cause in _causes(error)):
        return "hydra/sweeper=optuna needs optuna: pip install rlhf-lightning[optuna]"
    reason = composition_reason("\n".join(str(cause) for cause in _causes(error)), config_name)
    if reason is not None:
        return reason
    if type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        return None
    return one_line(error, most=None).split(" Config search path:")[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
