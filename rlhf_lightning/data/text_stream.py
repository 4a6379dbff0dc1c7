"""Loaders of streamed text, and the sources that they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.hub import load_hub
from rlhf_lightning.data.mixing import weights_of
from rlhf_lightning.data.readers import builder_of, is_plain_text, quiet_datasets
from rlhf_lightning.data.row_streams import FileRows, NumberedRows, RowStream
from rlhf_lightning.data.sharing import check_shared, count_of_done, rank_and_world
from rlhf_lightning.data.specs import Files, Spec, specs_of, text_column
from rlhf_lightning.data.streaming import BlockSource, BlockStream, Documents
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

REMEMBERED = 64
"""Batches back to which the position is known; Lightning fetches a few batches before it trains on them."""


class TextStreamLoader:
    """Batches of a ``BlockStream``, continued by Lightning where a checkpoint left off.

    Args:
        stream: the blocks; it never ends.
        batches: length of an epoch.
        batch_size: blocks of a batch, over all ranks; this process keeps its contiguous share.
        collate: list of rows -> batch.
        rank, world_size: of this process.
        batches_done: batches of this epoch whose training step is over. Default: those handed out.
    """

    def __init__(
        self,
        stream: BlockStream,
        *,
        batches: int,
        batch_size: int,
        collate: Callable[[list[dict[str, Any]]], Any],
        rank: int = 0,
        world_size: int = 1,
        batches_done: Callable[[], int] | None = None,
    ) -> None:
        check_shared(batch_size, world_size)
        self.stream = stream
        self.batches = batches
        self.batch_size = batch_size
        self.collate = collate
        share = batch_size // world_size
        self._share = slice(rank * share, (rank + 1) * share)
        self._batches_done = batches_done
        self._first = 0
        self._handed_out = 0
        self._positions: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        first, self._first = self._first, 0
        self._handed_out = first
        self._positions = {first: self.stream.state_dict()}
        for batch in range(first, self.batches):
            rows = self.stream.take(self.batch_size)[self._share]
            self._positions[batch + 1] = self.stream.state_dict()
            self._positions.pop(batch + 1 - REMEMBERED, None)
            self._handed_out = batch + 1
            yield self.collate(rows)

    def state_dict(self) -> dict[str, Any]:
        """The batches that are done (a finished epoch is batch 0 of the next) and where the stream is then."""
        done = self._handed_out if self._batches_done is None else min(self._batches_done(), self._handed_out)
        position = self._positions.get(done, self.stream.state_dict())
        return {"batches": 0 if done >= self.batches else done, "stream": position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next iteration start where ``state_dict`` was taken."""
        self._first = state_dict["batches"]
        self.stream.load_state_dict(state_dict["stream"])


def open_stream(
    files: Files,
    *,
    encoder: Encoder,
    block_size: int,
    document_eos: bool = True,
    sample_by: str = "document",
    min_characters: int = 0,
    on_bad_row: str = "raise",
    columns: Mapping[str, str] | None = None,
    buffer: int = 1000,
    seed: int = 0,
) -> BlockStream:
    """A stream of the documents in ``files``, which are read as they are needed and never prepared on disk.

    Args:
        files: see ``load_rows``. With weights the sources are mixed, without they follow each other.
        encoder, block_size, document_eos, sample_by, min_characters, columns, on_bad_row: see ``load_blocks``.
        buffer: blocks that are shuffled together.
        seed: order of the blocks.

    Errors:
        UserError: a source that does not exist; an adapter, which needs all rows at once.
    """
    specs = specs_of(files)
    parts = [_documents(spec, columns, sample_by) for spec in specs]
    weights = weights_of([spec.weight for spec in specs])

    def source(some: Iterable[Documents]) -> BlockSource:
        def encode(text: str) -> list[int]:
            return encoder.document(text, eos=document_eos) if len(text) >= min_characters else []

        return BlockSource(list(some), encode=encode, block_size=block_size, on_bad_row=on_bad_row)

    sources = [source(parts)] if weights is None else [source([part]) for part in parts]
    return BlockStream(sources, weights=weights or [1.0], buffer=buffer, seed=seed)


def stream_text(stream: BlockStream, *, trainer: Trainer | None, batches: int, **options: Any) -> TextStreamLoader:
    """A loader for this process's share of a stream; ``options`` as for ``TextStreamLoader``."""
    rank, world_size = rank_and_world(trainer)
    return TextStreamLoader(
        stream,
        batches=batches,
        rank=rank,
        world_size=world_size,
        batches_done=count_of_done(trainer),
        **options,
    )


def _documents(spec: Spec, columns: Mapping[str, str] | None, sample_by: str) -> Documents:
    import datasets

    if spec.adapter is not None:
        raise UserError(f"{spec.name}: adapter {spec.adapter} needs all rows at once: set data.streaming=false")
    field = text_column(spec.columns, columns)
    if spec.path is None:
        return Documents(spec.name, lambda: NumberedRows(lambda: load_hub(spec, streaming=True), spec.name), field)
    path = Path(spec.path)
    builder, options = builder_of(path, sample_by)
    if options.get("sample_by") == "story":
        raise UserError(f"{path}: sample_by=story needs the file prepared: set data.streaming=false")

    def open_file() -> Any:
        with quiet_datasets(0):
            return datasets.load_dataset(
                builder, data_files=str(path.absolute()), split="train", streaming=True, **options
            )

    def open_rows() -> RowStream:
        return FileRows(path, builder) if builder in ("json", "csv") else NumberedRows(open_file, spec.name)

    return Documents(spec.name, open_rows, field, blank_lines=is_plain_text(spec.path), loose=builder == "json")
