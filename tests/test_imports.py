"""What `import rlhf_lightning` brings along: nothing until a name is asked for, and then nothing that is optional."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rlhf_lightning

PACKAGE = Path(__file__).resolve().parents[1] / "rlhf_lightning"
NOT_WANTED = {
    "hydra", "omegaconf", "bitsandbytes", "optuna", "matplotlib", "plotly", "seaborn", "peft", "datasets", "vllm",
    "vaderSentiment", "submitit", "wandb", "mlflow", "tensorboard", "pyarrow",
}  # fmt: skip
CODE = """
import json, sys
import rlhf_lightning
alone = sorted(sys.modules)
import lightning, transformers
before = set(sys.modules)
from rlhf_lightning import *
after = set(sys.modules) - before
files = [sys.modules[name].__file__ for name in after if name.split(".")[0] == "rlhf_lightning"]
print(json.dumps([alone, sorted({name.split(".")[0] for name in after}), files]))
"""
EACH_ALONE = """
import os, sys
import lightning, transformers
for folder in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            __import__(f"rlhf_lightning.{folder}")
        except BaseException as error:
            print(f"{folder}: {error}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def output(code: str, *arguments: str) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


def test_nothing_that_is_optional_or_plots_comes_with_the_package() -> None:
    alone, packages, files = json.loads(output(CODE).splitlines()[-1])
    assert not {"torch", "lightning", "transformers", *NOT_WANTED} & set(alone)
    assert "rlhf_lightning" in packages
    assert not NOT_WANTED & set(packages)
    # lightning brings some of them itself; none of our files that are loaded asks for one.
    assert len(files) > 50
    for file in files:
        for node in ast.parse(Path(file).read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not NOT_WANTED & {name.split(".")[0] for name in names}, file


@pytest.mark.slow  # lightning and transformers once, ours again for each folder
def test_every_folder_can_be_the_first_that_is_imported() -> None:
    """Nothing imports the others any more before one of them is asked for."""
    folders = [path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("*/**/__init__.py")]
    assert len(folders) > 8
    assert output(EACH_ALONE, "callbacks", *(folder.replace("/", ".") for folder in folders)) == ""


def test_each_public_name_stands_in_every_list_of_the_package() -> None:
    """For type checkers, for those who ask at run time, and for those who look."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: str(node.module) for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    places = {name: f"rlhf_lightning.{folder}" for name, folder in rlhf_lightning._FOLDER.items()}
    assert typed == places | {"functional": "rlhf_lightning"}
    assert set(rlhf_lightning.__all__) == set(typed)
    assert set(rlhf_lightning.__all__) <= set(dir(rlhf_lightning))
    with pytest.raises(AttributeError, match="has no attribute 'PPOModul'"):
        rlhf_lightning.PPOModul  # noqa: B018
