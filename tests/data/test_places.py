"""The file and the line of a row that something is wrong with."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from rlhf_lightning.data import Encoder, PromptDataModule, PromptHygiene, load_prompts
from rlhf_lightning.data.places import place_of
from rlhf_lightning.data.sources import load_sources
from rlhf_lightning.errors import UserError

BLANKS = '\n{"prompt": "a"}\n\n \n{"prompt": null}\n'


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", BLANKS, "line 5"),
        ("a.jsonl.gz", '{"prompt": "a"}\n{\n[]\n\n{"prompt": " "}\n', "line 5"),  # behind rows that were skipped
        ("a.json", json.dumps([{"prompt": "a"}, 5, {"prompt": ""}], indent=1), "row 3"),
        ("a.csv", 'prompt,x\n"a\n\na",1\n\n" ",2\n', "line 6"),
        ("a.csv.gz", 'prompt,x\n"a\n\na",1\n5\n" ",2\n', "line 6"),
        ("a.tsv", "prompt\tx\na\t1\n\t2\n", "line 3"),
        ("a.jsonl", '{"prompt":\n"a"}\n{"prompt": ""}\n', "row 2"),  # whose rows have no lines of their own
    ],
)
def test_a_fault_inside_a_row_has_its_line(
    tmp_path: Path, encoder: Encoder, name: str, content: str, place: str
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    (source,) = load_sources(path, on_bad_row="skip")
    assert place_of(source, len(source.rows) - 1) == f"{path}, {place}"
    if not source.skipped:
        with pytest.raises(UserError) as error:
            load_prompts(path, encoder=encoder)
        assert str(error.value).startswith(f"{path}, {place}: ")


def test_tables_and_adapted_sources_have_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"prompt": ["a", "b"]}), path)
    (source,) = load_sources(path)
    assert place_of(source, 1) == f"{path}, row 2"
    fixture = Path(__file__).parent / "fixtures" / "helpsteer2.jsonl"
    (source,) = load_sources({"path": str(fixture), "adapter": "helpsteer2"})
    assert place_of(source, 1) == f"{fixture}, row 2 of what adapter helpsteer2 makes of it"


def test_rows_that_are_dropped_or_held_out_move_no_place(write: Callable[..., Path], encoder: Encoder) -> None:
    one = write("a.jsonl", {"prompt": "a"}, {"prompt": None}, {"prompt": "a b c"}, {"prompt": "b"})
    two = write("b.jsonl", {"prompt": "b"}, {"prompt": "c"}, {"prompt": ""}, {"prompt": "d"})
    options: dict[str, Any] = {"on_bad_row": "skip", "max_prompt_length": 3, "overlong": "drop", "iterations": 1}
    data = PromptDataModule(encoder=encoder, train=[one, two], **options)
    data.setup()
    places = [data.provenance["train"].place(row) for row in range(len(data.train_rows))]
    assert places == [f"{one}, line 1", f"{one}, line 4", f"{two}, line 1", f"{two}, line 2", f"{two}, line 4"]
    hygiene = PromptHygiene(validation_fraction=0.5)
    data = PromptDataModule(encoder=encoder, train=[one, two], **options, hygiene=hygiene)
    data.setup()
    found = {}
    for split, rows in {"train": data.train_rows, "validation": data.validation_rows}.items():
        found |= {data.provenance[split].place(row): rows[row]["prompt"] for row in range(len(rows))}
    assert found == {f"{one}, line 1": "a", f"{one}, line 4": "b", f"{two}, line 2": "c", f"{two}, line 4": "d"}
