"""The data card beside the results of a run."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from rlhf_lightning.data import write_data_card


class DataCard(pl.Callback):
    """Write ``data.json`` when the data are ready: sources, rows in, rows dropped and why, hashes, tokenizer.

    A run without a data module has none.

    Args:
        folder: where the file goes.
    """

    def __init__(self, *, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)  # set without a declaration, hence getattr
        if data is not None and trainer.is_global_zero:
            write_data_card(data, self.folder)
