"""Rows of a stream that cannot be used: named by file and line, or left out with a count."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from rlhf_lightning.data import Encoder
from rlhf_lightning.data.text_stream import open_stream
from rlhf_lightning.errors import UserError

GOOD = b'{"text": "a b"}\n'
BAD = {
    "truncated": (b'{"text": "c', "not valid JSON"),
    "bytes": (b'{"text": "\xff"}', "not UTF-8"),
    "half an emoji": (rb'{"text": "\ud83d"}', "half a letter"),
    "null": (b'{"text": null}', "no text"),
    "a number": (b'{"text": 5}', "no text"),
    "empty": (b'{"text": " "}', "empty text"),
    "no field": (b'{"body": "a"}', "no text"),
}
BLOCK = [1, 6, 7, 2]  # GOOD with <s> and </s>


def blocks(stream: Any, count: int) -> list[list[int]]:
    return [row["input_ids"].tolist() for row in stream.take(count)]


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_have_their_line_or_are_left_out(
    tmp_path: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    line, kind = BAD[case]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD + b"\n" + line + b"\n" + GOOD + line + b"\n"))
    options: dict[str, Any] = {"encoder": encoder, "block_size": 4, "buffer": 1}
    with pytest.raises(UserError) as error:
        open_stream(path, **options).take(2)
    assert str(error.value).startswith(f"{path}, line 3: ")
    stream = open_stream(path, **options, on_bad_row="skip")
    with caplog.at_level("INFO"):
        assert blocks(stream, 2) == [BLOCK] * 2
        assert stream.sources[0].skipped == {kind: 1}
        assert caplog.messages == [f"{path}, line 3: left out, the first row of this pass with {kind}"]
        assert blocks(stream, 2) == [BLOCK] * 2
    assert f"{path}: rows left out in a pass: {kind} 2" in caplog.messages
    assert stream.sources[0].skipped == {kind: 1}  # of the second pass


def test_counts_go_on_with_the_stream(tmp_path: Path, encoder: Encoder) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,x\na b,1\n5\n"a b",1\n,1\na b,1\n')
    options: dict[str, Any] = {"encoder": encoder, "block_size": 4, "buffer": 1, "on_bad_row": "skip"}
    for done in range(5):
        first = open_stream(path, **options)
        first.take(done)
        second = open_stream(path, **options)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        found = []
        for _ in range(4):
            blocks(second, 1)
            found.append(Counter(second.sources[0].skipped))
        whole = open_stream(path, **options)
        whole.take(done)
        expected = []
        for _ in range(4):
            whole.take(1)
            expected.append(Counter(whole.sources[0].skipped))
        assert found == expected


def test_rows_of_a_csv_file_are_streamed_by_their_widths(tmp_path: Path, encoder: Encoder) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,x\na b,1\na,b,1\n")
    with pytest.raises(UserError, match=r"a\.csv, line 3: wrong number of fields"):
        open_stream(path, encoder=encoder, block_size=4, buffer=1).take(2)


def test_what_breaks_a_hub_dataset_is_told_with_its_row(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    def rows() -> Any:
        yield {"text": "a b"}
        b"\xff".decode()

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.IterableDataset.from_generator(rows))
    with pytest.raises(UserError, match=r"x/y \(split train\): what follows row 1 cannot be read \('utf-8' codec"):
        open_stream({"hub": "x/y"}, encoder=encoder, block_size=4, buffer=1).take(2)
