"""Records of CSV and TSV files: by their widths and quotes, with the lines at which they start."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data.bad_lines import rows_of
from rlhf_lightning.data.records import BadRow
from rlhf_lightning.data.sources import load_sources
from rlhf_lightning.errors import UserError


def read(path: Path, text: str) -> list[tuple[str, Any]]:
    """Places, with the fields of a row or the kind of its fault."""
    path.write_text(text)
    rows = [
        (place, row.kind if isinstance(row, BadRow) else list(row.values())) for place, row, _ in rows_of(path, "csv")
    ]
    whole = list(rows_of(path, "csv"))
    for number, (_, _, end) in enumerate(whole, 1):  # every end is a place to go on from
        assert list(rows_of(path, "csv", start=end)) == whole[number:]
    return rows


def test_rows_of_another_width_than_the_header_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,response,source\nq1,a1,src,\nq2,a2,src,\n")
    with pytest.raises(UserError, match=r"a\.csv, line 2: wrong number of fields \(4 fields where the header has 3\)"):
        load_sources(path)
    with pytest.raises(UserError, match="none of its 2 rows can be read"):
        load_sources(path, on_bad_row="skip")
    path.write_text("prompt,response,source\nq1,a1,src\nq2,a2\n")
    with pytest.raises(UserError, match=r"a\.csv, line 3: wrong number of fields \(2 fields where the header has 3\)"):
        load_sources(path)
    (source,) = load_sources(path, on_bad_row="skip")
    assert source.rows.to_list() == [{"prompt": "q1", "response": "a1", "source": "src"}]
    with pytest.raises(UserError, match=r"a\.csv, line 3"):  # also where the readable rows are there already
        load_sources(path)


def test_a_record_of_several_lines_has_the_place_of_its_first(tmp_path: Path) -> None:
    text = '\nq,r\n\n"one\n\ntwo",1\r\n"say ""hi""",2\nx\n'
    assert read(tmp_path / "a.csv", text) == [
        ("line 4", ["one\n\ntwo", "1"]),
        ("line 7", ['say "hi"', "2"]),
        ("line 8", "wrong number of fields"),
    ]


def test_a_quote_that_is_never_closed_spoils_its_own_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert read(path, 'q,r\n"a,1\nb,2\nc,3\n') == [
        ("line 2", "not valid CSV"),
        ("line 3", ["b", "2"]),
        ("line 4", ["c", "3"]),
    ]
    with pytest.raises(UserError, match=r"a\.csv, line 2: not valid CSV \(a quote is opened and never closed\)"):
        load_sources(path)
    assert read(path, 'q,r\n"a,1\nb,2\n"c",3\nd,4\n') == [  # closed by a quote that opens another field
        ("line 2", "not valid CSV"),
        ("line 3", ["b", "2"]),
        ("line 4", ["c", "3"]),
        ("line 5", ["d", "4"]),
    ]


def test_letters_behind_a_quote_are_read_as_most_readers_do(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", 'q,r\n"a" b,1\nc "d",2\n') == [("line 2", ["a b", "1"]), ("line 3", ['c "d"', "2"])]


def test_stray_quotes_of_a_tsv_file_merge_no_rows(tmp_path: Path) -> None:
    text = 'q\tr\n"a\t1\nb"\t2\n"Hi," he said\t3\n"d"\t4\n"e\nf"\t5\n"g\t6\n'
    assert read(tmp_path / "a.tsv", text) == [
        ("line 2", ['"a', "1"]),
        ("line 3", ['b"', "2"]),
        ("line 4", ['"Hi," he said', "3"]),
        ("line 5", ["d", "4"]),
        ("line 6", ["e\nf", "5"]),
        ("line 8", ['"g', "6"]),
    ]


def test_the_same_bytes_are_other_rows_under_another_ending(tmp_path: Path) -> None:
    for name, expected in {"a.csv": {"q\tr": "a\tb", "s": "c"}, "a.tsv": {"q": "a", "r,s": "b,c"}}.items():
        (tmp_path / name).write_text("q\tr,s\na\tb,c\n")
        (source,) = load_sources(tmp_path / name)
        assert source.rows.to_list() == [expected]


def test_headers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf"q",,r\n1,2,3\n'))
    (source,) = load_sources(path)
    assert source.rows.to_list() == [{"q": "1", "column 2": "2", "r": "3"}]
    path = tmp_path / "b.csv"
    path.write_text("q,q\n1,2\n")
    with pytest.raises(UserError, match=r"b\.csv, line 1: the column 'q' stands twice in the header: rename one"):
        load_sources(path)
    path.write_text('"q\n1\n')
    with pytest.raises(UserError, match=r"b\.csv cannot be read as CSV: its header is broken"):
        load_sources(path)


def test_long_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("q\n" + "a" * 200_000 + "\n")
    (source,) = load_sources(path)
    assert len(source.rows[0]["q"]) == 200_000


def test_lines_of_json_go_on_behind_any_row(tmp_path: Path) -> None:
    for name, content in {
        "a.jsonl": '\ufeff{"a": 1}\n\n{\n{"a": "é"}',
        "a.json": json.dumps([{"a": 1}, 2, {"a": 3}]),
    }.items():
        (tmp_path / name).write_text(content)
        whole = list(rows_of(tmp_path / name, "json"))
        assert len(whole) == 3
        for number, (_, _, end) in enumerate(whole, 1):
            assert list(rows_of(tmp_path / name, "json", start=end)) == whole[number:]
