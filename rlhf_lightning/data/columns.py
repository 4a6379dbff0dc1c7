"""Which column of a file is what: recognised by name, or named by the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_lightning.data.sources import Files, Source, load_sources
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from rlhf_lightning.data.encode import Encoder

Columns = Mapping[str, str | Sequence[str] | None]
"""Our name -> the file's column. ``question.text`` is a field of a column; through a list it is the field of every
entry (``completions.response``). A list of columns, or ``*.solution`` for all columns that have such a field, makes a
list of values. null hides a column of that name."""

_PROMPT_SHAPES = (("prompt",), ("instruction",), ("question",))
_ORDERS = (
    ("responses", "ranks"),
    ("responses", "scores"),
    ("responses", "pairs"),
    ("responses", "preference"),
    ("responses", "choice"),
    ("baseline", "responses", "preferences"),
    ("output_1", "output_2", "preference"),
    ("chosen", "rejected"),
)
SHAPES: dict[str, tuple[tuple[str, ...], ...]] = {
    "demonstrations": (
        ("prompt", "response"),
        ("prompt", "completion"),
        ("messages",),
        ("conversations",),
        ("instruction", "output"),
        ("instruction", "response"),
        ("question", "answer"),
    ),
    "comparisons": (
        *((*prompt, *order) for order in _ORDERS for prompt in _PROMPT_SHAPES),
        ("chosen", "rejected"),
    ),
    "prompts": (*_PROMPT_SHAPES, ("messages",), ("conversations",)),
}
"""The columns that a file of each kind may have; the first shape that a file satisfies is taken."""
OPTIONAL = {
    "demonstrations": ("input", "context"),
    "comparisons": ("input", "context", "finished"),
    "prompts": ("input", "context", "user"),
}
"""Columns that are used where they are there."""


class Layout(NamedTuple):
    """How the rows of one file are read."""

    shape: tuple[str, ...]
    """Our names of the columns that make the shape."""
    selectors: dict[str, str | list[str]]
    """Our name -> a path into the row, or several, for every column of the kind that the file has."""
    columns: list[str]
    """The file's columns that are needed."""
    conversational: bool
    """Whether prompts are conversations, which need a chat template."""

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row under our names."""
        return {
            name: row[path] if path in row else _value(row, path.split("."))
            for name, path in self.selectors.items()
            if isinstance(path, str)
        } | {
            name: [row[path] if path in row else _value(row, path.split(".")) for path in paths]
            for name, paths in self.selectors.items()
            if not isinstance(paths, str)
        }


Opened = Sequence[tuple[Source, Layout]]
"""Sources, each with how its rows are read."""


def recognise(rows: Dataset, *, kind: str, path: str, columns: Columns | None = None) -> Layout:
    """How a file's rows are to be read, from its column names alone.

    Args:
        rows: the file.
        kind: demonstrations, comparisons or prompts.
        path: of the file, for errors.
        columns: names that the user gives; they win over the file's own.

    Errors:
        UserError: no shape fits, an unknown name, or a column that the file does not have.
    """
    shapes = SHAPES[kind]
    known = {name for shape in shapes for name in shape} | set(OPTIONAL[kind])
    given = dict(columns or {})
    for name in given:
        if name not in known:
            raise UserError(f"data.columns: unknown name {name!r}; {kind} have {', '.join(sorted(known))}")
    selectors: dict[str, str | list[str]] = {
        name: name for name in rows.column_names if name in known and name not in given
    }
    for name, wanted in given.items():
        if wanted is not None:
            selectors[name] = _selector(rows, wanted, name=name, path=path)
    fitting = [shape for shape in shapes if set(shape) <= set(selectors)]
    if not fitting:
        raise _unrecognised(rows.column_names, selectors, kind=kind, path=path)
    shape = max(fitting, key=lambda shape: sum(name in given for name in shape))  # the first of those that say most
    if kind == "demonstrations":
        # Read in the file's shape alone: another column is no substitute where one of these is missing. The rows of a
        # comparisons file may differ in their order's form.
        selectors = {name: path for name, path in selectors.items() if name in (*shape, *OPTIONAL[kind])}
    flat = [part for paths in selectors.values() for part in ([paths] if isinstance(paths, str) else paths)]
    needed = {part if part in rows.column_names else part.split(".")[0] for part in flat}
    return Layout(
        shape, selectors, [name for name in rows.column_names if name in needed], _is_conversational(rows, selectors)
    )


def open_sources(
    files: Files, *, kind: str, encoder: Encoder, columns: Columns | None = None, on_bad_row: str = "raise"
) -> Opened:
    """Every source and how it is read; a tokenizer without a chat template gets the plain one if any has conversations.

    Splits are opened before any of them is encoded, because one may change the template of the others.

    Args:
        files, on_bad_row: see ``load_rows``.
        kind, columns: see ``recognise``.
        encoder: that the rows are to be encoded with.
    """
    opened = [
        (
            source,
            recognise(source.rows, kind=kind, path=source.path, columns={**(columns or {}), **(source.columns or {})}),
        )
        for source in load_sources(files, on_bad_row=on_bad_row)
    ]
    if any(layout.conversational for _, layout in opened):
        encoder.require_template()
    return opened


def _selector(rows: Dataset, wanted: str | Sequence[str], *, name: str, path: str) -> str | list[str]:
    if not isinstance(wanted, str):
        parts = [_selector(rows, part, name=name, path=path) for part in wanted]
        return [one for part in parts for one in ([part] if isinstance(part, str) else part)]
    if wanted.startswith("*."):
        field = wanted[2:].split(".")[0]
        found = [
            f"{column}{wanted[1:]}"
            for column, kind in rows.features.items()
            if isinstance(kind, dict) and field in kind
        ]
        if not found:
            raise UserError(f"{path}: data.columns.{name}={wanted}: no column has a field {field!r}")
        return found
    if wanted not in rows.column_names and wanted.split(".")[0] not in rows.column_names:
        raise UserError(
            f"{path}: data.columns.{name}={wanted}: no such column; the columns are {', '.join(rows.column_names)}"
        )
    return wanted


def _value(value: Any, parts: list[str]) -> Any:
    for depth, part in enumerate(parts):
        if isinstance(value, list):
            return [_value(entry, parts[depth:]) for entry in value]
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def _is_conversational(rows: Dataset, selectors: Mapping[str, str | list[str]]) -> bool:
    """Anything but prompts that are plain text; the type of a column decides where the name does not."""
    path = selectors.get("prompt")
    if path is None or "messages" in selectors or "conversations" in selectors:
        return True
    if any(isinstance(selectors.get(name), str) and _is_list(rows, selectors[name]) for name in ("chosen", "rejected")):
        return True
    return _is_list(rows, path)


def _is_list(rows: Dataset, path: str | list[str]) -> bool:
    from datasets import List

    kind = rows.features.get(path) if isinstance(path, str) else None
    return isinstance(kind, List | list)


def _unrecognised(found: Sequence[str], selectors: Mapping[str, str | list[str]], *, kind: str, path: str) -> UserError:
    nearest = max(SHAPES[kind], key=lambda shape: len(set(shape) & set(selectors)) / len(shape))
    missing = next(name for name in nearest if name not in selectors)
    accepted = "; ".join("/".join(shape) for shape in SHAPES[kind])
    return UserError(
        f"{path}, row 1: no field {missing!r}; the fields are {', '.join(found)}. {kind.capitalize()} are one of "
        f"{accepted}: rename the fields, or name them, as in data.columns={{{missing}: {found[0]}}}"
    )
