"""Ranked completions for the reward model."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as pl

from rlhf_lightning.data.collate import collate_comparisons, collate_tokens
from rlhf_lightning.data.columns import Columns, open_sources
from rlhf_lightning.data.comparison_rows import encode_comparisons, load_comparisons
from rlhf_lightning.data.demonstration_rows import encode_demonstrations
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.loader import StreamLoader, stream_loader
from rlhf_lightning.data.places import Provenance
from rlhf_lightning.data.reporting import tell
from rlhf_lightning.data.sources import Files

__all__ = ["ComparisonDataModule", "load_comparisons"]


class ComparisonDataModule(pl.LightningDataModule):
    """Ranked completions; batches are ``ComparisonBatch`` in which every completion of a prompt stands once.

    After ``setup``, ``counts`` says what the training files gave: rows, pairs, tied_rows_skipped, tied_pairs,
    overlong_rows_dropped, and, where there are any, identical_pairs_tied (of two equal responses none is better),
    pairs_cut_to_ties, different_prompts_dropped, rows_merged and skipped bad rows.

    Args:
        encoder: the tokenizer.
        train, validation: files with a prompt (``prompt``, ``instruction`` with ``input``, or ``question``) and the
            fields of ``read_comparison``; or ``chosen`` and ``rejected`` as whole dialogues, whose common start is the
            prompt.
        demonstrations: file whose mean score is made 0 after training.
        batch_size: prompts of a batch with all their completions, over all ranks (paper: 64).
        max_length: most tokens of prompt and completion; None for no limit.
        overlong: what to do with longer rows: "error", "drop", "keep_start" (the responses lose their ends and their
            EOS; responses that are cut to the same become a tie) or "keep_end" (the prompt loses its start).
        columns: our name -> the file's column, where a file names them otherwise; see ``Columns``. Not for
            ``demonstrations``.
        on_bad_row: "raise" for an error that names file and line, "skip" to count and leave out malformed rows.
        annotators: what several annotators of the same completions of a prompt give, in one row (a list as
            ``preference`` or ``choice``) or in rows of a file of their own, whatever their form and the order of the
            completions: "each" its pair, or all together one pair by "majority".
        seed: order of the training rows.
        num_workers: worker processes per loader.

    Errors:
        UserError: see ``load_rows`` and ``read_comparison``; a file without a shape that is known; no row that gives a
            pair; a row over the limit; a batch size that ranks cannot share.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        train: Files,
        validation: Files | None = None,
        demonstrations: Files | None = None,
        batch_size: int = 64,
        max_length: int | None = None,
        overlong: str = "error",
        columns: Columns | None = None,
        on_bad_row: str = "raise",
        annotators: str = "each",
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.train = train
        self.validation = validation
        self.demonstrations = demonstrations
        self.batch_size = batch_size
        self.max_length = max_length
        self.overlong = overlong
        self.columns = columns
        self.on_bad_row = on_bad_row
        self.annotators = annotators
        self.seed = seed
        self.num_workers = num_workers
        self.counts: dict[str, int] = {}
        self.provenance: dict[str, Provenance] = {}  # where the rows of each split come from
        self.train_rows: Any = None  # the table, after setup
        self.validation_rows: Any = None
        self.demonstration_rows: Any = None

    def prepare_data(self) -> None:
        """Encode the files in one process before the others read the result."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if self.train_rows is not None:
            return
        opener = partial(open_sources, encoder=self.encoder, on_bad_row=self.on_bad_row)
        opened = {
            split: opener(files, kind="comparisons", columns=self.columns)
            for split, files in {"train": self.train, "validation": self.validation}.items()
            if files is not None
        }
        if self.demonstrations is not None:
            opened["demonstrations"] = opener(self.demonstrations, kind="demonstrations")
        options: dict[str, Any] = {
            "encoder": self.encoder,
            "max_length": self.max_length,
            "overlong": self.overlong,
            "on_bad_row": self.on_bad_row,
        }
        tables = {}
        for split, sources in opened.items():
            options["provenance"] = provenance = self.provenance[split] = Provenance()
            if split == "demonstrations":
                tables[split], counts = encode_demonstrations(sources, **options)
                tell("demonstrations for the bias", counts)
            else:
                tables[split], counts = encode_comparisons(sources, annotators=self.annotators, **options)
                tell(f"comparisons for {split}", counts)
            provenance.totals = counts
            self.counts = counts if split == "train" else self.counts
        self.validation_rows = tables.get("validation")
        self.demonstration_rows = tables.get("demonstrations")
        self.train_rows = tables["train"]

    def train_dataloader(self) -> StreamLoader:
        self.setup()
        return self._loader(self.train_rows, trainer=self.trainer, train=True)

    def val_dataloader(self) -> StreamLoader | list[Any]:
        self.setup()
        return [] if self.validation_rows is None else self._loader(self.validation_rows, trainer=self.trainer)

    def demonstration_dataloader(self) -> StreamLoader | None:
        """All demonstrations in order, as ``TokenBatch``, the same in every process; None without a file."""
        self.setup()
        if self.demonstration_rows is None:
            return None
        collate = partial(collate_tokens, pad_id=self.encoder.pad_token_id)
        return stream_loader(self.demonstration_rows, trainer=None, collate=collate, batch_size=self.batch_size)

    def _loader(self, rows: Any, *, trainer: pl.Trainer | None, train: bool = False) -> StreamLoader:
        return stream_loader(
            rows,
            trainer=trainer,
            collate=partial(collate_comparisons, pad_id=self.encoder.pad_token_id),
            batch_size=self.batch_size,
            seed=self.seed,
            train=train,
            num_workers=self.num_workers,
        )
