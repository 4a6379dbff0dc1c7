"""The hash that decides whether a pipeline step is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_lightning.fingerprints import step_hash


def test_same_step_same_hash_wherever_the_run_lies(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = {"train": str(tmp_path / "a" / "steps" / "sft-1" / "model"), "lr": 0.1}
    second = {"train": str(tmp_path / "b" / "steps" / "sft-1" / "model"), "lr": 0.1}
    assert step_hash(first, tmp_path / "a") == step_hash(second, tmp_path / "b")


def test_a_setting_an_upstream_step_and_a_files_content_count(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("one")
    root = tmp_path / "run"
    step = {"data": {"train": str(file)}, "lr": 0.1, "model": str(root / "steps" / "sft-1")}
    before = step_hash(step, root)
    assert step_hash(step | {"lr": 0.2}, root) != before
    assert step_hash(step | {"model": str(root / "steps" / "sft-2")}, root) != before
    file.write_text("two")
    assert step_hash(step, root) != before
    file.write_text("one")
    assert step_hash(step, root) == before


def test_a_model_folder_counts_by_its_files(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    before = step_hash({"name": str(model)}, tmp_path / "run")
    (model / "config.json").write_text("{ }")
    assert step_hash({"name": str(model)}, tmp_path / "run") != before


def test_where_it_is_logged_does_not_count(tmp_path: Path) -> None:
    step = {"lr": 0.1, "trainer": {"enable_progress_bar": True, "max_epochs": 1}, "logger": {"csv": 1}, "run_dir": "x"}
    quiet = {"lr": 0.1, "trainer": {"enable_progress_bar": False, "max_epochs": 1}, "logger": {}, "run_dir": "y"}
    assert step_hash(step, tmp_path) == step_hash(quiet, tmp_path)
    assert step_hash(step | {"trainer": {"max_epochs": 2}}, tmp_path) != step_hash(quiet, tmp_path)


def test_the_code_counts(tmp_path: Path) -> None:
    assert step_hash({}, tmp_path, code=("functional",)) != step_hash({}, tmp_path, code=("functional", "modules"))


def test_words_and_long_texts_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = step_hash({"resume_from": "auto", "system": "Be kind. " * 600}, tmp_path / "run")
    (tmp_path / "auto").mkdir()
    (tmp_path / "auto" / "file").write_text("x")
    assert step_hash({"resume_from": "auto", "system": "Be kind. " * 600}, tmp_path / "run") == before


def test_data_that_a_user_keeps_in_the_run_folder_counts_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("one")
    before = step_hash({"train": str(file)}, tmp_path)
    file.write_text("two")
    assert step_hash({"train": str(file)}, tmp_path) != before
