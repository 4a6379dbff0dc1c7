"""What the console scripts share: errors as one line, exit code 1."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from rlhf_lightning.errors import UserError

ASKED_FOR_TRACEBACK = "HYDRA_FULL_ERROR"


def run_script(app: Callable[[], Any], *, name: str, config_name: str) -> None:
    """Run a Hydra application; what a user can mend becomes one line on standard error and exit code 1.

    ``HYDRA_FULL_ERROR=1`` asks for the whole traceback. Errors that are no user's fault keep theirs.
    """
    asked = os.environ.get(ASKED_FOR_TRACEBACK) == "1"
    # With this set, Hydra hands its errors on instead of printing them over several lines.
    os.environ[ASKED_FOR_TRACEBACK] = "1"
    try:
        app()
    except (HydraException, OmegaConfBaseException, UserError) as error:
        reason = user_reason(error, config_name)
        if asked or reason is None:
            raise
        print(f"{name}: error: {reason}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the last complete checkpoint is kept", file=sys.stderr)
        sys.exit(130)
    finally:
        if not asked:
            os.environ.pop(ASKED_FOR_TRACEBACK, None)


def user_reason(error: BaseException, config_name: str) -> str | None:
    """The error as one line, or ``None`` if it is a bug rather than a mistake in the input."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return " ".join(str(cause).split())
    for cause in reversed(chain):
        if isinstance(cause, MissingMandatoryValue):
            return f"{getattr(cause, 'full_key', None) or cause}: a value is needed; give it as key=value"
        if isinstance(cause, ConfigKeyError) and getattr(cause, "full_key", None):
            return _unknown_key(str(cause.full_key), config_name)
    if type(error).__name__ == "InstantiationException":
        return None if error.__cause__ is not None else " ".join(str(error).split())
    return " ".join(str(error).split())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_key(key: str, config_name: str) -> str:
    nearest = difflib.get_close_matches(key, _known_keys(config_name), n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else "list the keys with --cfg job"
    return f"no such key: {key}; {hint} (a new key is added with +{key}=...)"


def _known_keys(config_name: str) -> list[str]:
    """Every key of the config that the command line chose, without the values that it sets."""
    groups = [a for a in sys.argv[1:] if "=" in a and not a.startswith("-") and "." not in a.split("=", 1)[0]]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("rlhf_lightning.conf", version_base="1.3"):
            config = compose(config_name, overrides=[g for g in groups if g.split("=")[0] in ("stage", "experiment")])
    except (HydraException, OmegaConfBaseException):
        return []
    return list(_paths(config, ""))


def _paths(config: Any, prefix: str) -> Iterator[str]:
    if not isinstance(config, DictConfig) or config._is_none() or config._is_missing() or config._is_interpolation():
        return
    for key in config:
        path = f"{prefix}{key}"
        yield path
        yield from _paths(config._get_node(key), f"{path}.")
