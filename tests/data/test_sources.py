from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

from rlhf_lightning.data import load_rows, write_rows
from rlhf_lightning.data.readers import quiet_datasets
from rlhf_lightning.data.sources import load_sources
from rlhf_lightning.data.writing import whole_file
from rlhf_lightning.errors import UserError

ROWS = [{"prompt": "2024", "n": "1"}, {"prompt": "None", "n": "2"}]


def contents(path: Path) -> list[dict[str, Any]]:
    return load_rows(path, fields=("prompt",)).to_list()


def fails(path: Path | str, *parts: str) -> None:
    with pytest.raises(UserError) as error:
        load_rows(path, fields=("prompt",))
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    for part in parts:
        assert part in message


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    table = "prompt,n\n2024,1\nNone,2\n"  # neither a number nor a missing value
    texts = {"a.jsonl": lines, "a.json": json.dumps(ROWS), "a.csv": table, "a.tsv": table.replace(",", "\t")}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), pa.Table.from_pylist(ROWS).schema) as writer:
        writer.write_table(pa.Table.from_pylist(ROWS))
    for name in (*texts, *(f"{name}.gz" for name in texts), "a.parquet", "a.arrow"):
        assert contents(tmp_path / name) == ROWS, name


def test_rows_are_memory_mapped_and_not_held_in_memory(write: Callable[..., Path]) -> None:
    rows = load_rows(write("a.jsonl", *ROWS), fields=("prompt",))
    assert rows.cache_files
    assert Path(rows.cache_files[0]["filename"]).suffix == ".arrow"


def test_text_file_is_sampled_by_document_paragraph_or_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a b\nc\n\nd\n")
    for sample_by, expected in {
        "document": ["a b\nc\n\nd\n"],
        "paragraph": ["a b\nc", "d\n"],
    }.items():
        assert load_rows(path, fields=("text",), sample_by=sample_by)["text"][:] == expected
    path.write_text("a\nb\n")
    assert load_rows(path, fields=("text",), sample_by="line")["text"][:] == ["a", "b"]
    with pytest.raises(UserError, match="sample_by must be document, paragraph, line or story, not 'word'"):
        load_rows(path, fields=("text",), sample_by="word")


def test_several_files_follow_each_other(write: Callable[..., Path]) -> None:
    one = write("a.jsonl", {"prompt": "a", "user": "u"})
    two = write("b.jsonl", {"prompt": "b"})
    assert load_rows([one, two], fields=("prompt",)).to_list() == [
        {"prompt": "a", "user": "u"},
        {"prompt": "b", "user": None},
    ]
    with pytest.raises(UserError, match="empty list of data files"):
        load_rows([], fields=("prompt",))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt"])
def test_changed_file_is_read_anew_even_with_the_same_time_stamp(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    field = "text" if name.endswith(".txt") else "prompt"
    for word in ("old", "new"):
        text = word if field == "text" else json.dumps({"prompt": word})
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        os.utime(path, (1, 1))
        assert load_rows(path, fields=(field,))[0][field] == word


def test_source_folder_may_be_read_only(write: Callable[..., Path]) -> None:
    path = write("a.jsonl", *ROWS)
    before = set(path.parent.iterdir()) - {path.parent / "cache"}
    contents(path)
    assert set(path.parent.iterdir()) - {path.parent / "cache"} == before


def test_cache_that_cannot_be_written_is_an_error(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "/cache/x")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"/cache/x cannot be written \(Read-only file system\): set HF_DATASETS_CACHE"):
        contents(write("a.jsonl", *ROWS))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_readable_rows_that_cannot_be_kept_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_text('prompt\n"\n' if name == "a.csv" else '{"prompt": "a"}\n{\n')
    create = Path.mkdir

    def refuse(path: Path, *args: Any, **options: Any) -> None:
        if path.parent.name == "rlhf_lightning":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        create(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"rlhf_lightning/\w+ cannot be written \(Permission denied\): set HF_DATASETS"):
        load_sources(tmp_path / name, on_bad_row="skip")


def test_missing_file_and_folder_and_unknown_kind(tmp_path: Path) -> None:
    fails(tmp_path / "no.jsonl", "does not exist", "give the path")
    fails(tmp_path, "is a folder")
    (tmp_path / "a.xml").write_text("<a/>")
    fails(tmp_path / "a.xml", "unknown kind of file '.xml'", ".jsonl, .json, .parquet, .arrow, .csv, .tsv, .txt")
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    fails(tmp_path / "a.parquet.gz", "unknown kind of file")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    fails(tmp_path / name, "has no rows")


def test_empty_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"a\.txt has no rows"):
        load_rows(tmp_path / "a.txt", fields=("text",), sample_by="line")


def test_header_without_rows_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,n\n")
    fails(tmp_path / "a.csv", "has no rows")
    (tmp_path / "a.json").write_text("[]")
    fails(tmp_path / "a.json")


def test_truncated_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"\n')
    fails(tmp_path / "a.jsonl", "line 2", "not valid JSON", "on_bad_row=skip")


def test_row_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n[1]\n')
    fails(tmp_path / "a.jsonl", "line 2", "JSON object")


def test_unreadable_bytes_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\xff\xfe"}\n')
    fails(tmp_path / "a.jsonl", "UTF-8")
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    fails(tmp_path / "a.jsonl.gz", "cannot be read")
    whole = gzip.compress(b'{"prompt": "a"}\n' * 1000)
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    fails(tmp_path / "b.jsonl.gz", "cannot be read")
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    fails(tmp_path / "a.parquet", "not a readable parquet file")
    (tmp_path / "a.arrow").write_bytes(b"no arrow")
    fails(tmp_path / "a.arrow", "not a readable arrow file")
    (tmp_path / "a.csv").write_bytes(b"\xff,\xfe\n1,2\n")
    fails(tmp_path / "a.csv", "cannot be read")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    fails(tmp_path / "a.txt", "UTF-8")


def test_row_without_the_field_is_named_with_the_fields_there_are(write: Callable[..., Path]) -> None:
    fails(write("a.jsonl", {"question": "a", "answer": "b"}), "line 1", "'prompt'", "question, answer")
    fails(write("b.jsonl", {"prompt": "a"}, {"question": "b"}), "line 2", "'prompt'", "the fields are question")
    fails(write("c.jsonl", {"prompt": "a"}, {"prompt": None}), "line 2", "the fields are none")
    fails(write("d.jsonl", {"prompt": None}), "line 1", "no field 'prompt'")


def test_empty_and_wrongly_typed_fields_are_named(write: Callable[..., Path]) -> None:
    fails(write("a.jsonl", {"prompt": "a"}, {"prompt": " \n"}), "line 2", "'prompt' is empty")
    fails(write("b.jsonl", {"prompt": "a"}, {"prompt": 5}), "line 2", "must be text, not int")
    fails(write("c.jsonl", {"prompt": ["a"]}), "line 1", "must be text, not list")


def test_second_file_counts_its_own_rows(write: Callable[..., Path]) -> None:
    one, two = write("a.jsonl", *ROWS), write("b.jsonl", {"prompt": "a"}, {"prompt": ""})
    with pytest.raises(UserError, match=r"b\.jsonl, line 2"):
        load_rows([one, two], fields=("prompt",))


def test_progress_bars_are_off_for_small_inputs_and_restored() -> None:
    assert not datasets.are_progress_bars_disabled()
    with quiet_datasets(1000):
        assert datasets.are_progress_bars_disabled()
    with quiet_datasets(10**9):
        assert not datasets.are_progress_bars_disabled()
    assert not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with quiet_datasets(10**9):
            assert datasets.are_progress_bars_disabled()
        assert datasets.are_progress_bars_disabled()
    finally:
        datasets.enable_progress_bars()


def test_written_rows_come_back_and_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    write_rows(path, ROWS)
    assert contents(path) == ROWS

    def broken() -> Any:
        yield {"prompt": "half"}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_rows(path, broken())
    assert contents(path) == ROWS
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_a_file_are_not_in_each_others_way(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with whole_file(path) as one:
        one.write_text("one")
        with whole_file(path) as two:
            two.write_text("two")
        assert path.read_text() == "two"
    assert path.read_text() == "one"
    assert list(tmp_path.glob(".*")) == []


def test_importing_the_package_does_not_import_datasets() -> None:
    program = "import sys, rlhf_lightning.data; sys.exit('datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.shared_data
def test_real_files_are_read(shared: Path) -> None:
    alpaca = load_rows(shared / "data/sft/llamafactory_alpaca_en_demo.json", fields=("instruction", "output"))
    assert len(alpaca) == 999
    assert len(load_rows(shared / "data/pref/hh_harmless_base_test.jsonl.gz", fields=("chosen", "rejected"))) == 2312
    assert len(load_rows(shared / "data/eval/TruthfulQA.csv", fields=("Question", "Best Answer"))) == 790


@pytest.mark.shared_data
def test_sources_of_several_kinds_are_read_together(shared: Path, write: Callable[..., Path]) -> None:
    table = shared / "data/eval/winogender_all_sentences.tsv"
    (source,) = load_sources({"path": table, "columns": {"prompt": "sentence"}}, fields=("sentence",))
    assert len(source.rows) == 720
    assert source.columns == {"prompt": "sentence"}
