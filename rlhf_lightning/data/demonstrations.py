"""Demonstrations for supervised fine-tuning: prompt and response pairs, and conversations; text beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl

from rlhf_lightning.data.collate import collate_tokens
from rlhf_lightning.data.columns import Columns, open_sources
from rlhf_lightning.data.demonstration_rows import encode_demonstrations, load_demonstrations
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.loader import StreamLoader, stream_loader
from rlhf_lightning.data.mixing import with_share
from rlhf_lightning.data.packing import check_packing, collate_packs
from rlhf_lightning.data.places import Provenance
from rlhf_lightning.data.reporting import tell
from rlhf_lightning.data.sources import Files
from rlhf_lightning.data.text import load_blocks
from rlhf_lightning.errors import UserError

__all__ = ["DemonstrationDataModule", "load_demonstrations"]


class DemonstrationDataModule(pl.LightningDataModule):
    """Demonstrations; batches are ``TokenBatch`` whose labels are the response's tokens and EOS.

    With ``packing``, the examples of each batch are laid into rows of at most so many tokens (``PackedBatch``): they do
    not attend to each other, their positions restart, and loss and gradients are those of the padded batch. It saves
    padding and nothing else: ``batch_size`` goes on counting examples, so that steps, schedule and learning rate mean
    the same with and without (in TRL it would count packs); the ``micro_batch_size`` of ``SFTModule`` counts packs. A
    pack about as long as the longest examples is fastest where attention takes a mask (sdpa, eager), whose cost grows
    with the square of the pack; FlashAttention does not mind long packs.

    With ``text``, blocks of pretraining text are shuffled among the demonstrations, as in the paper's initialisation of
    RLHF (10 %, appendix C): an epoch has every demonstration once and so many blocks that they are ``text_share`` of
    its rows. Every token of a block but the first is a label.

    After ``setup``, ``counts`` says what the training files gave: rows, and what was left out or cut and why.

    Args:
        encoder: the tokenizer.
        train, validation: files whose columns are one of ``SHAPES["demonstrations"]``: prompt/response,
            prompt/completion, messages, conversations, instruction/(input/)output, question/answer. All but plain
            prompts are conversations and go through the chat template.
        batch_size: rows (examples, also with ``packing``) of a batch, over all ranks (paper: 32).
        max_length: most tokens of prompt and response; None for no limit.
        overlong: what to do with longer rows: "error", "drop", "keep_start" (the response loses its end and its EOS)
            or "keep_end" (the prompt loses its start).
        columns: our name -> the file's column, where a file names them otherwise; see ``Columns``.
        on_bad_row: "raise" for an error that names file and line, "skip" to count and leave out malformed rows.
        train_on: "last" or "all" assistant turns of a conversation.
        seed: order of the training rows.
        num_workers: worker processes per loader.
        packing: most tokens of a pack, also the limit of an example; None pads every example to the longest.
        text: files with a field ``text``, or .txt files.
        text_share: part of an epoch's rows that are blocks of text (paper: 0.1; of what is not said there).
        text_block: tokens of a block of text.
        document_eos, sample_by, min_characters: of the text, see ``TextDataModule``.

    Errors:
        UserError: see ``load_rows``; a file without a shape that is known; a bad row or one over the limit; no row
            left; a template whose turns cannot be told apart (``train_on="all"``); a batch size that ranks cannot
            share.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        train: Files,
        validation: Files | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
        overlong: str = "error",
        columns: Columns | None = None,
        on_bad_row: str = "raise",
        train_on: str = "last",
        seed: int = 0,
        num_workers: int = 0,
        packing: int | None = None,
        text: Files | None = None,
        text_share: float = 0.1,
        text_block: int = 128,
        document_eos: bool = True,
        sample_by: str = "document",
        min_characters: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < text_share < 1:
            raise UserError(
                f"data.text_share={text_share} must lie between 0 and 1; for demonstrations alone leave out data.text"
            )
        if text is not None and packing is not None and text_block > packing:
            raise UserError(f"data.text_block={text_block} does not fit data.packing={packing}; lower the former")
        self.encoder = encoder
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.max_length = max_length
        self.overlong = overlong
        self.columns = columns
        self.on_bad_row = on_bad_row
        self.train_on = train_on
        self.seed = seed
        self.num_workers = num_workers
        self.packing = check_packing(packing)
        self.text = text
        self.text_share = text_share
        self.text_block = text_block
        self.document_eos = document_eos
        self.sample_by = sample_by
        self.min_characters = min_characters
        self.counts: dict[str, int] = {}
        self.provenance: dict[str, Provenance] = {}  # where the rows of each split come from
        self.train_rows: Any = None  # the table, after setup
        self.validation_rows: Any = None

    def prepare_data(self) -> None:
        """Encode the files in one process before the others read the result."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if self.train_rows is not None:
            return
        splits = {"train": self.train, "validation": self.validation}
        opener = partial(
            open_sources, kind="demonstrations", columns=self.columns, encoder=self.encoder, on_bad_row=self.on_bad_row
        )
        opened = {split: opener(files) for split, files in splits.items() if files is not None}
        packed = self.packing is not None and (self.max_length is None or self.packing < self.max_length)
        tables = {}
        for split, sources in opened.items():
            provenance = self.provenance[split] = Provenance()
            tables[split], counts = encode_demonstrations(
                sources,
                provenance=provenance,
                encoder=self.encoder,
                max_length=self.packing if packed else self.max_length,
                overlong=self.overlong,
                on_bad_row=self.on_bad_row,
                train_on=self.train_on,
                key="packing" if packed else "max_length",
            )
            tell(f"demonstrations for {split}", counts)
            provenance.totals = counts
            self.counts = counts if split == "train" else self.counts
        self.validation_rows = tables.get("validation")
        self.train_rows = tables["train"] if self.text is None else self._with_text(tables["train"], self.text)

    def train_dataloader(self) -> StreamLoader:
        self.setup()
        return self._loader(self.train_rows, train=True)

    def val_dataloader(self) -> StreamLoader | list[Any]:
        self.setup()
        return [] if self.validation_rows is None else self._loader(self.validation_rows, train=False)

    def _with_text(self, demonstrations: Any, files: Files) -> Any:
        provenance, counts = Provenance(), Counter[str]()
        blocks = load_blocks(
            files,
            encoder=self.encoder,
            block_size=self.text_block,
            document_eos=self.document_eos,
            sample_by=self.sample_by,
            min_characters=self.min_characters,
            on_bad_row=self.on_bad_row,
            counts=counts,
            provenance=provenance,
        )
        self.provenance["text"], provenance.totals = provenance, counts
        tell("text beside the demonstrations", counts)
        names = ("data.train", f"data.text with data.text_share={self.text_share}")
        return with_share(demonstrations, blocks, share=self.text_share, names=names)

    def _loader(self, rows: Any, *, train: bool) -> StreamLoader:
        pad_id = self.encoder.pad_token_id
        collate: Callable[..., Any] = partial(collate_tokens, pad_id=pad_id)
        if self.packing is not None:
            collate = partial(collate_packs, pad_id=pad_id, size=self.packing)
        return stream_loader(
            rows,
            trainer=self.trainer,
            collate=collate,
            batch_size=self.batch_size,
            seed=self.seed,
            train=train,
            num_workers=self.num_workers,
        )
