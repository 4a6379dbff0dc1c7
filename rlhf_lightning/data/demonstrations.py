"""Demonstrations for supervised fine-tuning: prompt and response pairs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from rlhf_lightning.data.collate import collate_tokens
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.loader import StreamLoader, stream_loader
from rlhf_lightning.data.preparation import encode_source, join, keep_short
from rlhf_lightning.data.sources import Files, load_sources

if TYPE_CHECKING:
    from datasets import Dataset


def load_demonstrations(
    files: Files, *, encoder: Encoder, max_length: int | None = None, overlong: str = "error"
) -> Dataset:
    """Rows of ``input_ids`` (prompt + response + EOS), ``prompt_length`` and ``length``.

    Args:
        files: see ``load_rows``; fields ``prompt`` and ``response``.
        max_length: most tokens of a row; None for no limit.
        overlong: "error", or "drop" to leave out rows over the limit.
    """
    from datasets import Features, List, Value

    def encode(row: dict[str, Any], place: str) -> dict[str, Any]:
        prompt = encoder.prompt(row["prompt"])
        ids = prompt + encoder.response(row["response"])
        return {"input_ids": ids, "prompt_length": len(prompt), "length": len(ids)}

    features = Features({"input_ids": List(Value("int32")), "prompt_length": Value("int32"), "length": Value("int32")})
    tables = []
    for source in load_sources(files, fields=("prompt", "response")):
        encoded = encode_source(source, encode, encoder=encoder, features=features, options="demonstrations")
        rows, _ = keep_short(
            encoded, source, limit=max_length, overlong=overlong, what="prompt and response", key="max_length"
        )
        tables.append(rows)
    return join(tables)


class DemonstrationDataModule(pl.LightningDataModule):
    """Demonstrations; batches are ``TokenBatch`` whose labels are the response's tokens and EOS.

    Args:
        encoder: the tokenizer.
        train, validation: files with fields ``prompt`` and ``response``.
        batch_size: rows of a batch, over all ranks (paper: 32).
        max_length: most tokens of prompt and response; None for no limit.
        overlong: what to do with longer rows: "error" or "drop".
        seed: order of the training rows.
        num_workers: worker processes per loader.

    Errors:
        UserError: see ``load_rows``; a row over the limit; a batch size that ranks cannot share.
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
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.max_length = max_length
        self.overlong = overlong
        self.seed = seed
        self.num_workers = num_workers
        self.train_rows: Any = None  # the table, after setup
        self.validation_rows: Dataset | None = None

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

    def _load(self, files: Files) -> Dataset:
        return load_demonstrations(files, encoder=self.encoder, max_length=self.max_length, overlong=self.overlong)

    def _loader(self, rows: Dataset, *, train: bool) -> StreamLoader:
        return stream_loader(
            rows,
            trainer=self.trainer,
            collate=partial(collate_tokens, pad_id=self.encoder.pad_token_id),
            batch_size=self.batch_size,
            seed=self.seed,
            train=train,
            num_workers=self.num_workers,
        )
