from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from omegaconf import OmegaConf

from rlhf_lightning.data import (
    ComparisonDataModule,
    Encoder,
    PromptDataModule,
    TextDataModule,
    data_card,
    write_data_card,
)

ROWS = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "d", "chosen": "e", "rejected": "f g h"}]


def test_sources_rows_in_rows_dropped_hashes_and_tokenizer(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", *ROWS)
    with path.open("a") as file:
        file.write("{\n")
    clean = write("b.jsonl", *ROWS)
    demonstrations = write("c.jsonl", {"prompt": "a", "response": "b"})
    data = ComparisonDataModule(
        encoder=encoder,
        train={"path": path, "weight": 2, "columns": {"prompt": "prompt"}},
        validation=clean,
        demonstrations=demonstrations,
        max_length=4,
        overlong="drop",
        on_bad_row="skip",
    )
    data.setup()
    card = data_card(data)
    (train,) = card["sources"]["train"]
    assert train.pop("hash") == hashlib.sha256(path.read_bytes()).hexdigest()
    assert train == {
        "path": str(path),
        "weight": 2,
        "columns": {"prompt": "prompt"},
        "rows": 3,
        "unreadable_rows": {"not valid JSON": 1},
        "counts": {"rows": 1, "overlong_rows_dropped": 1, "skipped_not_valid_JSON": 1},
    }
    (validation,) = card["sources"]["validation"]
    assert validation["hash"] == hashlib.sha256(clean.read_bytes()).hexdigest()
    assert card["sources"]["demonstrations"][0]["rows"] == 1
    assert card["sources"]["demonstrations"][0]["counts"] == {"rows": 1}
    assert card["counts"]["train"] == data.counts
    assert card["counts"]["train"]["overlong_rows_dropped"] == 1
    assert card["counts"]["validation"]["overlong_rows_dropped"] == 1
    assert card["counts"]["demonstrations"] == {"rows": 1}
    assert card["tokenizer"] == encoder.fingerprint()


def test_a_hub_dataset_has_its_commit(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    rows = datasets.Dataset.from_dict({"prompt": ["a"]})
    commit = "0123456789" * 4
    rows.info.download_checksums = {f"hf://datasets/x/y@{commit}/data/train.parquet": {"num_bytes": 1}}
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: rows)
    data = PromptDataModule(encoder=encoder, train={"hub": "x/y", "revision": "v1"}, iterations=1)
    (source,) = data_card(data)["sources"]["train"]
    source.pop("hash")
    assert source == {
        "hub": "x/y",
        "config": None,
        "split": "train",
        "revision": commit,
        "rows": 1,
        "unreadable_rows": {},
    }


def test_an_adapted_source_has_the_hash_and_the_rows_of_its_file(encoder: Encoder) -> None:
    path = Path(__file__).parent / "fixtures" / "helpsteer2.jsonl"
    data = ComparisonDataModule(encoder=encoder, train={"path": str(path), "adapter": "helpsteer2"})
    data.setup()
    (source,) = data_card(data)["sources"]["train"]
    assert source["hash"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source["rows"] == len(path.read_text().splitlines())
    assert source["adapted_rows"] == 4
    assert source["counts"] == {"rows": 3, "tied_rows_skipped": 1}


def test_text_beside_prompts_is_counted_source_by_source(
    write: Callable[..., Path], encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = write("b.jsonl", {"text": "a b"}, {"text": ""}), write("c.jsonl", {"text": "c"})
    data = PromptDataModule(
        encoder=encoder,
        train=write("a.jsonl", {"prompt": "a"}),
        text=[one, two],
        text_block=4,
        iterations=1,
        on_bad_row="skip",
    )
    with caplog.at_level("INFO"):
        data.setup()
    card = data_card(data)
    assert [source["counts"] for source in card["sources"]["text"]] == [
        {"documents": 1, "tokens": 4, "skipped_empty_text": 1},
        {"documents": 1, "tokens": 3},
    ]
    assert card["counts"] == {
        "train": {"rows": 1},
        "text": {"documents": 2, "tokens": 7, "skipped_empty_text": 1},
    }
    assert "text beside the prompts: documents 2, tokens 7, skipped_empty_text 1" in caplog.text


def test_a_stream_is_named_and_not_read(encoder: Encoder) -> None:
    data = TextDataModule(encoder=encoder, train={"hub": "x/y", "config": "en"}, streaming=True)
    assert data_card(data)["sources"] == {
        "train": [{"hub": "x/y", "config": "en", "split": "train", "revision": None, "streaming": True}]
    }


def test_text_beside_prompts_is_a_source(write: Callable[..., Path], encoder: Encoder) -> None:
    prompts, text = write("a.jsonl", {"prompt": "a"}), write("b.jsonl", {"text": "a b c"})
    data = PromptDataModule(encoder=encoder, train=prompts, text=[text, {"path": text}], iterations=1)
    assert [source["path"] for source in data_card(data)["sources"]["text"]] == [str(text)] * 2
    data = PromptDataModule(encoder=encoder, train=prompts, text=text, text_streaming=True, iterations=1)
    assert data_card(data)["sources"]["text"] == [{"path": str(text), "streaming": True}]


def test_what_comes_from_a_hydra_config_is_written_as_plain_json(
    write: Callable[..., Path], encoder: Encoder, tmp_path: Path
) -> None:
    path = write("a.jsonl", {"q": "a"})
    node = OmegaConf.create({"train": [{"path": str(path), "weight": 2, "columns": {"prompt": "q"}}]})
    data = PromptDataModule(encoder=encoder, train=node.train, iterations=1)
    data.setup()
    written = write_data_card(data, tmp_path / "run")
    assert written == tmp_path / "run" / "data.json"
    assert json.loads(written.read_text()) == data_card(data)
    assert json.loads(written.read_text())["sources"]["train"][0]["columns"] == {"prompt": "q"}
    assert list(written.parent.iterdir()) == [written]


def test_a_data_module_of_the_user_has_what_it_has() -> None:
    class Own:
        def text(self) -> None: ...

    assert data_card(Own()) == {"sources": {}, "counts": {}, "tokenizer": None}
