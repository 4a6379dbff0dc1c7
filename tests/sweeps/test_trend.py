"""The sweep of README over β and γ_ptx shows the paper's trend (figures 33 and 34), told from ranks alone."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest

SEED = 0
BETA, GAMMA = "steps.ppo_ptx.module.kl_coef", "steps.ppo_ptx.module.ptx_coef"
KL, LOSS = "ppo_ptx/kl", "ppo_ptx/pretrain_loss"
DONE = "RLHF_SWEEP"  # folder of a sweep that is done: looked at instead of an own one
# rlhf-pipeline -m ...
COMMAND = [
    sys.executable,
    "-m",
    "rlhf_lightning.pipeline",
    "-m",
    "sweep=quickstart_kl_ptx",
    "experiment=quickstart",
    f"seed={SEED}",
]


def trend_faults(rows: list[Mapping[str, str]]) -> list[str]:
    """Pairs of trials that differ in one coefficient alone and go against the paper."""
    faults = []
    for varied, held, metric in ((BETA, GAMMA, KL), (GAMMA, BETA, LOSS)):
        for value in dict.fromkeys(row[held] for row in rows):
            line = sorted((row for row in rows if row[held] == value), key=lambda row: float(row[varied]))
            for less, more in pairwise(line):
                if float(more[metric]) >= float(less[metric]):
                    faults.append(f"{metric} at {varied}={more[varied]}, {held}={value}")
    return faults


def test_a_fault_in_the_trend_is_told() -> None:
    def row(beta: str, gamma: str, kl: str, loss: str) -> dict[str, str]:
        return {BETA: beta, GAMMA: gamma, KL: kl, LOSS: loss}

    good = [
        row("0.05", "1", "9", "3"),
        row("0.2", "1", "4", "3.1"),
        row("0.05", "10", "8", "2"),
        row("0.2", "10", "3", "2.2"),
    ]
    assert trend_faults(good) == []
    assert trend_faults([good[0], row("0.2", "1", "9.5", "3.1")]) == [f"{KL} at {BETA}=0.2, {GAMMA}=1"]
    assert trend_faults([good[0], row("0.05", "10", "8", "3.5")]) == [f"{LOSS} at {GAMMA}=10, {BETA}=0.05"]


@pytest.mark.slow
def test_more_pretraining_lowers_its_loss_and_a_higher_kl_coefficient_the_kl(tmp_path: Path) -> None:
    folder = Path(os.environ.get(DONE) or tmp_path / "sweep")
    if DONE not in os.environ:
        subprocess.run([*COMMAND, f"run_dir={folder}", "progress_bar=false"], check=True)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete"] * 6
    assert {(row[BETA], row[GAMMA]) for row in rows} == {
        (b, g) for b in ("0.05", "0.2", "0.8") for g in ("0.003", "0.03")
    }
    assert all(f"seed={SEED}" in row["overrides"].split() for row in rows)
    assert trend_faults(rows) == []
    assert (folder / "plots" / "effects.png").is_file()
    assert (folder / "sweep_report.md").is_file()
