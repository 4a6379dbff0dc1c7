"""The README's code blocks, run in one fresh process that never imports Hydra; its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_code_blocks_run_without_hydra(example_folder: Path) -> None:
    assert len(BLOCKS) == 4
    check = '\nimport sys\nassert "hydra" not in sys.modules and "omegaconf" not in sys.modules\nprint("all ran")\n'
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(BLOCKS) + check],
        cwd=example_folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all ran\n")
    assert (example_folder / "sft" / "model.safetensors").is_file()
    assert (example_folder / "reward" / "model.safetensors").is_file()


def test_commands_of_the_readme_are_console_scripts() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(re.findall(r"\brlhf-(?:train|pipeline|collect|evaluate|export|doctor)\b", README)) == set(scripts)


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|\n)make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
