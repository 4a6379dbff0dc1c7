"""What `import rlhf_lightning` brings along."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "rlhf_lightning"
NOT_WANTED = {
    "hydra", "omegaconf", "bitsandbytes", "optuna", "matplotlib", "plotly", "seaborn", "peft", "datasets", "vllm",
    "vaderSentiment", "submitit", "wandb", "mlflow", "tensorboard",
}  # fmt: skip
CODE = """
import json, sys
import lightning, transformers
before = set(sys.modules)
import rlhf_lightning
after = set(sys.modules) - before
files = [sys.modules[name].__file__ for name in after if name.split(".")[0] == "rlhf_lightning"]
print(json.dumps([sorted({name.split(".")[0] for name in after}), files]))
"""


def test_nothing_that_is_optional_or_plots_comes_with_the_package() -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=True)
    packages, files = json.loads(done.stdout.splitlines()[-1])
    assert "rlhf_lightning" in packages
    assert not NOT_WANTED & set(packages)
    # lightning brings some of them itself; none of our files that are loaded asks for one.
    assert len(files) > 50
    for file in files:
        for node in ast.parse(Path(file).read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not NOT_WANTED & {name.split(".")[0] for name in names}, file
