"""Datasets of the Hub, through a fake of the one function that reaches it, and from a local dataset folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from rlhf_lightning.data import DemonstrationDataModule, Encoder, load_rows
from rlhf_lightning.data.sources import load_sources
from rlhf_lightning.errors import UserError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked of ``load_dataset``, which answers with two demonstrations."""
    calls: list[dict[str, Any]] = []

    def load_dataset(path: str, name: str | None = None, **options: Any) -> datasets.Dataset:
        calls.append({"path": path, "name": name, **options})
        return datasets.Dataset.from_dict({"prompt": ["a", "b"], "response": ["c", "d"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset folder with the splits train and test."""
    root = tmp_path / "dataset"
    root.mkdir()
    for split, words in {"train": "ab", "test": "c"}.items():
        lines = [json.dumps({"prompt": word, "response": word}) + "\n" for word in words]
        (root / f"{split}.jsonl").write_text("".join(lines))
    return root


def test_every_part_of_the_name_reaches_the_hub(asked: list[dict[str, Any]]) -> None:
    spec = {"hub": "x/y", "config": "c", "split": "test", "revision": "v1", "files": "a/*.parquet"}
    (source,) = load_sources(spec)
    assert source.path == "x/y (config c, split test)"
    assert source.rows["prompt"][:] == ["a", "b"]
    assert asked == [
        {
            "path": "x/y",
            "name": "c",
            "split": "test",
            "revision": "v1",
            "streaming": False,
            "data_files": {"test": "a/*.parquet"},
        }
    ]


def test_the_split_is_train_by_default(asked: list[dict[str, Any]]) -> None:
    load_rows({"hub": "x/y"}, fields=("prompt",))
    assert asked == [{"path": "x/y", "name": None, "split": "train", "revision": None, "streaming": False}]


def test_revision_and_split_are_part_of_the_hash(asked: list[dict[str, Any]]) -> None:
    specs = [{"hub": "x/y"}, {"hub": "x/y", "revision": "v1"}, {"hub": "x/y", "split": "test"}, {"hub": "x/z"}]
    digests = {source.digest for source in load_sources(specs)}
    assert len(digests) == 4
    assert load_sources({"hub": "x/y"})[0].digest in digests


def test_a_row_without_the_field_is_named_by_dataset_and_split(asked: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"x/y \(split train\), row 1: no field 'text'; the fields are prompt, respon"):
        load_rows({"hub": "x/y"}, fields=("text",))


def test_the_commit_is_found_in_the_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_dict({"prompt": ["a"]})
    commit = "0123456789" * 4
    rows.info.download_checksums = {f"hf://datasets/x/y@{commit}/data/train.parquet": {"num_bytes": 1}}
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: rows)
    (source,) = load_sources({"hub": "x/y"})
    assert source.revision == commit


def test_a_folder_of_splits_is_trained_on(folder: Path, encoder: Encoder) -> None:
    data = DemonstrationDataModule(
        encoder=encoder,
        train={"hub": str(folder)},
        validation={"hub": str(folder), "split": "test"},
        batch_size=2,
    )
    (batch,) = data.val_dataloader()
    assert batch.input_ids.tolist() == [[1, 8, 8, 2]]
    (trained,) = data.train_dataloader()
    assert sorted(trained.input_ids.tolist()) == [[1, 6, 6, 2], [1, 7, 7, 2]]


def test_a_folder_that_changes_is_read_anew(folder: Path) -> None:
    (first,) = load_sources({"hub": str(folder)})
    (folder / "train.jsonl").write_text('{"prompt": "z", "response": "z"}\n')
    (second,) = load_sources({"hub": str(folder)})
    assert second.rows["prompt"][:] == ["z"]
    assert second.digest != first.digest


def test_an_unknown_split_is_told_with_those_there_are(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        load_sources({"hub": str(folder), "split": "valid"})
    for part in (str(folder), "split valid", "train", "test", "check the id, config, split"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_config_is_told(folder: Path) -> None:
    with pytest.raises(UserError, match=r"\(config en, split train\) cannot be loaded .*'en' not found"):
        load_sources({"hub": str(folder), "config": "en"})


def test_a_dataset_that_is_not_cached_is_told_when_offline() -> None:
    assert datasets.config.HF_HUB_OFFLINE  # as the whole suite is
    with pytest.raises(UserError) as error:
        load_sources({"hub": "nobody/nothing"})
    for part in ("nobody/nothing (split train)", "HF_HUB_OFFLINE=1", "unset HF_HUB_OFFLINE", "as path"):
        assert part in str(error.value)


def test_a_dataset_without_rows_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: datasets.Dataset.from_dict({"a": []}))
    with pytest.raises(UserError, match=r"x/y \(split train\) has no rows"):
        load_sources({"hub": "x/y"})
