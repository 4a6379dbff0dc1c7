"""Imports point one way (DESIGN, section 2)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rlhf_lightning"

# What each folder may import of ours, beside itself and `errors`.
MAY_IMPORT: dict[str, set[str]] = {
    "functional": set(),
    "planning": set(),
    "data": set(),
    "models": {"functional", "planning", "data"},
    "sandbox": {"data"},
    "modules": {"functional", "planning", "models", "data"},
    "evaluation": {"functional", "models", "data"},
    "diagnosis": {"functional", "planning", "models", "data", "modules"},
    "callbacks": {"functional", "planning", "models", "data", "modules", "evaluation"},
}
# Folders that are entered by their public names alone.
CLOSED = {"data", "models", "planning", "sandbox", "evaluation", "diagnosis"}
# Tokenizers and configurations are no models; everything else of transformers stays in `models`.
OF_TRANSFORMERS = {"AutoTokenizer", "PreTrainedTokenizerFast", "LlamaConfig"}


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder if folder == "callbacks" else PACKAGE / folder).glob("*.py"))


def _imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every (module, name) that the file imports, also inside functions and for type checking."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                folder = node.module == "rlhf_lightning" and alias.name in MAY_IMPORT
                yield (f"rlhf_lightning.{alias.name}", None) if folder else (str(node.module), alias.name)


def _public_names(folder: str) -> set[str]:
    for node in ast.parse((PACKAGE / folder / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    files = _files(folder)
    assert files
    for path in files:
        for module, name in _imports(path):
            parts = module.split(".")
            if parts[0] != "rlhf_lightning":
                continue
            other = parts[1] if len(parts) > 1 else ""
            allowed = {folder, "errors", *MAY_IMPORT[folder]}
            assert other in allowed, f"{path.relative_to(ROOT)} imports {module}"
            if other in CLOSED and other != folder:
                public = len(parts) == 2 and (name is None or name in _public_names(other))
                assert public, f"{path.relative_to(ROOT)} reaches into {module} for {name}"


def test_planning_needs_nothing() -> None:
    foreign = {module.split(".")[0] for path in _files("planning") for module, _ in _imports(path)}
    assert foreign - sys.stdlib_module_names == {"rlhf_lightning"}


def test_functional_needs_torch_alone() -> None:
    foreign = {
        module.split(".")[0] for path in _files("functional") for module, _ in _imports(path)
    } - sys.stdlib_module_names
    assert foreign == {"torch", "rlhf_lightning"}


def test_models_are_the_only_place_that_knows_transformers() -> None:
    for path in [*PACKAGE.rglob("*.py"), *_files("callbacks")]:
        if "models" in path.relative_to(PACKAGE.parent).parts:
            continue
        for module, name in _imports(path):
            root = module.split(".")[0]
            assert root not in ("peft", "bitsandbytes"), path
            assert root != "transformers" or name in OF_TRANSFORMERS or name == "__version__", (path, module, name)


def test_nothing_in_the_package_imports_callbacks() -> None:
    for path in PACKAGE.rglob("*.py"):
        for module, name in _imports(path):
            assert not module.startswith(("rlhf_lightning.callbacks", "callbacks")), path
            assert (module, name) != ("rlhf_lightning", "callbacks"), path


def test_hydra_is_imported_by_entry_points_only() -> None:
    for path in [*PACKAGE.rglob("*.py"), *_files("callbacks")]:
        entry_point = path.parent == PACKAGE and path.name not in ("__init__.py", "errors.py")
        for module, _ in _imports(path):
            assert entry_point or module.split(".")[0] not in ("hydra", "omegaconf"), path


def test_importing_the_package_never_imports_hydra() -> None:
    names = ["rlhf_lightning", *(f"rlhf_lightning.{folder}" for folder in MAY_IMPORT)]
    code = f"import sys, {', '.join(names)}; print('hydra' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "False"


def test_files_stay_small_and_have_a_subject() -> None:
    for path in [*PACKAGE.rglob("*.py"), *_files("callbacks")]:
        assert len(path.read_text().splitlines()) <= 300, path
        assert path.stem not in ("utils", "helpers", "common", "misc"), path
