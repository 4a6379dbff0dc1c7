from __future__ import annotations

from typing import Any

from rlhf_lightning.evaluation.markdown import markdown


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_findings_come_first(report: dict[str, Any]) -> None:
    assert markdown(report, {}).startswith("# Who wins\n\n- **PPO-ptx cannot be told from SFT**")


def test_the_tables(report: dict[str, Any]) -> None:
    text = markdown(report, {"win_rates": "plots/w.png"})
    comparison = section(text, "Comparison")
    assert "40 held-out prompts, one response each at temperature 1, at most 32 tokens." in comparison
    assert (
        "|  | Base | SFT | PPO | PPO-ptx |\n| :-- | --: | --: | --: | --: |\n| Win rate vs SFT | 10.0 %" in comparison
    )
    assert "![Win rates](plots/w.png)" in comparison
    assert "| Harm | 12.5 % | 25.0 % | 0.0 % | 0.0 % |" in section(text, "What the judge found")
    reward_model = section(text, "Reward model")
    assert "| 95 % interval (bootstrap over prompts) | 65.0–75.0 |" in reward_model
    assert "| Pairs (prompts) | 40 (8) |" in reward_model
    assert "Two held-out labelers" not in reward_model
    assert "| Total | 2 min 10 s |" in section(text, "Time")
    assert section(text, "Made with").strip() == "seed 3, torch 2.9."


def test_samples_are_shown_as_they_were_written(report: dict[str, Any]) -> None:
    samples = section(markdown(report, {}), "Samples")
    assert r"**a \*b\* \| c ⏎ d**" in samples
    assert "| SFT | ok. | +1.25 | – |" in samples
    assert r"| PPO | \<x\> ✂ | +1.25 | −0.50 |" in samples


def test_long_and_empty_responses(report: dict[str, Any]) -> None:
    answers = report["sample_table"][0]["responses"]
    answers["sft"]["response"] = "a" * 241
    answers["ppo"]["response"] = " "
    samples = section(markdown(report, {}), "Samples")
    assert f"| SFT | {'a' * 240} … |" in samples
    assert "| PPO | *(empty)* ✂ |" in samples


def test_what_is_missing_has_no_section(report: dict[str, Any]) -> None:
    bare = {"models": report["models"], "baseline": "sft", "reward_model": None}
    text = markdown(bare, {})
    assert "\n## Samples" not in text
    assert "\n## Reward model" not in text
    assert "\n## Time" not in text
    assert "None" not in text
