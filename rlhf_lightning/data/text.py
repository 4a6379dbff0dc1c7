"""Pretraining text: documents joined and cut into blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from rlhf_lightning.data.collate import collate_tokens
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.loader import StreamLoader, stream_loader
from rlhf_lightning.data.mixing import Mixture, weights_of
from rlhf_lightning.data.places import Provenance
from rlhf_lightning.data.preparation import encode_source, join
from rlhf_lightning.data.readers import is_plain_text
from rlhf_lightning.data.reporting import tell
from rlhf_lightning.data.sources import Files, load_sources, require_text
from rlhf_lightning.data.specs import text_column
from rlhf_lightning.data.streaming import BlockStream
from rlhf_lightning.data.text_stream import TextStreamLoader, open_stream, stream_text
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


class TextBlocks:
    """A table of blocks of ``block_size`` tokens over the joined documents; nothing is copied, not even on disk.

    Row i is ``{"input_ids": tokens i*block_size to (i+1)*block_size - 1, "prompt_length": 1}``. The incomplete block at
    the end is left out.

    Args:
        documents: table with a column ``input_ids``.
        block_size: tokens of a block, at least 2 (the first token is no label).

    Errors:
        UserError: fewer tokens than one block.
    """

    def __init__(self, documents: Dataset, *, block_size: int) -> None:
        if block_size < 2:
            raise UserError(f"A block of text needs at least 2 tokens, one to predict the other from, not {block_size}")
        import pyarrow as pa

        self.documents = documents
        self.block_size = block_size
        chunks = [chunk.flatten() for chunk in documents.data.column("input_ids").chunks]
        self.tokens = pa.chunked_array(chunks, type=pa.int32())
        if len(self.tokens) < block_size:
            raise UserError(
                f"The text has {len(self.tokens)} tokens, which does not fill one block of {block_size}: "
                "give more text or a smaller block size"
            )

    def __len__(self) -> int:
        return len(self.tokens) // self.block_size

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        blocks = [self.tokens.slice(index * self.block_size, self.block_size) for index in indices]
        return [{"input_ids": block.to_numpy(), "prompt_length": 1} for block in blocks]

    def __reduce__(self) -> tuple[Any, ...]:
        # A spawned worker maps the file again instead of being sent the tokens.
        return partial(TextBlocks, block_size=self.block_size), (self.documents,)


def load_blocks(
    files: Files,
    *,
    encoder: Encoder,
    block_size: int,
    document_eos: bool = True,
    sample_by: str = "document",
    min_characters: int = 0,
    columns: Mapping[str, str] | None = None,
    on_bad_row: str = "raise",
    counts: Counter[str] | None = None,
    provenance: Provenance | None = None,
) -> TextBlocks | Mixture:
    """Blocks of the documents in ``files`` (rows with ``text``, or .txt files).

    Documents of all sources are joined; sources with weights are cut into blocks one by one.

    Args:
        files, sample_by: see ``load_rows``.
        document_eos: end every document with EOS.
        block_size: tokens of a block.
        min_characters: documents that are shorter are left out with a count.
        columns: {"text": the column's name}, where a source does not say so itself.
        on_bad_row: what a row without text does: "raise", or "skip" to leave it out with a count. Blank lines of a
            .txt file are always left out.
        counts: is added to: documents, tokens, skipped_... for the rows left out, and short_documents_dropped.
        provenance: is told the same, source by source.
    """
    from datasets import Features, List, Value

    counts = Counter() if counts is None else counts
    sources = load_sources(files, sample_by=sample_by, on_bad_row=on_bad_row)
    tables = []
    for source in sources:
        field = text_column(source.columns, columns)
        strict = on_bad_row == "raise" and not is_plain_text(source.path)
        if strict or field not in source.rows.column_names:
            require_text(source, field)

        def encode(row: dict[str, Any], field: str = field) -> dict[str, Any]:
            text = row[field]
            known = isinstance(text, str) and bool(text.strip())
            short = known and len(text) < min_characters
            ids = encoder.document(text, eos=document_eos) if known and not short else []
            return {"input_ids": ids, "short": int(short)}

        table = encode_source(
            source,
            encode,
            encoder=encoder,
            features=Features({"input_ids": List(Value("int32")), "short": Value("int32")}),
            options=f"document eos={document_eos} column={field} from={min_characters}",
        )
        import pyarrow.compute as pc

        lengths = pc.list_value_length(table.data.column("input_ids"))
        empty = pc.sum(pc.equal(lengths, 0)).as_py()
        short = pc.sum(table.data.column("short")).as_py()
        own = Counter(documents=len(table) - empty, tokens=pc.sum(lengths).as_py())
        own.update({f"skipped_{kind.replace(' ', '_')}": number for kind, number in source.skipped.items()})
        own.update({"skipped_empty_text": empty - short, "short_documents_dropped": short})
        own = Counter({name: number for name, number in own.items() if number or name in ("documents", "tokens")})
        counts.update(own)
        if provenance is not None:
            provenance.add(source, own)
        tables.append(table)
    weights = weights_of([source.weight for source in sources])
    if weights is None:
        return TextBlocks(join(tables), block_size=block_size)
    blocks = [TextBlocks(table, block_size=block_size) for table in tables]
    return Mixture(blocks, weights=weights, names=[source.path for source in sources])


class TextDataModule(pl.LightningDataModule):
    """Text for pretraining; batches are ``TokenBatch`` of full blocks.

    After ``setup``, ``counts`` says what the training sources gave: documents, tokens, and skipped_... rows.

    Args:
        encoder: the tokenizer.
        train, validation: sources with a field ``text``, or .txt files.
        block_size: tokens of a block.
        batch_size: blocks of a batch, over all ranks.
        document_eos: end every document with EOS.
        sample_by: what a document is in a .txt file: "document" (the file), "paragraph", "line" or "story" (up to a
            single newline; a blank line ends a paragraph of it).
        min_characters: documents that are shorter are left out with a count.
        columns: {"text": the column's name}, for sources that call it otherwise.
        on_bad_row: what a row that cannot be read, or without text, does: "raise", or "skip" to leave it out.
        streaming: read the training text while training instead of preparing it on disk first. The stream has no
            end, so that ``trainer.max_steps`` must say how long to train; it is read in the training process.
        shuffle_buffer: blocks of a stream that are shuffled together.
        seed: order of the training blocks.
        num_workers: worker processes per loader.

    Errors:
        UserError: see ``load_rows``; text that does not fill one block; a batch size that ranks cannot share.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        train: Files,
        validation: Files | None = None,
        block_size: int = 128,
        batch_size: int = 32,
        document_eos: bool = True,
        sample_by: str = "document",
        min_characters: int = 0,
        columns: Mapping[str, str] | None = None,
        on_bad_row: str = "raise",
        streaming: bool = False,
        shuffle_buffer: int = 1000,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.train = train
        self.validation = validation
        self.block_size = block_size
        self.batch_size = batch_size
        self.document_eos = document_eos
        self.sample_by = sample_by
        self.min_characters = min_characters
        self.columns = columns
        self.on_bad_row = on_bad_row
        self.streaming = streaming
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.num_workers = num_workers
        self.counts: Counter[str] = Counter()
        self.provenance = {"train": Provenance(), "validation": Provenance()}  # what each source gave
        self.train_rows: Any = None  # the table or the stream, after setup
        self.validation_rows: TextBlocks | Mixture | None = None

    def prepare_data(self) -> None:
        """Encode the files in one process before the others read the result."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if self.train_rows is not None:
            return
        if self.streaming:
            self.train_rows = open_stream(self.train, **self._options(), buffer=self.shuffle_buffer, seed=self.seed)
        else:
            self.train_rows = self._blocks(self.train, "train", self.counts)
        if self.validation is not None:
            self.validation_rows = self._blocks(self.validation, "validation", Counter())

    def train_dataloader(self) -> StreamLoader | TextStreamLoader:
        self.setup()
        if not isinstance(self.train_rows, BlockStream):
            return self._loader(self.train_rows, train=True)
        steps = -1 if self.trainer is None else self.trainer.max_steps
        if steps < 1:
            raise UserError("A stream of text has no end: set trainer.max_steps, or data.streaming=false")
        return stream_text(
            self.train_rows,
            trainer=self.trainer,
            batches=steps * (1 if self.trainer is None else self.trainer.accumulate_grad_batches),
            batch_size=self.batch_size,
            collate=partial(collate_tokens, pad_id=self.encoder.pad_token_id),
        )

    def val_dataloader(self) -> StreamLoader | list[Any]:
        self.setup()
        return [] if self.validation_rows is None else self._loader(self.validation_rows, train=False)

    def _blocks(self, files: Files, split: str, counts: Counter[str]) -> TextBlocks | Mixture:
        provenance = self.provenance[split]
        blocks = load_blocks(files, **self._options(), counts=counts, provenance=provenance)
        provenance.totals = counts
        tell("text to train on" if split == "train" else "text for validation", counts)
        return blocks

    def _options(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder,
            "block_size": self.block_size,
            "document_eos": self.document_eos,
            "sample_by": self.sample_by,
            "min_characters": self.min_characters,
            "columns": self.columns,
            "on_bad_row": self.on_bad_row,
        }

    def _loader(self, rows: TextBlocks | Mixture, *, train: bool) -> StreamLoader:
        return stream_loader(
            rows,
            trainer=self.trainer,
            collate=partial(collate_tokens, pad_id=self.encoder.pad_token_id),
            batch_size=self.batch_size,
            seed=self.seed,
            train=train,
            num_workers=self.num_workers,
        )
