"""Metrics survive a resumed run, each step once."""

from __future__ import annotations

from pathlib import Path

from rlhf_lightning.logs import join_sessions, last_metrics, put_aside


def test_sessions_are_joined_and_repeated_steps_count_once(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n0,3.0\n1,2.0\n2,1.5\n")
    put_aside(tmp_path)
    assert not (tmp_path / "metrics.csv").exists()
    # Killed after step 2, resumed from the checkpoint before step 1; logs another column.
    (tmp_path / "metrics.csv").write_text("step,loss,val/loss\n1,2.0,\n2,1.4,9.0\n")
    put_aside(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,loss\n2,1.4\n3,1.0\n")
    join_sessions(tmp_path)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "step,loss,val/loss",
        "0,3.0,",
        "1,2.0,",
        "2,1.4,",
        "3,1.0,",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_one_session_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n0,3.0\n")
    join_sessions(tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,3.0\n"


def test_a_session_that_logged_nothing_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n0,3.0\n")
    put_aside(tmp_path)
    join_sessions(tmp_path)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,loss", "0,3.0"]
    put_aside(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2.0\n")
    join_sessions(tmp_path)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,loss", "0,3.0", "1,2.0"]


def test_the_last_metrics_are_those_up_to_a_step(tmp_path: Path) -> None:
    assert last_metrics(tmp_path, before=9) == {}
    (tmp_path / "metrics.csv").write_text("epoch,step,loss,val/loss\n0,0,3.0,\n0,0,,9.0\n0,1,2.0,\n1,2,1.0,8.0\n")
    assert last_metrics(tmp_path, before=2) == {"loss": 2.0, "val/loss": 9.0}
    assert last_metrics(tmp_path, before=3) == {"loss": 1.0, "val/loss": 8.0}
