"""The benchmark scripts run on any model folder and print their tables; the work that they make is what they say."""

from __future__ import annotations

import importlib
import json
import py_compile
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.models import generate, load_causal_lm

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(__file__).parent / "benchmarks"
TINY = ["--size", "64", "32", "48", "2", "2", "--runs", "1", "--threads", "1"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A script as a module; its processes are processes of their own."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.fixture
def run(script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run a script; the figures that it leaves."""

    def run_script(name: str, *options: str) -> dict[str, Any]:
        figures = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", [name, *TINY, "--json", str(figures), "--folder", str(tmp_path), *options])
        script(name).main()
        return json.loads(figures.read_text())

    return run_script


def test_ppo_iteration_prints_seconds_and_tokens_per_second_of_every_phase(
    run: Callable[..., dict[str, Any]],
    causal_lm_folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts = tmp_path / "given.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("hi", "why", "a cat", "go")))
    options = ["--episodes", "4", "--minibatch", "2", "--max-new-tokens", "5", "--dtype", "bf16"]
    found = run("ppo_iteration", "--model", str(causal_lm_folders["llama"]), "--prompts", str(prompts), *options)
    seconds = {row["phase"]: row["seconds"] for row in found["phases"]["rlhf_lightning"]}
    phases = {"loop", "rest", "rollout", "score", "evaluate", "advantages", "forward", "backward", "optimizer"}
    assert set(seconds) == phases | {"all"}
    assert all(spent > 0 for spent in seconds.values())
    # Every moment of an iteration belongs to one phase.
    assert sum(seconds[phase] for phase in phases) == pytest.approx(seconds["all"], rel=0.02)
    rates = found["phases"]["rlhf_lightning"][-1]
    assert 0 < rates["at_rate"] < seconds["all"] and rates["at_torchs_rate"] > 0
    printed = capsys.readouterr().out
    assert "of 5 tokens" in printed and "of matmul rate" in printed


def test_generation_makes_responses_of_the_length_that_was_asked_for(run: Callable[..., dict[str, Any]]) -> None:
    found = run("generation", "--episodes", "64", "--max-new-tokens", "32")
    (mean,) = found["mean_lengths"].values()
    assert mean == pytest.approx(20, abs=5)  # of 64 draws; one standard deviation is 1.4
    assert found["share"] > 0


def test_reward_compares_the_plain_path_with_prompts_that_are_read_once(run: Callable[..., dict[str, Any]]) -> None:
    sizes = ["--count", "4", "--completions", "3", "--prompt", "8", "--completion", "4", "--batch", "2"]
    found = run("reward", *sizes)
    assert [len(runs) for runs in found["seconds"].values()] == [1, 1]
    plain, shared = ({row["phase"]: row for row in rows}["forward"] for rows in found["phases"].values())
    assert plain["tokens"] == 4 * 3 * 12
    assert shared["tokens"] == 4 * (8 + 3 * 4)


def test_sft_trains_a_pass_over_the_examples_a_run(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    found = run("sft", "--count", "8", "--batch", "4", "--longest", "32", "--packs", "32")
    assert {"loop", "forward", "backward", "optimizer"} <= {row["phase"] for row in found["phases"]}
    rows = [json.loads(line) for line in (tmp_path / "demonstrations.jsonl").read_text().splitlines()]
    lengths = [len(row["prompt"].split()) + len(row["response"].split()) + 1 for row in rows]
    assert (min(lengths), max(lengths)) == (16, 32)
    assert found["phases"][-1]["tokens"] == sum(lengths)


@pytest.mark.parametrize(("mean", "low", "high"), [(64, 64, 64), (20, 18.5, 21.5)])
def test_a_made_policy_ends_its_responses_as_asked(
    script: Callable[[str], Any], tmp_path: Path, mean: int, low: float, high: float
) -> None:
    worlds = script("worlds")
    folder = worlds.policy(tmp_path / "policy", worlds.Size(64, 32, 48, 2, 2), mean_length=mean, longest=64)
    model = load_causal_lm(name=str(folder))
    ids = torch.randint(3, 64, (1024, 4))
    found = generate(
        model,
        ids,
        torch.full((1024,), 4),
        max_new_tokens=64,
        eos_token_id=0,
        pad_token_id=1,
        generator=torch.Generator(),
    )
    assert low <= found.lengths.float().mean() <= high
    read = torch.arange(found.response_ids.shape[1]) < found.lengths.unsqueeze(1)
    assert not ((found.response_ids == 1) | (found.response_ids == 2))[read].any()  # padding is never sampled


def test_operations_are_counted_as_by_hand(script: Callable[[str], Any]) -> None:
    shapes = script("matmul").Shapes([(2, 3), (3, 2)], head=(2, 5), layers=1, attended=2)
    # Three tokens: 2·(6 + 6) each; six pairs of a token and one that it sees, 2·2 for q·k and 2·2 for the values.
    assert shapes.forward([3]) == 3 * 24 + 6 * 8
    assert shapes.forward([3], heads=2) == 3 * 24 + 6 * 8 + 2 * 20
    assert shapes.forward([1, 1, 1]) == 3 * 24 + 3 * 8


def test_contestants_take_turns_of_two_runs_of_which_the_second_counts(
    script: Callable[[str], Any], tmp_path: Path
) -> None:
    duel, order = script("duel"), tmp_path / "order"
    fake = tmp_path / "fake.py"
    fake.write_text(
        f"import json, sys\nsys.path.insert(0, {str(SCRIPTS / 'peers')!r})\nfrom pace import Pace\n"
        "settings = json.load(open(sys.argv[1]))\npace, runs = Pace(), 0\npace.start()\n"
        f"while True:\n    open({str(order)!r}, 'a').write(settings['letter'])\n    runs += 1\n    pace.end(run=runs)\n"
    )
    contestants = [duel.Contestant(name, sys.executable, str(fake), {"letter": name}) for name in "ab"]
    found = duel.alternate(contestants, runs=3, threads=1)
    assert order.read_text() == "aaabbb" + "aabbbbaaaabb"
    assert [run.figures["run"] for run in found["a"]] == [5, 7, 9]


def test_a_contestant_that_fails_says_why(script: Callable[[str], Any], tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no such model')")
    duel = script("duel")
    with pytest.raises(RuntimeError, match="no such model"):
        duel.alternate([duel.Contestant("a", sys.executable, str(broken), {})], runs=1, threads=1)


def test_a_row_says_whether_its_target_was_met(script: Callable[[str], Any]) -> None:
    bench, document = script("bench"), script("document")
    row = bench.ROWS["ppo_full"]
    figures = {"seconds": {row.ours: [1.0, 2.0, 9.0], row.theirs: [3.0, 2.0, 5.0]}}
    rows = {"ppo_full_fp32": bench.compare(row, "fp32", figures), "ppo_full_bf16": bench.compare(row, "bf16", figures)}
    rows["lost"] = bench.compare(row, "fp32", None)
    met, missed, failed = document.ratios(rows).splitlines()[2:]
    assert "| 2.000 (1.000 to 9.000) | 3.000 (2.000 to 5.000) | 1.50x | 1.35x | yes |" in met
    assert "| 1.50x | 3x | **no** |" in missed
    assert "| failed |" in failed


def test_the_peers_scripts_compile_and_their_torch_is_ours(tmp_path: Path) -> None:
    scripts = sorted((SCRIPTS / "peers").glob("*.py"))
    assert len(scripts) >= 4
    for path in scripts:
        py_compile.compile(str(path), cfile=str(tmp_path / "compiled"), doraise=True)
    (torch_,) = [line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("torch==")]
    for release in ("1.12.0", "1.16.0"):
        pins = (SCRIPTS / "peers" / f"trl-{release}.txt").read_text().split()
        assert torch_ in pins and f"trl=={release}" in pins


@pytest.mark.slow
@pytest.mark.parametrize("setup", ["separate, full", "SFT, full", "reward, full"])
def test_the_memory_plan_is_within_15_percent_of_what_training_gpt2_takes(setup: str) -> None:
    """124M random weights on a CPU; PPO with four full models, and the two other stages."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "memory.py", "--architecture", "gpt2", "--only", setup],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["estimate"] == pytest.approx(found["peak"] - found["idle"], rel=0.15)
