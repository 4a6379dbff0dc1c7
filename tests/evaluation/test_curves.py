from __future__ import annotations

from pathlib import Path

from rlhf_lightning.evaluation.curves import read_curves, running_mean

CSV = """epoch,step,train/loss,val/loss,lr
0,0,4.0,,
0,10,2.5,,nan
0,10,,3.0,
,12,,,0.1
0,20,inf,2.0,
"""


def test_each_metric_has_the_steps_at_which_it_was_logged(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text(CSV)
    assert read_curves(file) == {
        "train/loss": ([0.0, 10.0], [4.0, 2.5]),
        "val/loss": ([10.0, 20.0], [3.0, 2.0]),
        "lr": ([12.0], [0.1]),
    }


def test_an_empty_file_has_no_curves(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("")
    assert read_curves(tmp_path / "metrics.csv") == {}


def test_the_running_mean_narrows_at_the_ends() -> None:
    assert running_mean([1.0, 2.0, 6.0, 4.0], 3) == [1.5, 3.0, 4.0, 5.0]
    assert running_mean([1.0, 2.0], 1) == [1.0, 2.0]
