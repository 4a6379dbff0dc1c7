from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning.data import Encoder, TextDataModule, load_blocks
from rlhf_lightning.data.text_stream import open_stream
from rlhf_lightning.errors import UserError


@pytest.fixture
def documents(write: Callable[..., Path]) -> Path:
    return write("text.jsonl", {"text": "a b"}, {"text": "c"}, {"text": "d e f"})


STREAM = [1, 6, 7, 2, 1, 8, 2, 1, 9, 10, 11, 2]


def blocks(path: Path, encoder: Encoder, size: int, **options: bool) -> list[list[int]]:
    table = load_blocks(path, encoder=encoder, block_size=size, **options)
    return [row["input_ids"].tolist() for row in table.__getitems__(list(range(len(table))))]


def test_documents_are_joined_and_cut_and_the_incomplete_block_is_dropped(documents: Path, encoder: Encoder) -> None:
    assert blocks(documents, encoder, 4) == [STREAM[:4], STREAM[4:8], STREAM[8:]]
    assert blocks(documents, encoder, 5) == [STREAM[:5], STREAM[5:10]]


def test_blocks_cross_files(documents: Path, write: Callable[..., Path], encoder: Encoder) -> None:
    other = write("other.jsonl", {"text": "j"})
    table = load_blocks([documents, other], encoder=encoder, block_size=14)
    assert table.__getitems__([0])[0]["input_ids"].tolist() == [*STREAM, 1, 15]


def test_eos_of_documents_can_be_left_out(documents: Path, encoder: Encoder) -> None:
    assert blocks(documents, encoder, 9, document_eos=False) == [[1, 6, 7, 1, 8, 1, 9, 10, 11]]
    assert blocks(documents, encoder, 9) == [STREAM[:9]]  # the cache keeps the two apart


def test_text_that_fills_no_block_is_an_error(documents: Path, encoder: Encoder) -> None:
    with pytest.raises(UserError, match=r"12 tokens, which does not fill one block of 13: .*smaller block size"):
        load_blocks(documents, encoder=encoder, block_size=13)
    with pytest.raises(UserError, match="at least 2 tokens"):
        load_blocks(documents, encoder=encoder, block_size=1)


def test_text_file_lines_can_be_documents(tmp_path: Path, encoder: Encoder) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\nb\n")
    table = load_blocks(path, encoder=encoder, block_size=6, sample_by="line")
    assert table.__getitems__([0])[0]["input_ids"].tolist() == [1, 6, 2, 1, 7, 2]


def test_blank_lines_of_a_text_file_are_no_documents(tmp_path: Path, encoder: Encoder) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\n\n \nb\n")
    data = TextDataModule(encoder=encoder, train=path, block_size=6, sample_by="line")
    data.setup()
    assert data.train_rows.__getitems__([0])[0]["input_ids"].tolist() == [1, 6, 2, 1, 7, 2]
    assert data.counts == {"documents": 2, "tokens": 6, "skipped_empty_text": 2}


STORIES = "a b\n\nc\nd e\n\n\nf\n  \ng\n"
"""Three stories, of which the first two have two paragraphs, and a blank one."""
STORY_IDS = [1, 6, 7, 8, 2, 1, 9, 10, 11, 2, 1, 12, 2]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_story_ends_at_a_single_newline(tmp_path: Path, encoder: Encoder, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(STORIES.encode()) if name.endswith(".gz") else STORIES.encode())
    table = load_blocks(path, encoder=encoder, block_size=13, sample_by="story")
    assert table.__getitems__([0])[0]["input_ids"].tolist() == STORY_IDS
    with pytest.raises(UserError, match=r"sample_by=story needs the file prepared: set data\.streaming=false"):
        open_stream(path, encoder=encoder, block_size=13, sample_by="story")


def test_stories_that_cannot_be_read_are_named(tmp_path: Path, encoder: Encoder) -> None:
    bad, empty = tmp_path / "bad.txt", tmp_path / "empty.txt"
    bad.write_bytes(b"a\n\xff\n")
    empty.write_text(" \n")
    with pytest.raises(UserError, match=r"bad\.txt, line 2: not UTF-8"):
        load_blocks(bad, encoder=encoder, block_size=2, sample_by="story")
    with pytest.raises(UserError, match=r"empty\.txt has no rows"):
        load_blocks(empty, encoder=encoder, block_size=2, sample_by="story")


def test_short_documents_are_left_out_with_a_count(tmp_path: Path, encoder: Encoder) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a b\n\nc\nd\n\n")
    data = TextDataModule(encoder=encoder, train=path, block_size=4, sample_by="line", min_characters=2)
    data.setup()
    assert data.train_rows.__getitems__([0])[0]["input_ids"].tolist() == [1, 6, 7, 2]
    assert data.counts == {"documents": 1, "tokens": 4, "skipped_empty_text": 2, "short_documents_dropped": 2}
    stream = open_stream(path, encoder=encoder, block_size=4, sample_by="line", min_characters=2, buffer=1)
    assert [stream.take(1)[0]["input_ids"].tolist() for _ in range(2)] == [[1, 6, 7, 2]] * 2


def test_a_row_without_text_is_told_or_left_out(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", {"text": "a"}, {"text": " "}, {"text": None}, {"text": "b"})
    with path.open("a") as file:
        file.write("[]\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 5: no JSON object"):
        TextDataModule(encoder=encoder, train=path, block_size=6).setup()
    clean = write("b.jsonl", {"text": "a"}, {"text": " "})
    with pytest.raises(UserError, match=r"b\.jsonl, line 2: the field 'text' is empty"):
        TextDataModule(encoder=encoder, train=clean, block_size=6).setup()
    data = TextDataModule(encoder=encoder, train=path, block_size=6, on_bad_row="skip")
    data.setup()
    assert data.train_rows.__getitems__([0])[0]["input_ids"].tolist() == [1, 6, 2, 1, 7, 2]
    assert data.counts == {"documents": 2, "tokens": 6, "skipped_empty_text": 2, "skipped_no_JSON_object": 1}


def test_the_column_of_text_is_named_by_the_source_or_for_all(write: Callable[..., Path], encoder: Encoder) -> None:
    one, two = write("a.jsonl", {"body": "a"}), write("b.jsonl", {"content": "b"})
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: no field 'text'; the fields are body"):
        load_blocks(one, encoder=encoder, block_size=6)
    files = [one, {"path": two, "columns": {"text": "content"}}]
    table = load_blocks(files, encoder=encoder, block_size=6, columns={"text": "body"})
    assert table.__getitems__([0])[0]["input_ids"].tolist() == [1, 6, 2, 1, 7, 2]


def test_pickled_table_maps_the_file_again(documents: Path, encoder: Encoder) -> None:
    table = load_blocks(documents, encoder=encoder, block_size=4)
    again = pickle.loads(pickle.dumps(table))
    assert again.__getitems__([1])[0]["input_ids"].tolist() == STREAM[4:8]


def test_batches_label_every_token_but_the_first(documents: Path, encoder: Encoder) -> None:
    data = TextDataModule(encoder=encoder, train=documents, validation=documents, block_size=4, batch_size=3)
    (batch,) = data.val_dataloader()
    assert batch.input_ids.tolist() == [STREAM[:4], STREAM[4:8], STREAM[8:]]
    assert batch.lengths.tolist() == [4, 4, 4]
    assert batch.loss_mask.tolist() == [[False, True, True, True]] * 3
    (trained,) = data.train_dataloader()
    assert sorted(trained.input_ids.tolist()) == sorted(batch.input_ids.tolist())


def test_no_validation_file_no_validation_batches(documents: Path, encoder: Encoder) -> None:
    assert list(TextDataModule(encoder=encoder, train=documents, block_size=4).val_dataloader()) == []


@pytest.mark.shared_data
def test_real_stories_as_published(shared: Path) -> None:
    data = TextDataModule(
        encoder=Encoder.from_pretrained(shared / "models" / "stories260k"),
        train=shared / "data/pretrain/tinystories_944k.txt",
        sample_by="story",
        min_characters=200,  # a few stories hold single newlines too: what is cut off by one is shorter
    )
    data.setup()
    assert (data.counts["documents"], data.counts["short_documents_dropped"]) == (1011, 86)


@pytest.mark.shared_data
def test_real_text_fills_blocks(shared: Path) -> None:
    encoder = Encoder.from_pretrained(shared / "models" / "stories260k")
    table = load_blocks(shared / "data/pretrain/tinystories_944k.txt", encoder=encoder, block_size=128)
    first = table.__getitems__([0])[0]["input_ids"].tolist()
    assert first[0] == encoder.bos_token_id
    assert encoder.decode(first).startswith("One day, a little girl named Lily found a needle in her room.")
    assert len(table) > 3000
