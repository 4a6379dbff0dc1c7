"""Prompts and pretraining text for PPO and PPO-ptx."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import CombinedLoader

from rlhf_lightning.data.collate import collate_prompts, collate_tokens
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.loader import StreamLoader, stream_loader
from rlhf_lightning.data.preparation import encode_source, join, keep_short
from rlhf_lightning.data.sources import Files, load_sources
from rlhf_lightning.data.text import TextBlocks, load_blocks
from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def load_prompts(files: Files, *, encoder: Encoder, max_length: int | None = None, overlong: str = "error") -> Dataset:
    """Rows of ``input_ids``, ``prompt`` (text) and ``length``.

    Args:
        files: see ``load_rows``; a field ``prompt``.
        max_length: most tokens of a prompt; None for no limit.
        overlong: "error", or "drop" to leave out rows over the limit (the paper drops prompts over 1k tokens).
    """
    from datasets import Features, List, Value

    def encode(row: dict[str, Any], place: str) -> dict[str, Any]:
        ids = encoder.prompt(row["prompt"])
        return {"input_ids": ids, "prompt": row["prompt"], "length": len(ids)}

    features = Features({"input_ids": List(Value("int32")), "prompt": Value("string"), "length": Value("int32")})
    tables = []
    for source in load_sources(files, fields=("prompt",)):
        encoded = encode_source(source, encode, encoder=encoder, features=features, options="prompts")
        rows, _ = keep_short(
            encoded,
            source,
            limit=max_length,
            overlong=overlong,
            what="the prompt's tokens",
            key="max_prompt_length",
        )
        tables.append(rows)
    return join(tables)


class PromptDataModule(pl.LightningDataModule):
    """Prompts for rollouts, with pretraining text beside them for PPO-ptx.

    A training batch is ``{"prompts": PromptBatch, "text": TokenBatch}`` (no "text" without text); an epoch is the whole
    run of ``iterations`` batches. Prompts and text are endless streams that reshuffle at every pass.

    Args:
        encoder: the tokenizer.
        train, validation: files with a field ``prompt``.
        text: files with a field ``text``, or .txt files.
        rollout_batch_size: prompts of an iteration, over all ranks (paper: 512).
        iterations: PPO iterations of the run.
        ptx_ratio: blocks of text per prompt (paper: 8).
        text_block: tokens of a block of text.
        max_prompt_length: most tokens of a prompt; None for no limit.
        overlong: what to do with longer prompts: "error" or "drop".
        document_eos, sample_by: see ``TextDataModule``.
        seed: order of prompts and text.
        num_workers: worker processes per loader.

    Errors:
        UserError: see ``load_rows``; a prompt over the limit; text that does not fill one block; a batch size
            that ranks cannot share.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        train: Files,
        validation: Files | None = None,
        text: Files | None = None,
        rollout_batch_size: int = 512,
        iterations: int,
        ptx_ratio: int = 8,
        text_block: int = 128,
        max_prompt_length: int | None = None,
        overlong: str = "error",
        document_eos: bool = True,
        sample_by: str = "document",
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if ptx_ratio < 1:
            raise UserError(
                f"ptx_ratio must be at least 1 block of text per prompt, not {ptx_ratio}: "
                "for PPO without ptx leave out text"
            )
        self.encoder = encoder
        self.train = train
        self.validation = validation
        self.text = text
        self.rollout_batch_size = rollout_batch_size
        self.iterations = iterations
        self.ptx_ratio = ptx_ratio
        self.text_block = text_block
        self.max_prompt_length = max_prompt_length
        self.overlong = overlong
        self.document_eos = document_eos
        self.sample_by = sample_by
        self.seed = seed
        self.num_workers = num_workers
        self.train_rows: Any = None  # the table, after setup
        self.validation_rows: Dataset | None = None
        self.text_rows: TextBlocks | None = None

    def prepare_data(self) -> None:
        """Encode the files in one process before the others read the result."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if self.train_rows is not None:
            return
        self.train_rows = self._load(self.train)
        if self.validation is not None:
            self.validation_rows = self._load(self.validation)
        if self.text is not None:
            self.text_rows = load_blocks(
                self.text,
                encoder=self.encoder,
                block_size=self.text_block,
                document_eos=self.document_eos,
                sample_by=self.sample_by,
            )

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
        loaders = {
            "prompts": loader(
                self.train_rows,
                collate=partial(collate_prompts, pad_id=pad_id),
                batch_size=self.rollout_batch_size,
            )
        }
        if self.text_rows is not None:
            loaders["text"] = loader(
                self.text_rows,
                collate=partial(collate_tokens, pad_id=pad_id),
                batch_size=self.rollout_batch_size * self.ptx_ratio,
            )
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

    def _load(self, files: Files) -> Dataset:
        return load_prompts(files, encoder=self.encoder, max_length=self.max_prompt_length, overlong=self.overlong)
