from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import ScoreJudge, compare, evaluate_models
from rlhf_lightning.models import RewardModelScorer, load_causal_lm, save_model_folder

PROMPTS = ["go", "who are you?", "hi", "name a dog.", "why", "sing"]


class Referee:
    """Keeps what it is shown; prefers the longer text, and knows of each whether it has an a."""

    def __init__(self) -> None:
        self.shown: list[tuple[list[str], list[str]]] = []

    def prefer(self, rows: Any, left: list[str], right: list[str]) -> list[float]:
        assert [row["task"] for row in rows] == list(range(len(rows)))
        self.shown.append((left, right))
        return [0.5 if len(a) == len(b) else float(len(a) > len(b)) for a, b in zip(left, right, strict=True)]

    def assess(self, rows: Any, responses: list[str]) -> dict[str, list[float]]:
        return {
            "gold_reward": [float(len(response)) for response in responses],
            "rude": [float("a" in response) for response in responses],
            # Decided for the first prompt alone.
            "harm": [1.0, *[math.nan] * (len(responses) - 1)],
        }


@pytest.fixture(scope="session")
def ppo_folder(causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path_factory: Any) -> Path:
    model = load_causal_lm(name=str(causal_lm_folders["llama"]))
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return save_model_folder(model, encoder, tmp_path_factory.mktemp("ppo") / "model")


@pytest.fixture
def arguments(
    causal_lm_folders: dict[str, Path],
    reward_model_folders: dict[str, Path],
    ppo_folder: Path,
    write_jsonl: Callable[..., str],
    tmp_path: Path,
) -> dict[str, Any]:
    (tmp_path / "few_shot.txt").write_text("hi\nyo")
    llama = str(causal_lm_folders["llama"])
    return {
        "models": {
            "base_prompted": {"name": llama, "prefix": str(tmp_path / "few_shot.txt")},
            "ppo": {"name": str(ppo_folder)},
            "sft": {"name": llama, "prefix": None},
            "ppo_ptx": None,
        },
        "reward_model": str(reward_model_folders["llama"]),
        "prompts": write_jsonl("prompts.jsonl", [{"prompt": p, "task": index} for index, p in enumerate(PROMPTS)]),
        "text": write_jsonl("text.jsonl", [{"text": "a dog runs. it is big. who are you? a cat."}]),
        "comparisons": write_jsonl(
            "comparisons.jsonl", [{"prompt": "go", "responses": ["yes.", "no", "hm"], "ranks": [1, 2, 2]}]
        ),
        "judge": Referee(),
        "out": tmp_path / "out",
        "max_new_tokens": 6,
        "text_block": 8,
        "seed": 5,
    }


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def mean(rows: list[dict[str, Any]], key: str) -> Any:
    return pytest.approx(sum(row[key] for row in rows) / len(rows), abs=1e-5)


def test_the_comparison(arguments: dict[str, Any], reward_model_folders: dict[str, Path]) -> None:
    found = evaluate_models(**arguments)
    assert json.loads(json.dumps(found)) == found
    assert list(found["models"]) == ["base_prompted", "ppo", "sft"]
    scorer = RewardModelScorer(name=str(reward_model_folders["llama"]))
    samples = {name: read(path) for name, path in found["samples"].items()}
    for name, values in found["models"].items():
        rows = samples[name]
        assert [row["prompt"] for row in rows] == PROMPTS
        assert values["win_rate_vs_sft"] == mean(rows, "preference")
        assert values["win_rate_interval"][0] <= values["win_rate_vs_sft"] <= values["win_rate_interval"][1]
        assert values["gold_reward"] == mean([{"n": len(row["response"])} for row in rows], "n")
        assert values["rude"] == mean([{"n": "a" in row["response"]} for row in rows], "n")
        assert values["proxy_reward"] == mean(rows, "score")
        expected = scorer(PROMPTS, [row["response"] for row in rows], [row["finished"] for row in rows])
        assert [row["score"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)
        assert values["kl"] == mean(rows, "kl")
        assert values["eos_rate"] == mean(rows, "finished")
        assert values["response_length"] == mean(rows, "tokens")
        assert values["instruction_followed"] is values["truthful"] is values["likert"] is None
        assert (values["harm"], rows[0]["harm"], rows[1]["harm"]) == (1.0, 1.0, None)
    assert found["rates"] == ["eos_rate", "harm", "rude"]
    assert found["reward_model"]["pairs"] == 2
    assert found["baseline"] == "sft"
    assert found["settings"] == {"prompts": 6, "temperature": 1.0, "max_new_tokens": 6, "seed": 5}


def test_preferences_are_for_the_model_over_the_baseline(arguments: dict[str, Any]) -> None:
    found = evaluate_models(**arguments)
    responses = {name: [row["response"] for row in read(path)] for name, path in found["samples"].items()}
    shown = [(responses[name], responses["sft"]) for name in ("base_prompted", "ppo")]
    assert sorted(arguments["judge"].shown) == sorted(shown)


def test_the_baseline_ties_with_itself(arguments: dict[str, Any]) -> None:
    sft = evaluate_models(**arguments)["models"]["sft"]
    assert (sft["win_rate_vs_sft"], sft["win_rate_interval"], sft["kl"]) == (0.5, [0.5, 0.5], 0.0)


def test_the_kl_is_measured_from_the_baseline_at_the_temperature(
    arguments: dict[str, Any], causal_lm_folders: dict[str, Path], ppo_folder: Path, encoder: Encoder
) -> None:
    found = evaluate_models(**arguments | {"temperature": 1.5})
    policy, baseline = (load_causal_lm(name=str(folder)) for folder in (ppo_folder, causal_lm_folders["llama"]))
    for row in read(found["samples"]["ppo"]):
        prompt, response = encoder.prompt(row["prompt"]), encoder.response(row["response"], finished=row["finished"])
        assert len(response) == row["tokens"]
        with torch.no_grad():
            logits = [model(torch.tensor([prompt + response])).logits[0] / 1.5 for model in (policy, baseline)]
        own, theirs = (
            log_probs[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None]).sum()
            for log_probs in (z.log_softmax(-1) for z in logits)
        )
        assert row["kl"] == pytest.approx(float(own - theirs), abs=1e-4)


def test_each_folder_is_loaded_once(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(*, name: str) -> Any:
        loaded.append(name)
        return load_causal_lm(name=name)

    monkeypatch.setattr(compare, "load_causal_lm", load)
    found = evaluate_models(**arguments)["models"]
    assert loaded == [arguments["models"]["sft"]["name"], arguments["models"]["ppo"]["name"]]
    assert found["sft"]["pretrain_loss"] == found["base_prompted"]["pretrain_loss"] != found["ppo"]["pretrain_loss"]


def test_equal_models_answer_independently(arguments: dict[str, Any]) -> None:
    models = {"sft": arguments["models"]["sft"], "twin": arguments["models"]["sft"]}
    found = evaluate_models(**arguments | {"models": models})
    sft, twin = ([row["response"] for row in read(found["samples"][name])] for name in models)
    assert sft != twin
    # And a model's responses do not depend on who else is compared.
    alone = evaluate_models(**arguments | {"models": {"sft": models["sft"]}})
    assert [row["response"] for row in read(alone["samples"]["sft"])] == sft


def test_the_limit_draws_from_the_whole_file(arguments: dict[str, Any]) -> None:
    judge = ScoreJudge(score=lambda prompts, responses: [0.0] * len(prompts))
    drawn = set()
    for seed in range(4):
        found = evaluate_models(**arguments | {"limit": 2, "seed": seed, "judge": judge, "text": None})
        rows = read(found["samples"]["sft"])
        assert len(rows) == found["settings"]["prompts"] == 2
        drawn |= {row["prompt"] for row in rows}
    assert len(drawn) > 2


def test_what_is_not_given_is_null(arguments: dict[str, Any]) -> None:
    found = evaluate_models(**arguments | {"reward_model": None, "text": None})
    assert found["reward_model"] is None
    assert found["models"]["ppo"]["proxy_reward"] is found["models"]["ppo"]["pretrain_loss"] is None


def test_a_model_whose_stage_was_skipped_is_left_out(arguments: dict[str, Any]) -> None:
    models = {"sft": arguments["models"]["sft"], "ppo": {"name": None}}
    assert list(evaluate_models(**arguments | {"models": models})["models"]) == ["sft"]


def _broken(change: Mapping[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments | {key: arguments["models"] | value if key == "models" else value for key, value in change.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "sfx"}, r"baseline=sfx is none of the models \(base_prompted, ppo, sft\)"),
        ({"baseline": "base_prompted"}, r"models\.base_prompted\.prefix: the baseline"),
        ({"models": {"ppo": {"nam": "x"}}}, r"models\.ppo needs `name`"),
        ({"models": {"ppo": {"name": "x", "prefx": "y"}}}, r"models\.ppo needs `name`"),
        ({"models": {"base": {"name": "x", "prefix": "absent.txt"}}}, r"models\.base\.prefix=absent\.txt does not"),
        ({"limit": 0}, "limit=0"),
        ({"prompts": "absent.jsonl"}, r"absent\.jsonl does not exist"),
        ({"comparisons": "absent.jsonl"}, r"absent\.jsonl does not exist"),
    ],
)
def test_errors_come_before_any_sampling(
    arguments: dict[str, Any], change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(compare, "sample_responses")
    with pytest.raises(UserError, match=message):
        evaluate_models(**_broken(change, arguments))


def test_the_sample_table_shows_every_model_on_drawn_prompts(arguments: dict[str, Any]) -> None:
    found = evaluate_models(**arguments | {"sample_rows": 3})
    assert len(found["sample_table"]) == 3
    for entry in found["sample_table"]:
        index = PROMPTS.index(entry["prompt"])
        for name, answer in entry["responses"].items():
            row = read(found["samples"][name])[index]
            assert answer == {key: value for key, value in row.items() if key != "prompt"}
