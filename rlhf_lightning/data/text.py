"""Pretraining text: documents joined and cut into blocks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from rlhf_lightning.data.collate import collate_tokens
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.loader import StreamLoader, stream_loader
from rlhf_lightning.data.preparation import encode_source, join
from rlhf_lightning.data.sources import Files, load_sources
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
    files: Files, *, encoder: Encoder, block_size: int, document_eos: bool = True, sample_by: str = "document"
) -> TextBlocks:
    """Blocks of the documents in ``files`` (rows with ``text``, or .txt files).

    Args:
        files, sample_by: see ``load_rows``.
        document_eos: end every document with EOS.
        block_size: tokens of a block.
    """
    from datasets import Features, List, Value

    def encode(row: dict[str, Any], place: str) -> dict[str, Any]:
        return {"input_ids": encoder.document(row["text"], eos=document_eos)}

    documents = [
        encode_source(
            source,
            encode,
            encoder=encoder,
            features=Features({"input_ids": List(Value("int32"))}),
            options=f"document eos={document_eos}",
        )
        for source in load_sources(files, fields=("text",), sample_by=sample_by)
    ]
    return TextBlocks(join(documents), block_size=block_size)


class TextDataModule(pl.LightningDataModule):
    """Text for pretraining; batches are ``TokenBatch`` of full blocks.

    Args:
        encoder: the tokenizer.
        train, validation: files with a field ``text``, or .txt files.
        block_size: tokens of a block.
        batch_size: blocks of a batch, over all ranks.
        document_eos: end every document with EOS.
        sample_by: what a document is in a .txt file: "document" (the file), "paragraph" or "line".
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
        self.seed = seed
        self.num_workers = num_workers
        self.train_rows: Any = None  # the table, after setup
        self.validation_rows: TextBlocks | None = None

    def prepare_data(self) -> None:
        """Encode the files in one process before the others read the result."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if self.train_rows is None:
            self.train_rows = self._load(self.train)
            self.validation_rows = None if self.validation is None else self._load(self.validation)

    def train_dataloader(self) -> StreamLoader:
        self.setup()
        return self._loader(self.train_rows, train=True)

    def val_dataloader(self) -> StreamLoader | list[Any]:
        self.setup()
        return [] if self.validation_rows is None else self._loader(self.validation_rows, train=False)

    def _load(self, files: Files) -> TextBlocks:
        return load_blocks(
            files,
            encoder=self.encoder,
            block_size=self.block_size,
            document_eos=self.document_eos,
            sample_by=self.sample_by,
        )

    def _loader(self, rows: TextBlocks, *, train: bool) -> StreamLoader:
        return stream_loader(
            rows,
            trainer=self.trainer,
            collate=partial(collate_tokens, pad_id=self.encoder.pad_token_id),
            batch_size=self.batch_size,
            seed=self.seed,
            train=train,
            num_workers=self.num_workers,
        )
