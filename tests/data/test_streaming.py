"""A stream of blocks goes on exactly where it stopped, from wherever it stopped."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import lightning as L
import pytest
import torch

from rlhf_lightning.data import Encoder, TextDataModule
from rlhf_lightning.data.text_stream import TextStreamLoader, open_stream
from rlhf_lightning.errors import UserError

STREAM = [1, 6, 7, 2, 1, 8, 2, 1, 9, 10, 11, 2]  # the documents below with <s> and </s>


@pytest.fixture
def documents(write: Callable[..., Path]) -> Path:
    return write("text.jsonl", {"text": "a b"}, {"text": "c"}, {"text": "d e f"})


def take(stream: Any, count: int) -> list[list[int]]:
    return [row["input_ids"].tolist() for row in stream.take(count)]


def test_blocks_join_documents_and_begin_again_behind_the_last(documents: Path, encoder: Encoder) -> None:
    stream = open_stream(documents, encoder=encoder, block_size=5, buffer=1)
    endless = STREAM * 3
    assert take(stream, 6) == [endless[i : i + 5] for i in range(0, 30, 5)]
    assert stream.take(1)[0]["prompt_length"] == 1


@pytest.mark.parametrize("block_size", [2, 3, 5, 13])
@pytest.mark.parametrize("buffer", [1, 4])
def test_a_stream_continues_after_any_number_of_blocks(
    documents: Path, write: Callable[..., Path], encoder: Encoder, block_size: int, buffer: int
) -> None:
    other = write("other.jsonl", {"text": "g"}, {"text": "h i j a b c"})
    for files in ([documents, other], [{"path": documents, "weight": 3}, {"path": other, "weight": 1}]):
        options: dict[str, Any] = {"encoder": encoder, "block_size": block_size, "buffer": buffer, "seed": 5}
        whole = take(open_stream(files, **options), 20)
        for done in range(12):
            first = open_stream(files, **options)
            first.take(done)
            state = json.loads(json.dumps(first.state_dict()))  # plain numbers and texts
            second = open_stream(files, **options)
            second.load_state_dict(state)
            assert take(second, 20 - done) == whole[done:], done


def test_windows_are_shuffled_by_the_seed_and_nothing_is_lost(documents: Path, encoder: Encoder) -> None:
    options: dict[str, Any] = {"encoder": encoder, "block_size": 4}
    plain = take(open_stream(documents, **options, buffer=1), 12)
    state = torch.random.get_rng_state()
    shuffled = take(open_stream(documents, **options, buffer=12, seed=1), 12)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert shuffled != plain
    assert sorted(shuffled) == sorted(plain)
    assert shuffled == take(open_stream(documents, **options, buffer=12, seed=1), 12)
    assert shuffled != take(open_stream(documents, **options, buffer=12, seed=2), 12)


def test_weights_share_the_blocks_out(write: Callable[..., Path], encoder: Encoder) -> None:
    files = [
        {"path": write("a.jsonl", {"text": "a a"}), "weight": 1},
        {"path": write("b.jsonl", {"text": "b b"}), "weight": 3},
    ]
    blocks = take(open_stream(files, encoder=encoder, block_size=4, buffer=8), 16)
    assert Counter(block[1] for block in blocks) == {6: 4, 7: 12}


def test_columns_adapters_and_bad_rows(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write("a.jsonl", {"body": "a b"}, {"body": ""}, {"body": "c"})
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: no field 'text'; the fields are body"):
        open_stream(path, encoder=encoder, block_size=4).take(1)
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: the field 'body' is empty: .*on_bad_row=skip"):
        open_stream(path, encoder=encoder, block_size=4, columns={"text": "body"}).take(1)
    source = {"path": path, "columns": {"text": "body"}}
    stream = open_stream(source, encoder=encoder, block_size=7, buffer=1, on_bad_row="skip")
    assert take(stream, 1) == [[1, 6, 7, 2, 1, 8, 2]]
    empty = write("b.jsonl", {"text": ""}, {"text": " "})
    with pytest.raises(UserError, match="no row has text"):
        open_stream(empty, encoder=encoder, block_size=4, on_bad_row="skip").take(1)
    with pytest.raises(UserError, match="adapter wikitext_articles needs all rows at once: set data.streaming=false"):
        open_stream({"path": path, "adapter": "wikitext_articles"}, encoder=encoder, block_size=4)
    with pytest.raises(UserError, match="shuffle_buffer must be at least 1 block, not 0"):
        open_stream(path, encoder=encoder, block_size=4, buffer=0)


def test_a_hub_dataset_is_streamed(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        asked.append((path, name, options["split"], options["revision"], options["streaming"]))
        return datasets.Dataset.from_dict({"text": ["a b", "c"]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = {"hub": "x/y", "config": "en", "revision": "main"}
    stream = open_stream(source, encoder=encoder, block_size=4, buffer=1)
    assert take(stream, 1) == [[1, 6, 7, 2]]
    assert asked == [("x/y", "en", "train", "main", True)]


def test_another_number_of_sources_cannot_continue(documents: Path, encoder: Encoder) -> None:
    stream = open_stream([{"path": documents, "weight": 1}] * 2, encoder=encoder, block_size=4)
    stream.take(1)
    with pytest.raises(UserError, match="has 2 sources and this one 1"):
        open_stream(documents, encoder=encoder, block_size=4).load_state_dict(stream.state_dict())


def test_ranks_share_every_batch(documents: Path, encoder: Encoder) -> None:
    def batches(rank: int, world_size: int) -> list[Any]:
        stream = open_stream(documents, encoder=encoder, block_size=4, buffer=3)
        options: dict[str, Any] = {"batches": 3, "batch_size": 4, "collate": list}
        return list(TextStreamLoader(stream, **options, rank=rank, world_size=world_size))

    whole = [[row["input_ids"].tolist() for row in batch] for batch in batches(0, 1)]
    halves = [
        [row["input_ids"].tolist() for row in [*one, *two]]
        for one, two in zip(batches(0, 2), batches(1, 2), strict=True)
    ]
    assert whole == halves
    with pytest.raises(UserError, match="batch size of 4 cannot be shared by 3 processes"):
        batches(0, 3)


class Recorder(L.LightningModule):
    """Keeps the ids that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[list[int]]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.input_ids.tolist())
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Stop(L.Callback):
    def __init__(self, path: Path, after: int) -> None:
        self.path, self.after = path, after

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.after:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_is_trained_on_the_same_batches(
    make_trainer: Callable[..., L.Trainer], documents: Path, encoder: Encoder, tmp_path: Path, accumulate: int
) -> None:
    def fit(*callbacks: L.Callback, ckpt_path: Path | None = None) -> list[list[list[int]]]:
        data = TextDataModule(
            encoder=encoder, train=documents, block_size=3, batch_size=2, streaming=True, shuffle_buffer=5
        )
        module = Recorder()
        trainer = make_trainer(
            max_epochs=None, max_steps=9, accumulate_grad_batches=accumulate, callbacks=list(callbacks)
        )
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module.seen

    whole = fit()
    assert len(whole) == 9 * accumulate
    path = tmp_path / "stopped.ckpt"
    first = fit(Stop(path, after=4))
    second = fit(ckpt_path=path)
    assert first == whole[: len(first)]
    assert first[: 4 * accumulate] + second == whole


def test_a_stream_needs_an_end(documents: Path, encoder: Encoder) -> None:
    data = TextDataModule(encoder=encoder, train=documents, block_size=3, streaming=True)
    with pytest.raises(UserError, match="A stream of text has no end: set trainer.max_steps"):
        data.train_dataloader()


def test_text_files_are_streamed_by_line(tmp_path: Path, encoder: Encoder) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\n\nb\n")
    stream = open_stream(path, encoder=encoder, block_size=6, buffer=1, sample_by="line")
    assert take(stream, 1) == [[1, 6, 2, 1, 7, 2]]


def test_positions_of_batches_fetched_ahead_are_those_of_the_batches_done(documents: Path, encoder: Encoder) -> None:
    done = 0
    stream = open_stream(documents, encoder=encoder, block_size=3, buffer=4)
    options: dict[str, Any] = {"batches": 8, "batch_size": 1, "collate": lambda rows: rows[0]["input_ids"].tolist()}
    loader = TextStreamLoader(stream, **options, batches_done=lambda: done)
    whole = list(islice(loader, 8))
    stream = open_stream(documents, encoder=encoder, block_size=3, buffer=4)
    loader = TextStreamLoader(stream, **options, batches_done=lambda: done)
    list(islice(loader, 5))
    done = 3
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    again = TextStreamLoader(open_stream(documents, encoder=encoder, block_size=3, buffer=4), **options)
    again.load_state_dict(state)
    assert list(again) == whole[3:]
