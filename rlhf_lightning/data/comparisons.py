"""Ranked completions for the reward model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np

from rlhf_lightning.data.collate import collate_comparisons, collate_tokens
from rlhf_lightning.data.demonstrations import load_demonstrations
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.loader import StreamLoader, stream_loader
from rlhf_lightning.data.preparation import encode_source, join, keep_short, report
from rlhf_lightning.data.rankings import read_comparison
from rlhf_lightning.data.sources import Files, load_sources, paths_of
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def load_comparisons(
    files: Files, *, encoder: Encoder, max_length: int | None = None, overlong: str = "error"
) -> tuple[Dataset, dict[str, int]]:
    """Rows of ``prompt_ids``, ``response_ids`` (K lists), ``pairs``, and the counts of what was used and left out.

    Rows that give no pair (all completions tied) are left out and counted, never guessed.

    Args:
        files: see ``load_rows``; a field ``prompt`` and the fields of ``read_comparison``.
        max_length: most tokens of prompt and any completion; None for no limit.
        overlong: "error", or "drop" to leave out rows over the limit.

    Errors:
        UserError: see ``read_comparison``; no row left that gives a pair.
    """
    from datasets import Features, List, Value

    def encode(row: dict[str, Any], place: str) -> dict[str, Any]:
        comparison = read_comparison(row, place)
        prompt = encoder.prompt(row["prompt"])
        ends = zip(comparison.responses, comparison.finished, strict=True)
        responses = [encoder.response(text, finished=finished) for text, finished in ends]
        return {
            "prompt_ids": prompt,
            "response_ids": responses,
            "pairs": comparison.pairs,
            "tied": comparison.tied,
            "length": len(prompt) + max(map(len, responses)),
        }

    ids = List(Value("int32"))
    count = Value("int32")
    features = Features(
        {"prompt_ids": ids, "response_ids": List(ids), "pairs": List(ids), "tied": count, "length": count}
    )
    counts = {"rows": 0, "pairs": 0, "tied_rows_skipped": 0, "tied_pairs": 0, "overlong_rows_dropped": 0}
    tables = []
    for source in load_sources(files, fields=("prompt",)):
        encoded = encode_source(source, encode, encoder=encoder, features=features, options="comparisons")
        rows, dropped = keep_short(
            encoded,
            source,
            limit=max_length,
            overlong=overlong,
            what="prompt and longest response",
            key="max_length",
        )
        pairs = np.array([len(pairs) for pairs in rows["pairs"]])
        counts["rows"] += int((pairs > 0).sum())
        counts["pairs"] += int(pairs.sum())
        counts["tied_rows_skipped"] += int((pairs == 0).sum())
        counts["tied_pairs"] += sum(rows["tied"])
        counts["overlong_rows_dropped"] += dropped
        tables.append(rows if pairs.all() else rows.select(np.flatnonzero(pairs)))
    if not counts["rows"]:
        names = ", ".join(str(path) for path in paths_of(files))
        raise UserError(
            f"{names}: all completions are tied in all {counts['tied_rows_skipped']} rows, which teaches no order: "
            "give rows with different ranks"
        )
    return join([table for table in tables if len(table)]), counts


class ComparisonDataModule(pl.LightningDataModule):
    """Ranked completions; batches are ``ComparisonBatch`` in which every completion of a prompt stands once.

    After ``setup``, ``counts`` says what the training files gave: rows, pairs, tied_rows_skipped, tied_pairs,
    overlong_rows_dropped.

    Args:
        encoder: the tokenizer.
        train, validation: files with ``prompt`` and the fields of ``read_comparison``.
        demonstrations: file whose mean score is made 0 after training.
        batch_size: prompts of a batch with all their completions, over all ranks (paper: 64).
        max_length: most tokens of prompt and completion; None for no limit.
        overlong: what to do with longer rows: "error" or "drop".
        seed: order of the training rows.
        num_workers: worker processes per loader.

    Errors:
        UserError: see ``load_rows`` and ``read_comparison``; no row that gives a pair; a row over the limit; a batch
            size that ranks cannot share.
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
        self.seed = seed
        self.num_workers = num_workers
        self.counts: dict[str, int] = {}
        self.train_rows: Any = None  # the table, after setup
        self.validation_rows: Dataset | None = None
        self.demonstration_rows: Dataset | None = None

    def prepare_data(self) -> None:
        """Encode the files in one process before the others read the result."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if self.train_rows is not None:
            return
        options: dict[str, Any] = {
            "encoder": self.encoder,
            "max_length": self.max_length,
            "overlong": self.overlong,
        }
        self.train_rows, self.counts = load_comparisons(self.train, **options)
        report("comparisons to train on: %s", ", ".join(f"{name} {count}" for name, count in self.counts.items()))
        if self.validation is not None:
            self.validation_rows, _ = load_comparisons(self.validation, **options)
        if self.demonstrations is not None:
            self.demonstration_rows = load_demonstrations(self.demonstrations, **options)

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

    def _loader(self, rows: Dataset, *, trainer: pl.Trainer | None, train: bool = False) -> StreamLoader:
        return stream_loader(
            rows,
            trainer=trainer,
            collate=partial(collate_comparisons, pad_id=self.encoder.pad_token_id),
            batch_size=self.batch_size,
            seed=self.seed,
            train=train,
            num_workers=self.num_workers,
        )
