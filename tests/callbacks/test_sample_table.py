from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from rlhf_lightning.callbacks import SampleTable
from rlhf_lightning.callbacks.sample_table import sample_rows
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import Rollout


def rollout() -> Rollout:
    return Rollout(
        prompts=["a [bold]prompt[/bold]", "b", "c"],
        responses=["x | y\nz", "", "w" * 500],
        finished=torch.tensor([True, False, True]),
        scores=torch.tensor([1.0, -0.5, 2.0]),
        kl=torch.tensor([0.25, 0.0, 1.0]),
    )


def test_rows_are_plain_values() -> None:
    assert sample_rows(rollout(), 2) == [
        {"prompt": "a [bold]prompt[/bold]", "response": "x | y\nz", "score": 1.0, "kl": 0.25, "finished": True},
        {"prompt": "b", "response": "", "score": -0.5, "kl": 0.0, "finished": False},
    ]
    assert len(sample_rows(rollout(), 9)) == 3


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_first_and_every_nth_iteration_are_shown(
    make_ppo: Any, make_data: Any, make_trainer: Any, recorder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(callbacks=[SampleTable(every=2, rows=3), recorder], logger=CSVLogger(tmp_path, name="log"))
    trainer.fit(make_ppo(), make_data(iterations=5))
    rows = read(tmp_path / "log" / "version_0" / "samples.jsonl")
    assert [row.pop("iteration") for row in rows] == [1] * 3 + [2] * 3 + [4] * 3
    rollouts = [output["rollout"] for output in recorder.outputs]
    assert rows == [row for index in (0, 1, 3) for row in sample_rows(rollouts[index], 3)]
    printed = capsys.readouterr().out
    assert [line.strip() for line in printed.splitlines() if line.startswith("Samples")] == [
        f"Samples of iteration {iteration}" for iteration in (1, 2, 4)
    ]
    assert rollouts[0].prompts[2] in printed
    assert f"{rollouts[0].scores[0]:.3f}" in printed


def test_print_does_not_read_markup_and_shortens_long_texts(capsys: pytest.CaptureFixture[str]) -> None:
    from rlhf_lightning.callbacks.sample_table import _table

    text = _table(sample_rows(rollout(), 3), 7)
    assert "[bold]" in text
    assert "[no end]" in text
    assert text.count("w") == 240
    assert "\x1b" not in text


def test_print_goes_through_the_progress_bar(
    make_ppo: Any, make_data: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.callbacks import TQDMProgressBar

    printed: list[str] = []
    bar = TQDMProgressBar(refresh_rate=0)
    monkeypatch.setattr(bar, "print", printed.append)
    make_trainer(callbacks=[bar, SampleTable(rows=1)], enable_progress_bar=True).fit(
        make_ppo(), make_data(iterations=1)
    )
    assert [text.splitlines()[0].strip() for text in printed] == ["Samples of iteration 1"]


def test_tensorboard_gets_a_markdown_table(make_ppo: Any, make_data: Any, make_trainer: Any, tmp_path: Path) -> None:
    logger, calls = TensorBoardLogger(tmp_path), []
    logger.experiment.add_text = lambda *arguments: calls.append(arguments)
    trainer = make_trainer(callbacks=[SampleTable(every=2, rows=1)], logger=[CSVLogger(tmp_path), logger])
    module = make_ppo()
    step = module.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        return step(batch, batch_idx) | {"rollout": rollout()}

    module.training_step = training_step
    trainer.fit(module, make_data(iterations=2))
    table = (
        "| prompt | response | score | kl | finished |\n| --- | --- | --- | --- | --- |\n"
        "| a [bold]prompt[/bold] | x \\| y<br>z | 1.000 | 0.250 | True |"
    )
    assert calls == [("samples", table, 0), ("samples", table, 1)]


def test_logger_with_tables_gets_rows(make_ppo: Any, make_data: Any, make_trainer: Any, memory_logger: Any) -> None:
    calls: list[dict[str, Any]] = []
    memory_logger.log_text = lambda **arguments: calls.append(arguments)
    make_trainer(callbacks=[SampleTable(rows=2)], logger=memory_logger).fit(make_ppo(), make_data(iterations=1))
    assert [call["columns"] for call in calls] == [["prompt", "response", "score", "kl", "finished"]]
    assert len(calls[0]["data"]) == 2
    assert calls[0]["step"] == 0


def test_iterations_that_are_repeated_are_written_anew(
    make_ppo: Any, make_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text('{"iteration": 0, "prompt": "kept"}\n{"iteration": 1, "prompt": "gone"}\n{"iteration": 2, "pro')
    make_trainer(callbacks=[SampleTable(rows=1)]).fit(make_ppo(), make_data(iterations=1))
    rows = read(file)
    assert [row["iteration"] for row in rows] == [0, 1]
    assert rows[0]["prompt"] == "kept"
    assert rows[1]["prompt"] != "gone"


@pytest.mark.parametrize("name", ["every", "rows"])
def test_values_are_checked(name: str) -> None:
    with pytest.raises(UserError, match=f"callbacks.sample_table.{name}=0 must be at least 1"):
        SampleTable(**{name: 0})
