"""The package as it ships: what is listed is what is there, in the tree and in the wheel."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
MAPPED = {
    "rlhf_lightning.conf": "conf",
    "rlhf_lightning.callbacks": "callbacks",
    "rlhf_lightning.sweeps": "sweeps",
    "hydra_plugins.rlhf_lightning": "sweeps/plugin",
}


def folder_of(package: str) -> Path:
    return ROOT / MAPPED.get(package, package.replace(".", "/"))


def test_listed_packages_are_the_packages_of_the_tree() -> None:
    own = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "rlhf_lightning").rglob("__init__.py")}
    assert set(SETUPTOOLS["packages"]) == own | set(MAPPED)
    assert SETUPTOOLS["package-dir"] == MAPPED
    for package in SETUPTOOLS["packages"]:
        assert (folder_of(package) / "__init__.py").is_file(), package


def test_top_level_holds_only_what_the_design_allows() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")  # an unpacked archive has no list of tracked files
    folders = {name.split("/")[0] for name in tracked if "/" in name}
    assert folders == {"rlhf_lightning", "conf", "callbacks", "tests", "sweeps", ".ci"}


def test_constraints_pin_torch_without_a_local_suffix_and_cover_every_dependency() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert pins["torch"] == "2.13.0"
    names = {name.lower().replace("_", "-") for name in pins}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + extras["dev"] + extras["stories"]
    for requirement in wanted:
        name = requirement.split(">")[0].split("<")[0].split("[")[0].strip().lower().replace("_", "-")
        assert name == "rlhf-lightning" or name in names, requirement


def test_the_wheel_holds_every_module_and_every_config(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    found = set(zipfile.ZipFile(wheel).namelist())
    for package in SETUPTOOLS["packages"]:
        for file in folder_of(package).glob("*.py"):
            assert f"{package.replace('.', '/')}/{file.name}" in found
    for folder in ("conf", "sweeps"):
        for file in (ROOT / folder).rglob("*.yaml"):
            assert f"rlhf_lightning/{file.relative_to(ROOT)}" in found
    for file in (ROOT / "rlhf_lightning").rglob("*.yaml"):  # task files for lm-evaluation-harness
        assert str(file.relative_to(ROOT)) in found
    assert "rlhf_lightning/py.typed" in found
    entry_points = next(name for name in found if name.endswith("entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(entry_points).decode()
    for script in ("rlhf-train", "rlhf-pipeline", "rlhf-collect", "rlhf-export", "rlhf-doctor"):
        assert script in text


@pytest.mark.parametrize("forbidden", ["/work/", "/root/", "file:///", "extra-index-url", "find-links"])
def test_no_machine_path_or_index_host_is_committed(forbidden: str) -> None:
    listed = subprocess.run(["git", "grep", "-l", "-F", forbidden], cwd=ROOT, capture_output=True, text=True)
    assert set(listed.stdout.split()) <= {"tests/test_packaging.py"}
