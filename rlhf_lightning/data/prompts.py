"""Prompts and pretraining text for PPO and PPO-ptx."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import CombinedLoader

from rlhf_lightning.data.collate import collate_prompts, collate_tokens
from rlhf_lightning.data.columns import Columns, open_sources
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.hygiene import PromptHygiene
from rlhf_lightning.data.loader import StreamLoader, stream_loader
from rlhf_lightning.data.places import Provenance
from rlhf_lightning.data.prompt_rows import encode_prompts, load_prompts
from rlhf_lightning.data.reporting import tell
from rlhf_lightning.data.sources import Files
from rlhf_lightning.data.streaming import BlockStream
from rlhf_lightning.data.text import load_blocks
from rlhf_lightning.data.text_stream import TextStreamLoader, open_stream, stream_text
from rlhf_lightning.errors import UserError

__all__ = ["PromptDataModule", "load_prompts"]


class PromptDataModule(pl.LightningDataModule):
    """Prompts for rollouts, with pretraining text beside them for PPO-ptx.

    A training batch is ``{"prompts": PromptBatch, "text": TokenBatch}`` (no "text" without text); an epoch is the whole
    run of ``iterations`` batches. Prompts and text are endless streams that reshuffle at every pass. A module that
    ``samples_ahead`` finds the prompts of the next batch in each batch's ``ahead``.

    After ``setup``, ``counts`` says what the training prompts gave: rows, and what was left out or cut and why.

    Args:
        encoder: the tokenizer.
        train, validation: files with a field ``prompt``, ``instruction`` (and ``input``), ``question``, ``messages`` or
            ``conversations`` (up to the last user turn). All but plain prompts are conversations and go through the
            chat template.
        text: files with a field ``text``, or .txt files.
        rollout_batch_size: episodes of an iteration, over all ranks (paper: 512).
        responses_per_prompt: episodes of each prompt, side by side in the training batches (paper: 1), for advantages
            that compare them; validation has one.
        iterations: PPO iterations of the run.
        ptx_ratio: blocks of text per episode (paper: 8).
        text_block: tokens of a block of text.
        max_prompt_length: most tokens of a prompt; None for no limit.
        overlong: what to do with longer prompts: "error", "drop" (the paper), "keep_start" or "keep_end" (the first or
            the last tokens).
        columns: our name -> the file's column, where a file names them otherwise; see ``Columns``.
        on_bad_row: "raise" for an error that names file and line, "skip" to count and leave out malformed rows.
        hygiene: duplicates, prompts per user, personal data and a split by user, over all training files together; None
            for none. Its ``validation_fraction`` takes the place of ``validation``, whose files are used as they are.
        document_eos, sample_by, min_characters: of the text, see ``TextDataModule``.
        text_streaming: read the text while training instead of preparing it on disk first; in the training process.
        text_shuffle_buffer: blocks of a stream of text that are shuffled together.
        seed: order of prompts and text.
        num_workers: worker processes per loader.

    Errors:
        UserError: see ``load_rows``; a prompt over the limit; text that does not fill one block; a batch size
            that ranks cannot share, or that holds no whole groups of responses.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        train: Files,
        validation: Files | None = None,
        text: Files | None = None,
        rollout_batch_size: int = 512,
        responses_per_prompt: int = 1,
        iterations: int,
        ptx_ratio: int = 8,
        text_block: int = 128,
        max_prompt_length: int | None = None,
        overlong: str = "error",
        columns: Columns | None = None,
        on_bad_row: str = "raise",
        hygiene: PromptHygiene | None = None,
        document_eos: bool = True,
        sample_by: str = "document",
        min_characters: int = 0,
        text_streaming: bool = False,
        text_shuffle_buffer: int = 1000,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if ptx_ratio < 1:
            raise UserError(
                f"ptx_ratio must be at least 1 block of text per prompt, not {ptx_ratio}: "
                "for PPO without ptx leave out text"
            )
        if responses_per_prompt < 1 or rollout_batch_size % responses_per_prompt:
            raise UserError(
                f"data.responses_per_prompt={responses_per_prompt} must be at least 1 and divide "
                f"data.rollout_batch_size={rollout_batch_size}; change one of the two"
            )
        if validation is not None and hygiene is not None and hygiene.validation_fraction:
            raise UserError(
                f"data.hygiene.validation_fraction={hygiene.validation_fraction} holds prompts out and data.validation "
                "is given too: set validation_fraction=0 or leave out validation"
            )
        self.encoder = encoder
        self.train = train
        self.validation = validation
        self.text = text
        self.rollout_batch_size = rollout_batch_size
        self.responses_per_prompt = responses_per_prompt
        self.iterations = iterations
        self.ptx_ratio = ptx_ratio
        self.text_block = text_block
        self.max_prompt_length = max_prompt_length
        self.overlong = overlong
        self.columns = columns
        self.on_bad_row = on_bad_row
        self.hygiene = hygiene
        self.document_eos = document_eos
        self.sample_by = sample_by
        self.min_characters = min_characters
        self.text_streaming = text_streaming
        self.text_shuffle_buffer = text_shuffle_buffer
        self.seed = seed
        self.num_workers = num_workers
        self.counts: dict[str, int] = {}
        self.provenance: dict[str, Provenance] = {}  # where the rows of each split come from
        self.train_rows: Any = None  # the table, after setup
        self.validation_rows: Any = None
        self.text_rows: Any = None

    def prepare_data(self) -> None:
        """Encode the files in one process before the others read the result."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if self.train_rows is not None:
            return
        splits = {"train": self.train, "validation": self.validation}
        opener = partial(
            open_sources, kind="prompts", columns=self.columns, encoder=self.encoder, on_bad_row=self.on_bad_row
        )
        opened = {split: opener(files) for split, files in splits.items() if files is not None}
        tables = {}
        for split, sources in opened.items():
            provenance = self.provenance[split] = Provenance()
            tables[split], held_out, counts = encode_prompts(
                sources,
                provenance=provenance,
                encoder=self.encoder,
                max_length=self.max_prompt_length,
                overlong=self.overlong,
                on_bad_row=self.on_bad_row,
                hygiene=self.hygiene if split == "train" else None,
            )
            if held_out is not None:
                tables["validation"] = held_out
                self.provenance["validation"] = provenance.held_out or Provenance()
            tell(f"prompts for {split}", counts)
            provenance.totals = counts
            self.counts = counts if split == "train" else self.counts
        self.validation_rows = tables.get("validation")
        self._give_template()
        if self.text is not None:
            options: dict[str, Any] = {
                "encoder": self.encoder,
                "block_size": self.text_block,
                "document_eos": self.document_eos,
                "sample_by": self.sample_by,
                "min_characters": self.min_characters,
                "on_bad_row": self.on_bad_row,
            }
            if self.text_streaming:
                self.text_rows = open_stream(self.text, **options, buffer=self.text_shuffle_buffer, seed=self.seed)
            else:
                text = self.provenance["text"] = Provenance()
                counts = Counter()
                self.text_rows = load_blocks(self.text, **options, counts=counts, provenance=text)
                text.totals = counts
                tell("text beside the prompts", counts)
        self.train_rows = tables["train"]

    def train_dataloader(self) -> CombinedLoader:
        self.setup()
        loader = partial(
            stream_loader,
            trainer=self.trainer,
            seed=self.seed,
            batches=self.iterations,
            train=True,
            num_workers=self.num_workers,
        )
        pad_id = self.encoder.pad_token_id
        loaders: dict[str, StreamLoader | TextStreamLoader] = {
            "prompts": loader(
                self.train_rows,
                collate=partial(collate_prompts, pad_id=pad_id),
                batch_size=self.rollout_batch_size,
                repeats=self.responses_per_prompt,
                ahead=getattr(getattr(self.trainer, "lightning_module", None), "samples_ahead", False),
            )
        }
        if self.text_rows is not None:
            text: dict[str, Any] = {
                "collate": partial(collate_tokens, pad_id=pad_id),
                "batch_size": self.rollout_batch_size * self.ptx_ratio,
            }
            if isinstance(self.text_rows, BlockStream):
                loaders["text"] = stream_text(self.text_rows, trainer=self.trainer, batches=self.iterations, **text)
            else:
                loaders["text"] = loader(self.text_rows, **text)
        return CombinedLoader(loaders, "min_size")

    def val_dataloader(self) -> StreamLoader | list[Any]:
        self.setup()
        if self.validation_rows is None:
            return []
        return stream_loader(
            self.validation_rows,
            trainer=self.trainer,
            collate=partial(collate_prompts, pad_id=self.encoder.pad_token_id),
            batch_size=self.rollout_batch_size,
            num_workers=self.num_workers,
        )

    def _give_template(self) -> None:
        """A module with an encoder of its own, which it saves, must have the template that the prompts went through."""
        own = getattr(getattr(self.trainer, "lightning_module", None), "encoder", None)
        if isinstance(own, Encoder) and self.encoder.tokenizer.chat_template:
            own.require_template()
