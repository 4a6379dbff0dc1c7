from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.data import Encoder
from rlhf_lightning.evaluation import Samples, ScoreJudge, compare, evaluate_models, loaded, sample_responses
from rlhf_lightning.models import RewardModelScorer, load_causal_lm

PROMPTS = ["go", "who are you?", "hi", "name a dog.", "why", "sing"]


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Samples]:
    """What each model answered, by name, ids included: a random model also says tokens that no text shows."""
    kept: dict[str, Samples] = {}

    def keep(*positional: Any, label: str, **options: Any) -> Samples:
        kept[label] = sample_responses(*positional, label=label, **options)
        return kept[label]

    monkeypatch.setattr(compare, "sample_responses", keep)
    return kept


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def mean(rows: list[dict[str, Any]], key: str) -> Any:
    return pytest.approx(sum(row[key] for row in rows) / len(rows), abs=1e-5)


def test_the_comparison(arguments: dict[str, Any], answered: dict[str, Samples]) -> None:
    found = evaluate_models(**arguments)
    assert json.loads(json.dumps(found)) == found
    assert list(found["models"]) == ["base_prompted", "ppo", "sft"]
    samples = {name: read(path) for name, path in found["samples"].items()}
    for name, values in found["models"].items():
        rows = samples[name]
        assert [row["prompt"] for row in rows] == PROMPTS
        assert [row["response"] for row in rows] == answered[name].responses
        assert [row["tokens"] for row in rows] == [len(ids) for ids in answered[name].response_ids]
        assert values["win_rate_vs_sft"] == mean(rows, "preference")
        assert values["win_rate_interval"][0] <= values["win_rate_vs_sft"] <= values["win_rate_interval"][1]
        assert values["gold_reward"] == mean([{"n": len(row["response"])} for row in rows], "n")
        assert values["rude"] == mean([{"n": "a" in row["response"]} for row in rows], "n")
        assert values["proxy_reward"] == mean(rows, "score")
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
    samples = {name: read(path) for name, path in found["samples"].items()}
    left_first = set()
    for name, (left, right) in zip(("base_prompted", "ppo"), arguments["judge"].shown, strict=True):
        own, theirs = responses[name], responses["sft"]
        for row, pair in enumerate(zip(left, right, strict=True)):
            assert sorted(pair) == sorted((own[row], theirs[row]))
            left_first |= {pair == (own[row], theirs[row])} if own[row] != theirs[row] else set()
            lengths = len(own[row]), len(theirs[row])  # the referee prefers the longer text
            assert samples[name][row]["preference"] == (0.5 if lengths[0] == lengths[1] else lengths[0] > lengths[1])
    assert left_first == {True, False}  # either was shown first, by the toss of a coin


def test_every_mean_has_an_interval_around_it(arguments: dict[str, Any]) -> None:
    found = evaluate_models(**arguments)
    for name, values in found["models"].items():
        intervals = found["intervals"][name]
        for key in ("gold_reward", "proxy_reward", "kl", "pretrain_loss", "eos_rate", "response_length", "rude"):
            low, high = intervals[key]
            assert low <= values[key] <= high, (name, key)
    blocks = {row["model"]: row["blocks"] for row in read(str(arguments["out"] / "text_losses.jsonl"))}
    for name, own in blocks.items():
        mean = sum(loss for loss, _ in own) / sum(count for _, count in own)
        assert found["models"][name]["pretrain_loss"] == pytest.approx(mean)
    assert found["preferences"] is None


def test_several_judges_compare_every_two_models(arguments: dict[str, Any]) -> None:
    found = evaluate_models(**arguments | {"judges": {"length": type(arguments["judge"])()}})["preferences"]
    assert list(found["judges"]) == ["length", "reward_model"]
    pairs = [(pair["first"], pair["second"]) for pair in found["judges"]["length"]["pairs"]]
    assert pairs == [("base_prompted", "ppo"), ("base_prompted", "sft"), ("ppo", "sft")]
    assert found["judges"]["length"]["ratings"]["sft"]["rating"] == 0.0
    assert [agreement["judges"] for agreement in found["agreement"]] == [["length", "reward_model"]]
    # The label: "yes." before "no" and "hm", of which it is the longest, by the judge's own rule.
    assert found["judges"]["length"]["labels"]["agreement"] == 1.0
    said = read(str(arguments["out"] / "preferences.jsonl"))
    assert len(said) == 2 * 3 * len(PROMPTS)
    # Both models of the first pair have the length and the score of their sample files.
    samples = [read(str(arguments["out"] / f"samples_{name}.jsonl")) for name in pairs[0]]
    for judge, value in (("length", lambda row: len(row["response"])), ("reward_model", lambda row: row["score"])):
        own = [row["preference"] for row in said if row["judge"] == judge and (row["first"], row["second"]) == pairs[0]]
        values = [[value(row) for row in rows] for rows in samples]
        assert own == [0.5 if a == b else float(a > b) for a, b in zip(*values, strict=True)]


def test_the_baseline_ties_with_itself(arguments: dict[str, Any]) -> None:
    sft = evaluate_models(**arguments)["models"]["sft"]
    assert (sft["win_rate_vs_sft"], sft["win_rate_interval"], sft["kl"]) == (0.5, [0.5, 0.5], 0.0)


def test_the_kl_is_measured_from_the_baseline_at_the_temperature(
    arguments: dict[str, Any], answered: dict[str, Samples], causal_lm_folders: dict[str, Path], ppo_folder: Path
) -> None:
    found = evaluate_models(**arguments | {"temperature": 1.5})
    policy, baseline = (load_causal_lm(name=str(folder)) for folder in (ppo_folder, causal_lm_folders["llama"]))
    samples = answered["ppo"]
    rows = read(found["samples"]["ppo"])
    for row, prompt, response in zip(rows, samples.prompt_ids, samples.response_ids, strict=True):
        with torch.no_grad():
            logits = [model(torch.tensor([prompt + response])).logits[0] / 1.5 for model in (policy, baseline)]
        own, theirs = (
            log_probs[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None]).sum()
            for log_probs in (z.log_softmax(-1) for z in logits)
        )
        assert row["kl"] == pytest.approx(float(own - theirs), abs=1e-4)
        assert row["kl"] != 0.0


def test_the_proxy_reward_is_that_of_the_sampled_ids(
    arguments: dict[str, Any], answered: dict[str, Samples], reward_model_folders: dict[str, Path]
) -> None:
    rows = read(evaluate_models(**arguments)["samples"]["ppo"])
    scorer = RewardModelScorer(name=str(reward_model_folders["llama"]))
    for row, prompt, response in zip(rows, answered["ppo"].prompt_ids, answered["ppo"].response_ids, strict=True):
        sequence = torch.tensor([prompt + response])
        expected = scorer.score_ids(sequence, torch.tensor([sequence.shape[1]]))
        assert row["score"] == pytest.approx(float(expected), abs=1e-5)


def test_after_a_prefix_the_proxy_reward_is_that_of_the_text(
    arguments: dict[str, Any], reward_model_folders: dict[str, Path]
) -> None:
    rows = read(evaluate_models(**arguments)["samples"]["base_prompted"])
    scorer = RewardModelScorer(name=str(reward_model_folders["llama"]))
    expected = scorer(PROMPTS, [row["response"] for row in rows], [row["finished"] for row in rows])
    assert [row["score"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_few_shot_file_stands_before_the_prompt_on_lines_of_its_own(
    arguments: dict[str, Any], answered: dict[str, Samples], encoder: Encoder
) -> None:
    evaluate_models(**arguments)
    assert answered["base_prompted"].prompt_ids[0] == encoder.document("hi\nyo\ngo\n", eos=False)
    assert answered["sft"].prompt_ids[0] == encoder.prompt("go")


def test_each_folder_is_loaded_once(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    read_with = _spy(monkeypatch)
    found = evaluate_models(**arguments)["models"]
    names = [options["name"] for options in read_with["load_language_model"]]
    assert names == [arguments["models"]["sft"]["name"], arguments["models"]["ppo"]["name"]]
    assert found["sft"]["pretrain_loss"] == found["base_prompted"]["pretrain_loss"] != found["ppo"]["pretrain_loss"]


def test_options_reach_every_model_tokenizer_and_the_reward_model(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_with = _spy(monkeypatch)
    options = {"dtype": "bfloat16", "revision": "v2", "attn_implementation": "eager", "trust_remote_code": True}
    models = arguments["models"] | {"ppo": arguments["models"]["ppo"] | {"revision": "v3", "dtype": "float32"}}
    evaluate_models(**arguments | {"models": models} | options)
    sft, ppo = read_with["load_language_model"]
    assert {key: sft[key] for key in options} == options
    assert {key: ppo[key] for key in options} == options | {"revision": "v3", "dtype": "float32"}
    (scorer,) = read_with["RewardModelScorer"]
    assert {key: scorer[key] for key in options} == options
    of_tokenizers = [(kwargs["revision"], kwargs["trust_remote_code"]) for kwargs in read_with["from_pretrained"]]
    assert of_tokenizers == [("v2", True), ("v2", True), ("v3", True)]  # reward model, sft, ppo


def _spy(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """Record what models and tokenizers are loaded with, and load them."""
    calls: dict[str, list[dict[str, Any]]] = {}

    def recorded(place: Any, name: str) -> None:
        original = getattr(place, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.setdefault(name, []).append(kwargs)
            return original(*args, **kwargs)

        monkeypatch.setattr(place, name, call)

    recorded(loaded, "load_language_model")
    recorded(loaded, "RewardModelScorer")
    recorded(loaded.Encoder, "from_pretrained")
    return calls


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


def test_the_sample_table_shows_every_model_on_drawn_prompts(arguments: dict[str, Any]) -> None:
    found = evaluate_models(**arguments | {"sample_rows": 3})
    assert len(found["sample_table"]) == 3
    for entry in found["sample_table"]:
        index = PROMPTS.index(entry["prompt"])
        for name, answer in entry["responses"].items():
            row = read(found["samples"][name])[index]
            assert answer == {key: value for key, value in row.items() if key != "prompt"}
