"""The README's code blocks, run in one fresh process that never imports Hydra; its commands exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, causal_lm_folders: dict[str, Path]) -> Path:
    """The small files that the README speaks of."""
    (tmp_path / "base").symlink_to(causal_lm_folders["llama"])
    rows = {
        "demonstrations": [{"prompt": f"say {word}", "response": word} for word in ("a", "bee", "cat", "dog")] * 2,
        "comparisons": [{"prompt": "say a", "responses": ["a", "b", "c"], "ranks": [1, 2, 2]}] * 4,
        "prompts": [{"prompt": f"say {word}"} for word in ("a", "bee", "cat", "dog")] * 2,
        "corpus": [{"text": "a bee is not a cat. a dog is not a bee."}] * 20,
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return tmp_path


def test_code_blocks_run_without_hydra(folder: Path) -> None:
    assert len(BLOCKS) == 4
    check = '\nimport sys\nassert "hydra" not in sys.modules and "omegaconf" not in sys.modules\nprint("all ran")\n'
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(BLOCKS) + check], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all ran\n")
    assert (folder / "sft" / "model.safetensors").is_file()
    assert (folder / "reward" / "model.safetensors").is_file()


def test_commands_of_the_readme_are_console_scripts() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(re.findall(r"\brlhf-(?:train|pipeline|collect|evaluate|export|doctor)\b", README)) == set(scripts)


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|\n)make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
