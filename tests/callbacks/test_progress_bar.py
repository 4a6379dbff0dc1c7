from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from rlhf_lightning.callbacks import SampleTable, TrainingProgressBar
from rlhf_lightning.errors import UserError


def test_without_a_terminal_there_are_plain_lines(
    make_ppo: Any, make_data: Any, make_trainer: Any, capsys: pytest.CaptureFixture[str], recorder: Any
) -> None:
    trainer = make_trainer(
        callbacks=[TrainingProgressBar(every=2), recorder],
        enable_progress_bar=True,
        val_check_interval=3,
        num_sanity_val_steps=1,
    )
    trainer.fit(make_ppo(), make_data(iterations=3, validation=True))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    lines = printed.splitlines()
    scores = [output["rollout"].scores.mean() for output in recorder.outputs]
    number = r"-?[\d.e+-]+"
    assert len(lines) == 3
    for line, iteration in zip(lines, (2, 3), strict=False):
        score = re.escape(f"{scores[iteration - 1]:.4g}")
        pattern = rf"iteration {iteration}/3  rollout/score {score}  rollout/kl {number}  {number} s/iteration"
        assert re.fullmatch(pattern, line), line
    assert re.fullmatch(rf"validation after iteration 3  val/score {number}  val/kl {number}", lines[2]), lines[2]


def test_on_a_terminal_there_is_a_bar_and_tables_stand_above_it(
    make_ppo: Any, make_data: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", terminal)
    trainer = make_trainer(
        callbacks=[TrainingProgressBar(every=1), SampleTable(rows=1)],
        enable_progress_bar=True,
        logger=CSVLogger(tmp_path),  # has a version number, which tells nothing
    )
    trainer.fit(make_ppo(), make_data(iterations=2))
    text = terminal.getvalue()
    assert "Samples of iteration 1" in text
    assert "2/2" in text
    assert "rollout/score" in text
    assert "iteration 1/2" not in text
    assert "v_num" not in text


def test_values_are_checked() -> None:
    with pytest.raises(UserError, match=r"callbacks.progress_bar.every=0 must be at least 1"):
        TrainingProgressBar(every=0)
