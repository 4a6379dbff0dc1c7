"""What the result of a pipeline step depends on, as one hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# What a step's result does not depend on.
VOLATILE = frozenset(
    {"run_dir", "resume", "logger", "enable_progress_bar", "default_root_dir", "progress_bar", "cache"}
)
# The code that makes a training artefact; the report and the command line can change without training anew.
TRAINING_CODE = ("functional", "models", "data", "modules", "sandbox", "callbacks")
LARGE = 256 * 2**20


def step_hash(step: dict[str, Any], root: Path, *, code: tuple[str, ...] = TRAINING_CODE) -> str:
    """Hash of a step: its resolved config, the files that it names, and the code behind it.

    Folders of earlier steps carry their own hash in their name, so a change anywhere reaches all that follows.

    Args:
        step: the resolved config node.
        root: the pipeline's folder; paths inside it count by their name relative to it, others by their content.
        code: folders of this package that the result depends on.
    """
    root = root.resolve()
    digest = hashlib.sha256()
    config = _stable(step, root)
    digest.update(json.dumps(config, sort_keys=True).encode())
    for value in sorted(set(texts(step))):
        path = Path(value)
        if not _is_file_name(value) or (root / "steps") in path.resolve().parents:
            continue
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(_content(file).encode())
    digest.update(code_fingerprint(code).encode())
    return digest.hexdigest()[:10]


def _is_file_name(value: str) -> bool:
    """Whether a value names a file or folder: words such as `auto` are not taken for folders of that name."""
    if not (os.sep in value or Path(value).suffix) or len(value) > 4096:
        return False
    try:
        return Path(value).exists()
    except OSError:
        return False


def _stable(node: Any, root: Path) -> Any:
    if isinstance(node, dict):
        return {key: _stable(value, root) for key, value in node.items() if key not in VOLATILE}
    if isinstance(node, list):
        return [_stable(value, root) for value in node]
    if isinstance(node, str) and root in Path(node).resolve().parents:
        return str(Path(node).resolve().relative_to(root))
    return node


def texts(node: Any) -> Iterator[str]:
    """Every text in a config on which a result can depend."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in VOLATILE:
                yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)
    elif isinstance(node, str):
        yield node


def _content(file: Path) -> str:
    """Hash of a file's content; of a large one its size and time, because reading it takes longer than it helps."""
    status = file.stat()
    if status.st_size > LARGE:
        return f"{file.name}:{status.st_size}:{status.st_mtime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def code_fingerprint(folders: tuple[str, ...]) -> str:
    """Hash of the Python files of folders of this package."""
    digest = hashlib.sha256()
    for folder in folders:
        found = find_spec(f"rlhf_lightning.{folder}")  # callbacks lie elsewhere in an editable install
        places = found.submodule_search_locations if found is not None else None
        for file in sorted(file for place in places or () for file in Path(place).glob("*.py")):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
