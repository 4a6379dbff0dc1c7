"""``rlhf-train stage=sft data.packing=...``: a whole run on real demonstrations."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import pytest

from rlhf_lightning import train

SHARED = Path(os.environ.get("RLHF_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.mark.shared_data
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no real data beside the repository: set RLHF_SHARED")
def test_a_packed_run_learns_what_a_padded_one_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demonstrations = SHARED / "data/sft/llamafactory_alpaca_en_demo.json"

    def run(name: str, *options: str) -> list[dict[str, str]]:
        folder = tmp_path / name
        arguments = [
            "stage=sft",
            f"model.name={SHARED / 'models/stories260k'}",
            f"data.train={demonstrations}",
            f"data.validation={demonstrations}",
            "data.max_length=512",
            "data.overlong=drop",
            "data.batch_size=16",
            "module.learning_rate=1e-3",
            "module.micro_batch_size=4",
            "trainer.limit_train_batches=4",
            "trainer.limit_val_batches=2",
            "trainer.enable_progress_bar=false",
            f"run_dir={folder}",
        ]
        monkeypatch.setattr(sys, "argv", ["rlhf-train", *arguments, *options])
        train.main()
        assert (folder / "model/model.safetensors").is_file()
        (metrics,) = folder.glob("csv/**/metrics.csv")
        return list(csv.DictReader(metrics.open()))

    padded, packed = run("padded"), run("packed", "data.packing=512")
    for metric, count in (("train/loss", 4), ("val/loss", 1)):
        values = [[float(row[metric]) for row in rows if row[metric]] for rows in (padded, packed)]
        assert len(values[0]) == count
        assert values[1] == pytest.approx(values[0], rel=1e-4)
    first, last = (float(row["train/loss"]) for row in (packed[0], packed[3]))
    assert last < first - 0.1
