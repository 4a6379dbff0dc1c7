"""What a user may write for a source of data: a path, or a mapping that says more."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rlhf_lightning.errors import UserError

Files = str | Path | Mapping[str, Any] | Sequence[str | Path | Mapping[str, Any]]
"""A data file, a mapping of the fields of ``Spec``, or a list of them."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One source; either ``path`` or ``hub`` is given.

    Args:
        path: a local data file.
        hub: id of a dataset on the Hub, or a local dataset folder.
        config: the dataset's configuration.
        split: the dataset's split.
        revision: the dataset's branch, tag or commit.
        files: pattern of data files inside the dataset, where its configurations do not say what to read.
        weight: relative number of training samples drawn from this source; where any source has one, the others
            have 1.
        columns: name that this package expects -> column of this source, as in ``data.columns``.
        adapter: function over the source's rows, a name in ``data/adapters.py`` or ``package.module.function``.
    """

    path: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    files: str | None = None
    weight: float | None = None
    columns: Mapping[str, Any] | None = None
    adapter: str | None = None

    @property
    def name(self) -> str:
        """What errors and reports call the source."""
        if self.path is not None:
            return self.path
        details = [*([f"config {self.config}"] if self.config else []), f"split {self.split}"]
        return f"{self.hub} ({', '.join(details)})"


def specs_of(files: Files) -> list[Spec]:
    """Every source in ``files``.

    Errors:
        UserError: an empty list, an unknown field, both or neither of ``path`` and ``hub``, a weight that is not
            positive.
    """
    several = isinstance(files, Sequence) and not isinstance(files, str)
    entries = list(files) if several else [files]  # type: ignore[arg-type]  # mypy does not narrow by a stored test
    if not entries:
        raise UserError("An empty list of data files: name at least one")
    return [_spec(entry) for entry in entries]


def text_column(*choices: Mapping[str, str] | None) -> str:
    """The name of the column of text: what the first mapping that knows it says, or ``text``."""
    return next((columns["text"] for columns in choices if columns and "text" in columns), "text")


def _spec(entry: Any) -> Spec:
    if isinstance(entry, str | os.PathLike):
        return Spec(path=str(entry))
    known = [field.name for field in fields(Spec)]
    if not isinstance(entry, Mapping):
        raise UserError(f"{entry!r} is no source of data: give a path or a mapping of {', '.join(known)}")
    given = {str(key): value for key, value in entry.items()}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UserError(f"A source of data has no field {unknown[0]!r}: the fields are {', '.join(known)}")
    given = {key: value for key, value in given.items() if value is not None}
    if ("path" in given) == ("hub" in given):
        what = "both path and hub" if "path" in given else "neither path nor hub"
        raise UserError(f"The source of data {given} has {what}: give one of them")
    of_hub = sorted({"config", "split", "revision", "files"} & set(given))
    if "path" in given and of_hub:
        raise UserError(f"{given['path']}: {of_hub[0]} belongs to a hub dataset: leave it out of a source with a path")
    weight = given.get("weight")
    if weight is not None and (
        isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf
    ):
        raise UserError(f"{given.get('path', given.get('hub'))}: weight must be a positive number, not {weight!r}")
    columns = given.pop("columns", None)
    if columns is not None:
        if not isinstance(columns, Mapping):
            raise UserError(f"{given.get('path', given.get('hub'))}: columns must be a mapping, not {columns!r}")
        given["columns"] = {
            str(key): list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for key, value in columns.items()
        }
    if "path" in given:
        given["path"] = str(given["path"])
    return Spec(**given)
