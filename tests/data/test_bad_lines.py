"""Rows that cannot be read: named by file and line, or left out with a count."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning.data.sources import load_sources
from rlhf_lightning.errors import UserError

GOOD = b'{"prompt": "a"}\n'
BAD = {
    "truncated": (b'{"prompt": "b', "not valid JSON"),
    "no object": (b'["b"]', "no JSON object"),
    "a number": (b"5", "no JSON object"),
    "bytes": (b'{"prompt": "\xff\xfe"}', "not UTF-8"),
    "bytes elsewhere": (b'{"prompt": "b", "\xff": 1}', "not UTF-8"),
    "half an emoji": (rb'{"prompt": "\ud83d"}', "half a letter"),
    "a key twice": (b'{"prompt": "b", "prompt": "c"}', "key given twice"),
    "a key twice within": (b'{"prompt": "b", "x": [{"y": 1, "y": 1}]}', "key given twice"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_bad_line_is_named_or_left_out_with_a_count(tmp_path: Path, case: str, zipped: bool) -> None:
    line, kind = BAD[case]
    content = GOOD + b"\n" + line + b"\n" + GOOD
    path = tmp_path / ("a.jsonl.gz" if zipped else "a.jsonl")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(UserError) as error:
        load_sources(path, fields=("prompt",))
    assert f"{path}, line 3: {kind}" in str(error.value)
    assert "data.on_bad_row=skip" in str(error.value)
    (source,) = load_sources(path, fields=("prompt",), on_bad_row="skip")
    assert source.rows["prompt"][:] == ["a", "a"]
    assert source.skipped == {kind: 1}
    assert source.path == str(path)


def test_a_second_start_finds_the_readable_rows_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"{\n")
    (first,) = load_sources(path, on_bad_row="skip")

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("rlhf_lightning.data.readers.write_readable", refuse)
    (second,) = load_sources(path, on_bad_row="skip")
    assert second.skipped == first.skipped == {"not valid JSON": 1}
    assert second.digest == first.digest


@pytest.mark.parametrize("half", ["", '{"not valid JS'])
def test_counts_that_were_not_written_to_their_end_are_written_anew(tmp_path: Path, half: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"{\n")
    load_sources(path, on_bad_row="skip")
    (counts,) = tmp_path.glob("cache/rlhf_lightning/*/*.skipped.json")
    counts.write_text(half)
    (source,) = load_sources(path, on_bad_row="skip")
    assert source.skipped == {"not valid JSON": 1}
    assert json.loads(counts.read_text()) == {"not valid JSON": 1}
    assert list(counts.parent.glob(".*")) == []  # no partial file stays


def test_nothing_is_skipped_in_a_good_file_and_its_cache_is_shared(write: Callable[..., Path]) -> None:
    path = write("a.jsonl", {"prompt": "a"})
    (strict,) = load_sources(path)
    (lenient,) = load_sources(path, on_bad_row="skip")
    assert lenient.skipped == strict.skipped == {}
    assert lenient.digest == strict.digest


def test_rows_of_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt,n\n"x\ny",1\nb,2,3\n\xff,4\nc,\n')
    with pytest.raises(UserError, match=r"a\.csv, line 4: wrong number of fields \(3 fields where the header has 2\)"):
        load_sources(path)
    (source,) = load_sources(path, on_bad_row="skip")
    assert source.rows.to_list() == [{"prompt": "x\ny", "n": "1"}, {"prompt": "c", "n": ""}]
    assert source.skipped == {"wrong number of fields": 1, "not UTF-8": 1}


def test_entries_of_a_json_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"prompt": "a"}, 5, {"prompt": "b"}]))
    with pytest.raises(UserError, match=r"a\.json, row 2: no JSON object"):
        load_sources(path)
    (source,) = load_sources(path, on_bad_row="skip")
    assert source.rows["prompt"][:] == ["a", "b"]
    path.write_text('[{"prompt": "a"},\n{"prompt": ')
    with pytest.raises(UserError, match=r"a\.json, line 2: not valid JSON"):
        load_sources(path)
    with pytest.raises(UserError, match=r"none of its 1 rows can be read"):
        load_sources(path, on_bad_row="skip")


def test_what_cannot_be_unzipped_has_no_rows_to_skip(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="cannot be read"):
        load_sources(tmp_path / "a.jsonl.gz", on_bad_row="skip")


def test_text_that_is_not_utf8_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\n\xff\n")
    for choice in ("raise", "skip"):
        with pytest.raises(UserError, match=r"a\.txt, line 2: not UTF-8"):
            load_sources(tmp_path / "a.txt", sample_by="line", on_bad_row=choice)


def test_other_choices_are_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="on_bad_row must be raise or skip, not 'ignore'"):
        load_sources(write("a.jsonl", {"prompt": "a"}), on_bad_row="ignore")
