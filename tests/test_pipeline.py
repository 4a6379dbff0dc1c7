"""The whole pipeline, small: every stage runs, finished steps are kept, what changed is done again, what was stopped
goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_lightning import pipeline
from rlhf_lightning.evaluation import card_drift

SMALL = [
    "experiment=quickstart",
    "progress_bar=false",
    "steps.prepare.corpus_documents=200",
    "steps.prepare.corpus_heldout_documents=60",
    "steps.prepare.demonstrations=64",
    "steps.prepare.demonstrations_heldout=16",
    "steps.prepare.reward_prompts=24",
    "steps.prepare.reward_heldout_prompts=12",
    "steps.prepare.ppo_prompts=40",
    "steps.prepare.test_prompts=24",
    "steps.collect.max_new_tokens=8",
    "steps.ppo.data.iterations=2",
    "steps.ppo.data.rollout_batch_size=8",
    "steps.ppo.module.minibatch_size=4",
    "steps.ppo.module.epochs=1",
    "steps.ppo_ptx.data.ptx_ratio=1",
]


def run(run_dir: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> dict[str, object]:
    monkeypatch.setattr(sys, "argv", ["script", *SMALL, f"run_dir={run_dir}", *overrides])
    pipeline.main()
    report: dict[str, object] = json.loads((run_dir / "report.json").read_text())
    return report


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    run_dir = tmp_path_factory.mktemp("pipeline") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        return run_dir, run(run_dir, monkeypatch)


def done_at(run_dir: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in (run_dir / "steps").glob("*/step.json")}


def test_report_holds_what_it_promises(finished: tuple[Path, dict[str, object]]) -> None:
    run_dir, report = finished
    models = report["models"]
    assert isinstance(models, dict)
    assert list(models) == ["base", "base_prompted", "sft", "ppo", "ppo_ptx"]
    for values in models.values():
        assert {
            "win_rate_vs_sft",
            "win_rate_interval",
            "gold_reward",
            "proxy_reward",
            "kl",
            "pretrain_loss",
            "eos_rate",
            "response_length",
            "instruction_followed",
            "truthful",
            "rude",
        } <= set(values)
    assert models["sft"]["win_rate_vs_sft"] == 0.5
    assert models["sft"]["kl"] == pytest.approx(0, abs=1e-4)
    reward = report["reward_model"]
    assert isinstance(reward, dict)
    assert {"accuracy", "heldout_labeler_accuracy", "label_agreement", "gold_accuracy"} <= set(reward)
    seconds = report["seconds"]
    assert isinstance(seconds, dict)
    assert {"pretrain", "sft", "collect", "reward", "ppo", "ppo_ptx", "evaluate", "total"} <= set(seconds)
    assert report["seed"] == 0
    assert "torch" in report["versions"]  # type: ignore[operator]  # a report is read from JSON
    text = (run_dir / "report.md").read_text()
    for plot in (run_dir / "plots").glob("*.png"):
        assert f"plots/{plot.name}" in text


def test_every_stage_leaves_a_folder_that_transformers_loads_by_itself(
    finished: tuple[Path, dict[str, object]],
) -> None:
    _, report = finished
    steps = report["steps"]
    assert isinstance(steps, dict)
    for name in ("pretrain", "sft", "ppo", "ppo_ptx"):
        AutoModelForCausalLM.from_pretrained(steps[name])
        assert AutoTokenizer.from_pretrained(steps[name]).chat_template
    reward_model = AutoModelForSequenceClassification.from_pretrained(steps["reward"])
    assert reward_model.config.num_labels == 1


def test_a_second_call_redoes_nothing_and_a_change_only_what_depends_on_it(
    finished: tuple[Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, first = finished
    before = done_at(run_dir)
    again = run(run_dir, monkeypatch)
    assert done_at(run_dir) == before
    assert again["models"] == first["models"]
    run(run_dir, monkeypatch, "steps.ppo_ptx.module.ptx_coef=2.0")
    new = {name.rsplit("-", 1)[0] for name in set(done_at(run_dir)) - set(before)}
    assert new == {"ppo_ptx", "evaluate"}
    assert {name: time for name, time in done_at(run_dir).items() if name in before} == before


def test_a_stopped_pipeline_goes_on_where_it_stopped(
    finished: tuple[Path, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PPO is stopped after its first iteration; the second call resumes it and ends with the same numbers."""
    _, whole = finished
    from rlhf_lightning.modules import PPOModule

    step = PPOModule.training_step

    def stopping(self: PPOModule, batch: object, batch_idx: int) -> object:
        if batch_idx == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)  # type: ignore[arg-type]  # whatever the batch is, it is handed on

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(PPOModule, "training_step", stopping)
        run(tmp_path / "run", patch)
    assert stop.value.code == 130
    (folder,) = (tmp_path / "run" / "steps").glob("ppo-*")
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["iteration-000001.ckpt"]
    before = done_at(tmp_path / "run")
    assert not (folder / "step.json").exists()
    resumed = run(tmp_path / "run", monkeypatch)
    assert {name: time for name, time in done_at(tmp_path / "run").items() if name in before} == before
    assert resumed["models"] == whole["models"]


def test_a_step_can_be_left_out(finished: tuple[Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir, _ = finished
    report = run(run_dir, monkeypatch, "skip=[ppo]")
    assert "ppo" not in report["models"]  # type: ignore[operator]  # a report is read from JSON
    assert "ppo_ptx" in report["models"]  # type: ignore[operator]  # a report is read from JSON


def test_without_an_evaluation_there_is_no_report_but_no_crash_either(
    finished: tuple[Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, _ = finished
    monkeypatch.setattr(sys, "argv", ["script", *SMALL, f"run_dir={run_dir}", "skip=[evaluate]"])
    pipeline.main()
    assert "no report" in capsys.readouterr().out


def test_a_step_whose_input_is_left_out_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["script", *SMALL, f"run_dir={tmp_path / 'run'}", "order=[sft]"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        pipeline.main()
    assert "the step sft needs the output of pretrain" in capsys.readouterr().err.replace("prepare", "pretrain")


def test_the_model_card_is_that_of_the_report(finished: tuple[Path, dict[str, object]]) -> None:
    """Every number of the card is read from report.json: written anew from it, the card is the same."""
    run_dir, report = finished
    assert card_drift(run_dir) == []
    card = (run_dir / "MODEL_CARD.md").read_text()
    assert "| PPO-ptx | module.kl_coef | 0.15 |" in card
    assert "## Data: SFT" in card
    assert "steps.ppo.data.iterations=2" in card  # the command
    assert str(run_dir.parent) not in card
    intervals = report["intervals"]
    assert isinstance(intervals, dict)
    assert {"gold_reward", "kl", "truthful", "pretrain_loss"} <= set(intervals["ppo_ptx"])
    (run_dir / "MODEL_CARD.md").write_text(card.replace("## Limits", "## Limits\n\n- It won 99.9 % of all duels."))
    assert any("99.9" in line for line in card_drift(run_dir))
    (run_dir / "MODEL_CARD.md").write_text(card)


def test_seeds_run_the_whole_pipeline_each_and_make_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def stand_in(config: DictConfig) -> Path:
        folder = Path(config.run_dir)
        write_evaluation(folder, seed=config.seed)
        seen.append((config.seed, config.seeds, folder, config.steps.ppo_kl.seed, config.steps.ppo_kl.module.kl_coef))
        return folder / "report.md"

    monkeypatch.setattr(pipeline, "run_pipeline", stand_in)
    monkeypatch.setattr(sys, "argv", ["rlhf-pipeline", "experiment=claims", "seeds=[3,5]", f"run_dir={tmp_path}"])
    pipeline.main()
    assert seen == [(seed, None, tmp_path / f"seed-{seed}", seed, 1.5) for seed in (3, 5)]
    assert "| seed 3 | seed 5 | all |" in (tmp_path / "claims.md").read_text()
    assert (tmp_path / "plots" / "claims.png").is_file()
    assert "claims.md" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["rlhf-pipeline", "experiment=claims", "seeds=[3,3]", f"run_dir={tmp_path}"])
    with pytest.raises(SystemExit):
        pipeline.main()
    assert "seeds=[3, 3] must be different whole numbers" in capsys.readouterr().err


def test_the_reward_stage_over_groups_of_labelers(
    finished: tuple[Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, _ = finished
    order = "order=[prepare,pretrain,sft,collect,collect_heldout,reward,folds]"
    monkeypatch.setattr(
        sys,
        "argv",
        ["script", *SMALL, f"run_dir={run_dir}", order, "steps.folds.groups=2", "steps.folds.validation_share=0.4"],
    )
    before = done_at(run_dir)
    pipeline.main()
    (folder,) = (run_dir / "steps").glob("folds-*")
    assert set(done_at(run_dir)) - set(before) == {folder.name}
    metrics = json.loads((folder / "step.json").read_text())["metrics"]
    assert [len(fold["accuracy_interval"]) for fold in metrics["heldout"]["folds"]] == [2, 2]
    weights = [(folder / f"fold-{n}" / "reward" / "model" / "model.safetensors").read_bytes() for n in (1, 2)]
    assert weights[0] != weights[1]  # each saw other people's rows
    trained = [json.loads(line) for line in (folder / "fold-1" / "train.jsonl").read_text().splitlines()]
    assert not {row["labeler"] for row in trained} & set(metrics["labelers"][0])


def write_evaluation(folder: Path, *, seed: int) -> None:
    """The least that an evaluation leaves."""
    folder.mkdir(parents=True)
    sample = folder / "samples_sft.jsonl"
    sample.write_text(json.dumps({"prompt": "p", "truthful": 1.0}) + "\n")
    (folder / "report.json").write_text(json.dumps({"samples": {"sft": str(sample)}, "seed": seed}))
