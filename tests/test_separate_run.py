"""A stage as a command of its own: what it is given, what becomes of its end, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from rlhf_lightning import cli, separate_run
from rlhf_lightning.errors import UserError
from rlhf_lightning.separate_run import check_one_node, has_processes, train_separately


def config(run_dir: Path, **trainer: object) -> DictConfig:
    text = "a text with 'quotes', =, spaces and \\${data} or \\\\\\${data}"  # the last two are no references
    return OmegaConf.create({"run_dir": str(run_dir), "data": {"train": text}, "trainer": {"devices": 2, **trainer}})


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shell script in Python's place; what is written to it runs as the command."""
    script = tmp_path / "python"
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return script


def test_the_command_reads_the_config_and_leaves_its_metrics(command: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "a run's folder"
    command.write_text(f"""#!/bin/sh
echo "$@" > {tmp_path}/arguments
echo '{{"train/loss": 1.5}}' > "{run_dir}/metrics.json"
""")
    assert train_separately(config(run_dir), "sft") == {"train/loss": 1.5}
    arguments = (tmp_path / "arguments").read_text()
    assert arguments.strip() == f"-m rlhf_lightning.train --config-dir {run_dir}/.command --config-name step"
    given = OmegaConf.load(run_dir / ".command" / "step.yaml")
    assert given.data.train == config(run_dir).data.train
    assert given.hydra.run.dir == given.run_dir == str(run_dir)


def test_metrics_of_an_earlier_call_are_not_taken_for_those_of_this_one(command: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"train/loss": 1.5}))
    command.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(FileNotFoundError):
        train_separately(config(tmp_path), "sft")


@pytest.mark.parametrize(
    ("end", "error", "said"),
    [
        ("exit 75", SystemExit, "75"),
        ("exit 130", KeyboardInterrupt, None),
        ("exit 1", UserError, "sft-123 left with code 1"),
        ("kill -KILL $$", UserError, "sft-123 was ended by signal 9"),
    ],
)
def test_the_commands_end_is_this_processs(
    command: Path, tmp_path: Path, end: str, error: type[BaseException], said: str | None
) -> None:
    command.write_text(f"#!/bin/sh\n{end}\n")
    with pytest.raises(error, match=said):
        train_separately(config(tmp_path), "sft-123")


def test_sigterm_is_handed_on(command: Path, tmp_path: Path) -> None:
    """The command saves and leaves with code 75, and so does this process."""
    command.write_text(f"#!/bin/sh\ntrap 'exit 75' TERM\ntouch {tmp_path}/ready\nwhile true; do sleep 0.05; done\n")
    own = signal.getsignal(signal.SIGTERM)

    def tell() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=tell)
    thread.start()
    with pytest.raises(SystemExit, match="75"):
        train_separately(config(tmp_path), "sft")
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is own


def test_a_process_that_is_left_ends_the_command_first(command: Path, tmp_path: Path) -> None:
    """As a job does that submitit starts again: its handler raises where this process waits."""
    trap = f"trap 'touch {tmp_path}/saved; exit 75' TERM"
    command.write_text(f"#!/bin/sh\n{trap}\ntouch {tmp_path}/ready\nwhile true; do sleep 0.05; done\n")

    def leave(number: int, frame: object) -> None:
        raise SystemExit(144)

    before = signal.signal(signal.SIGUSR2, leave)

    def tell() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR2)

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        with pytest.raises(SystemExit, match="144"):
            train_separately(config(tmp_path), "sft")
    finally:
        signal.signal(signal.SIGUSR2, before)
        thread.join()
    assert (tmp_path / "saved").exists()


def test_the_command_tells_its_errors_in_a_line_unless_the_user_asked(
    command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script asks Hydra for whole tracebacks for itself, and its user did not."""
    command.write_text(f'#!/bin/sh\necho "$HYDRA_FULL_ERROR" > {tmp_path}/asked\nexit 75\n')

    def app() -> None:
        train_separately(config(tmp_path), "sft")

    monkeypatch.setattr(sys, "argv", ["rlhf-pipeline"])
    for asked in ("", "1"):
        monkeypatch.setenv(cli.TRACEBACK, asked)
        with pytest.raises(SystemExit, match="75"):
            cli.run_script(app, name="rlhf-pipeline", config_name="pipeline", example="experiment=quickstart")
        assert (tmp_path / "asked").read_text().strip() == asked


def test_what_one_process_can_do_stays_in_it(tmp_path: Path) -> None:
    assert not has_processes(config(tmp_path, devices=1))
    for several in ({"devices": 2}, {"devices": "auto"}, {"devices": -1}, {"devices": [0, 1]}, {"num_nodes": 2}):
        assert has_processes(config(tmp_path, **several))


def test_processes_that_are_not_started_here_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_one_node("steps.sft", config(tmp_path))
    with pytest.raises(UserError, match=r"steps\.sft\.trainer\.num_nodes=2: .* rlhf-train"):
        check_one_node("steps.sft", config(tmp_path, num_nodes=2))
    for name, value in (("SLURM_NTASKS", "1"), ("SLURM_JOB_NAME", "mine"), ("SLURM_NTASKS_PER_NODE", "1")):
        monkeypatch.setenv(name, value)
    check_one_node("steps.sft", config(tmp_path))
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(UserError, match=r"steps\.sft\.trainer\.devices=2: .* one task"):
        check_one_node("steps.sft", config(tmp_path))
    monkeypatch.delenv("SLURM_NTASKS")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(UserError, match="without torchrun"):
        check_one_node("steps.sft", config(tmp_path))


def test_in_a_job_of_slurm_the_command_starts_its_processes_itself(
    command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning takes a job of this name for a shell in which one starts processes by hand."""
    command.write_text(f'#!/bin/sh\necho "$SLURM_JOB_NAME" > {tmp_path}/name\nexit 75\n')
    for ntasks in (None, "1"):
        monkeypatch.setenv("SLURM_JOB_NAME", "mine")
        if ntasks:
            monkeypatch.setenv("SLURM_NTASKS", ntasks)
        with pytest.raises(SystemExit):
            train_separately(config(tmp_path), "sft")
        assert (tmp_path / "name").read_text().strip() == ("interactive" if ntasks else "mine")


def test_patience_has_an_end(command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that hears nothing is killed."""
    monkeypatch.setattr(separate_run, "PATIENCE", 0.2)
    command.write_text(f"#!/bin/sh\ntrap '' TERM INT\necho $$ > {tmp_path}/ready\nwhile true; do sleep 0.05; done\n")

    def tell() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=tell)
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            train_separately(config(tmp_path), "sft")
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    number = int((tmp_path / "ready").read_text())
    time.sleep(0.1)
    status = Path(f"/proc/{number}/stat")
    assert not status.exists() or ") Z " in status.read_text()
