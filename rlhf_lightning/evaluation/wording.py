"""Names and number formats shared by the printed table, the report and the plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Form = Literal["rate", "interval", "signed", "number", "loss", "length"]

MODEL_TITLES = {
    "base": "Base",
    "base_prompted": "Base, few-shot",
    "base_respectful": "Base, asked for manners",
    "sft": "SFT",
    "ppo": "PPO",
    "ppo_kl": "PPO, larger β",
    "ppo_ptx": "PPO-ptx",
    "ppo_ptx_respectful": "PPO-ptx, asked for manners",
}
STAGE_TITLES = {
    "prepare": "Preparing data",
    "pretrain": "Pretraining",
    "sft": "SFT",
    "collect": "Collecting rankings",
    "collect_heldout": "Collecting held-out rankings",
    "reward": "Reward model",
    "folds": "Reward model, labeler folds",
    "ppo": "PPO",
    "ppo_kl": "PPO with a larger β",
    "ppo_ptx": "PPO-ptx",
    "evaluate": "Evaluation",
    "total": "Total",
    "this_call": "This call",
}


class Metric(NamedTuple):
    """A row of the comparison: its key in ``report.json``, its title and how its values are written."""

    key: str
    title: str
    form: Form


class Row(NamedTuple):
    """A metric with its value for every model, as text."""

    key: str
    title: str
    cells: list[str]


def model_title(name: str) -> str:
    """How a model is called in tables and plots."""
    return MODEL_TITLES.get(name, name)


def comparison_metrics(baseline: str) -> list[Metric]:
    """The rows of the comparison, in the order in which they are read."""
    to = model_title(baseline)
    return [
        Metric(f"win_rate_vs_{baseline}", f"Win rate vs {to}", "rate"),
        Metric("win_rate_interval", "95 % interval", "interval"),
        Metric("gold_reward", "Gold reward", "signed"),
        Metric("proxy_reward", "Proxy reward", "signed"),
        Metric("likert", "Likert (1–7)", "number"),
        Metric("instruction_followed", "Instruction followed", "rate"),
        Metric("truthful", "Truthful", "rate"),
        Metric("rude", "Rude", "rate"),
        Metric("kl", f"KL from {to} (nats)", "length"),
        Metric("pretrain_loss", "Pretraining loss", "loss"),
        Metric("eos_rate", "Ended by EOS", "rate"),
        Metric("response_length", "Length (tokens)", "length"),
    ]


def comparison_rows(report: Mapping[str, Any]) -> list[Row]:
    """The main table; a metric that no model has a value for is left out."""
    models, baseline = dict(report["models"]), report["baseline"]
    # Against itself the baseline is at one half by definition, which no interval should surround.
    models[baseline] = {**models[baseline], "win_rate_interval": None}
    return _rows(models, comparison_metrics(baseline))


def other_rows(report: Mapping[str, Any]) -> list[Row]:
    """Whatever else the judge assessed: the yes/no flags in percent, other metrics as numbers."""
    known = {metric.key for metric in comparison_metrics(report["baseline"])}
    keys = dict.fromkeys(key for values in report["models"].values() for key in values if key not in known)
    rates = set(report.get("rates", ()))
    metrics = [Metric(key, key.replace("_", " ").capitalize(), "rate" if key in rates else "number") for key in keys]
    return _rows(report["models"], metrics)


def written(value: Any, form: Form) -> str:
    """A value as text; a dash for what nobody decided."""
    if value is None:
        return "–"
    if form == "interval":
        return f"{100 * value[0]:.1f}–{100 * value[1]:.1f}"
    if form == "rate":
        return f"{100 * value:.1f} %"
    if form == "signed":
        return f"{value:+.2f}".replace("-", "−")
    return {"loss": f"{value:.3f}", "length": f"{value:.1f}", "number": f"{value:.2f}"}[form].replace("-", "−")


def written_seconds(seconds: float) -> str:
    """A duration, in minutes where it is long."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _rows(models: Mapping[str, Mapping[str, Any]], metrics: Sequence[Metric]) -> list[Row]:
    rows = []
    for key, title, form in metrics:
        values = [model.get(key) for model in models.values()]
        if any(value is not None for value in values):
            rows.append(Row(key, title, [written(value, form) for value in values]))
    return rows
