"""What the numbers of a report say, in sentences that claim no more than the intervals allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_lightning.evaluation.wording import Metric, model_title, written


def findings(report: Mapping[str, Any]) -> list[str]:
    """One sentence for each thing worth knowing first; a missing number leaves its sentence out."""
    models, baseline = report["models"], report["baseline"]
    best = next((name for name in ("ppo_ptx", "ppo") if name in models and name != baseline), None)
    return [
        *(_win(report, name) for name in reversed(models) if name != baseline),
        *([] if best is None else _change(models[baseline], models[best], baseline, best)),
        *_alignment_tax(models, baseline),
        *_reward_model(report.get("reward_model") or {}),
        *(line for name in models if name != baseline for line in _warnings(models, baseline, name)),
    ]


def tax_recovered(models: Mapping[str, Mapping[str, Any]], baseline: str) -> float | None:
    """Share of the rise in pretraining loss from the baseline to PPO that PPO-ptx takes back,
    ``1 − (L_ptx − L_base)/(L_ppo − L_base)``; ``None`` where a loss is missing or PPO does not raise it."""
    start, ppo, ptx = (models.get(name, {}).get("pretrain_loss") for name in (baseline, "ppo", "ppo_ptx"))
    if start is None or ppo is None or ptx is None or ppo <= start:
        return None
    return float(1 - (ptx - start) / (ppo - start))


def _win(report: Mapping[str, Any], name: str) -> str:
    values, to = report["models"][name], model_title(report["baseline"])
    low, high = values["win_rate_interval"]
    share = written(values[f"win_rate_vs_{report['baseline']}"], "rate")
    interval = written((low, high), "interval")
    prompts = report.get("settings", {}).get("prompts")
    where = "of the held-out prompts" if prompts is None else f"of {prompts} held-out prompts"
    if low > 0.5:
        return f"**{model_title(name)} beats {to}** on {share} {where} (95 % interval {interval} %)."
    if high < 0.5:
        return f"**{model_title(name)} loses to {to}**: it wins on {share} {where} (95 % interval {interval} %)."
    return f"**{model_title(name)} cannot be told from {to}**: it wins on {share} {where} (95 % interval {interval} %)."


def _change(before: Mapping[str, Any], after: Mapping[str, Any], baseline: str, name: str) -> list[str]:
    told = (
        Metric("gold_reward", "gold reward", "signed"),
        Metric("instruction_followed", "instruction followed", "rate"),
        Metric("truthful", "truthful", "rate"),
        Metric("rude", "rude", "rate"),
        Metric("eos_rate", "ended by EOS", "rate"),
    )
    changes = [
        f"{title} {written(before[key], form)} → {written(after[key], form)}"
        for key, title, form in told
        if before.get(key) is not None and after.get(key) is not None
    ]
    return [f"From {model_title(baseline)} to {model_title(name)}: {', '.join(changes)}."] if changes else []


def _alignment_tax(models: Mapping[str, Mapping[str, Any]], baseline: str) -> list[str]:
    start, ppo, ptx = (models.get(name, {}).get("pretrain_loss") for name in (baseline, "ppo", "ppo_ptx"))
    if start is None or ppo is None:
        return []
    path = f"{written(start, 'loss')} → {written(ppo, 'loss')} nats per token"
    if ppo <= start:
        return [f"No alignment tax: PPO leaves the loss on held-out pretraining text where it was or lower ({path})."]
    told = f"Alignment tax: PPO raises the loss on held-out pretraining text by {written(ppo - start, 'loss')} ({path})"
    share = tax_recovered(models, baseline)
    if share is None:
        return [f"{told}."]
    if share < 0:
        return [f"{told}, and PPO-ptx raises it further, to {written(ptx, 'loss')}."]
    if ptx is not None and ptx <= start:
        return [f"{told}; PPO-ptx takes back all of it and more, to {written(ptx, 'loss')}."]
    return [f"{told}; PPO-ptx takes back {100 * share:.0f} % of that, to {written(ptx, 'loss')}."]


def _reward_model(values: Mapping[str, Any]) -> list[str]:
    if values.get("accuracy") is None:
        return []
    told = (
        f"The reward model orders {written(values['accuracy'], 'rate')} of {values['pairs']} held-out pairs as labeled"
    )
    notes = [
        f"{title} {written(values[key], 'rate')}"
        for key, title in (
            ("gold_accuracy", "the gold reward itself:"),
            ("heldout_labeler_accuracy", "against held-out labelers:"),
            ("label_agreement", "two labelers agree on"),
        )
        if values.get(key) is not None
    ]
    lines = [f"{told} ({'; '.join(notes)})." if notes else f"{told}."]
    if values.get("gold_accuracy") == 1.0:
        lines.append(
            "⚠ The judge's gold reward explains every label: judge and labeler are the same, so a win shows that "
            "the training reached its aim, not that somebody else would agree."
        )
    return lines


def _warnings(models: Mapping[str, Mapping[str, Any]], baseline: str, name: str) -> list[str]:
    before, after = models[baseline], models[name]
    found: list[str] = []
    if name.startswith("base"):
        return found
    gold, proxy = (_rise(before, after, key) for key in ("gold_reward", "proxy_reward"))
    if proxy > 0 and gold < 0:
        found.append(
            f"⚠ {model_title(name)} is over-optimised: the reward model likes it better than {model_title(baseline)}, "
            "the gold reward less. Fewer iterations or a larger module.kl_coef would have stopped earlier."
        )
    if after["eos_rate"] < 0.9:
        found.append(
            f"⚠ {model_title(name)} ends only {written(after['eos_rate'], 'rate')} of its responses by itself: the "
            "others were cut at the length limit, and are judged as they stand."
        )
    return found


def _rise(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> float:
    known = before.get(key) is not None and after.get(key) is not None
    return float(after[key] - before[key]) if known else 0.0
