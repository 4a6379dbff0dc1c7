"""The shipped sweeps train tiny models: every trial of their search spaces, and a study of PPO runs that is killed."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning import pipeline, train

pytestmark = pytest.mark.slow

QUICK = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "logger=csv"]
WORLD = [
    "experiment=quickstart", "progress_bar=false", "steps.prepare.corpus_documents=200",
    "steps.prepare.corpus_heldout_documents=60", "steps.prepare.demonstrations=64",
    "steps.prepare.demonstrations_heldout=16", "steps.prepare.reward_prompts=24",
    "steps.prepare.reward_heldout_prompts=12", "steps.prepare.ppo_prompts=40", "steps.prepare.test_prompts=24",
    "steps.collect.max_new_tokens=8", "steps.ppo.data.iterations=2", "steps.ppo.data.rollout_batch_size=8",
    "steps.ppo.module.minibatch_size=4", "steps.ppo.module.epochs=1", "steps.ppo_ptx.data.ptx_ratio=1",
]  # fmt: skip


@pytest.fixture
def stages(
    tmp_path: Path,
    write_rows: Callable[..., dict[str, str]],
    causal_lm_folders: dict[str, Path],
    reward_model_folders: dict[str, Path],
) -> dict[str, list[str]]:
    """The arguments of each stage on tiny models."""
    said = [{"prompt": f"say {word}", "response": word} for word in ("a", "bee", "cat", "dog")] * 2
    compared = [{"prompt": f"say {word}", "chosen": word, "rejected": "no"} for word in ("a", "bee", "cat", "dog")]
    files = write_rows(
        tmp_path,
        {
            "demonstrations": said,
            "comparisons": compared,
            "prompts": [{"prompt": row["prompt"]} for row in said],
            "text": [{"text": "a bee is not a cat. a dog is not a bee."}] * 20,
        },
    )
    base = [f"model.name={causal_lm_folders['llama']}", *QUICK, f"run_dir={tmp_path}/sweep"]
    rows = {name: [f"data.train={files[name]}", f"data.validation={files[name]}"] for name in files}
    return {
        "sft": ["stage=sft", *base, *rows["demonstrations"], "data.batch_size=4"],
        "reward": ["stage=reward", *base, *rows["comparisons"], "data.batch_size=2", "module.learning_rate=1e-3"],
        "ppo": [
            "stage=ppo", *base, rows["prompts"][0], f"module.reward.name={reward_model_folders['llama']}",
            f"data.text={files['text']}", "data.text_block=8", "data.ptx_ratio=1", "data.iterations=2",
            "data.rollout_batch_size=8", "module.minibatch_size=4", "module.max_new_tokens=4",
        ],
    }  # fmt: skip


def swept(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[dict[str, str]]:
    """The rows of results.csv."""
    monkeypatch.setattr(sys, "argv", ["script", "-m", *arguments])
    main()
    (folder,) = (Path(text.partition("=")[2]) for text in arguments if text.startswith("run_dir="))
    assert (folder / "sweep_report.md").is_file()
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("name", "stage", "number", "metric"),
    [
        ("lora_rank", "sft", 4, "val/loss"),
        ("lora_rank", "reward", 4, "val/loss"),
        ("seeds", "sft", 3, "train/loss"),
        ("seeds", "reward", 3, "train/loss"),
        ("seeds", "ppo", 3, "rollout/kl"),
        ("learning_rate", "ppo", 5, "rollout/reward"),
        ("kl_ptx", "ppo", 9, "train/ptx_loss"),
        ("optuna_pareto", "ppo", 3, "rollout/score"),
    ],
)
def test_every_trial_of_a_sweep_trains(
    name: str, stage: str, number: int, metric: str, stages: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["hydra.sweeper.n_trials=3"] if name.startswith("optuna") else []
    rows = swept(train.main, monkeypatch, f"sweep={name}", *stages[stage], *more)
    assert [row["state"] for row in rows] == ["complete"] * number
    assert len({row["overrides"] for row in rows}) == number
    assert all(row[metric] for row in rows)


@pytest.mark.parametrize(("name", "number"), [("quickstart_k", 3), ("quickstart_pareto", 2)])
def test_the_sweeps_of_the_quickstart_run_small(
    name: str, number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    more = ["hydra.sweeper.n_trials=2"] if name == "quickstart_pareto" else []
    rows = swept(pipeline.main, monkeypatch, f"sweep={name}", *WORLD, f"run_dir={tmp_path}/sweep", *more)
    assert [row["state"] for row in rows] == ["complete"] * number
    assert len(list((tmp_path / "sweep" / "steps").glob("sft-*"))) == 1  # which all share


def test_a_study_of_ppo_runs_with_pruning_is_killed_and_goes_on(stages: dict[str, list[str]], tmp_path: Path) -> None:
    """SIGKILL in the middle of the fourth trial: that one goes on, and the study ends with the asked number."""
    optuna = pytest.importorskip("optuna")
    folder = tmp_path / "sweep"
    command = [
        sys.executable, "-m", "rlhf_lightning.train", "-m", "sweep=optuna_ppo", *stages["ppo"],
        "hydra.sweeper.n_trials=8", "data.iterations=8", "callbacks.optuna_pruning.pruner.n_startup_trials=2",
        "callbacks.optuna_pruning.pruner.n_warmup_steps=2",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        deadline = time.monotonic() + 500
        while not list((folder / "3" / "checkpoints").glob("*.ckpt")) and time.monotonic() < deadline:
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.02)
        first.kill()
    before = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("[012]/metrics.json")}
    assert set(before) == {"0", "1", "2"}

    def stored() -> list[optuna.trial.FrozenTrial]:
        trials: list[optuna.trial.FrozenTrial]
        trials = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/study.db").trials
        return trials

    (cut_off,) = [trial for trial in stored() if trial.state.name == "RUNNING"]
    assert cut_off.number == 3
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    trials = stored()
    assert [trial.number for trial in trials] == list(range(8))
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    assert trials[3].params == cut_off.params
    assert set(cut_off.intermediate_values) <= set(trials[3].intermediate_values)
    assert {name: (folder / name / "metrics.json").stat().st_mtime_ns for name in before} == before
    for trial in trials:
        reported = len(trial.intermediate_values)
        assert reported == 8 if trial.state.name == "COMPLETE" else 2 <= reported < 8
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == [trial.state.name.lower() for trial in trials]
