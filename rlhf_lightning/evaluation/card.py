"""The model card of an evaluation: what was compared, how it came about, and every number with its interval."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_lightning.evaluation.card_benchmarks import benchmark_sections
from rlhf_lightning.evaluation.wording import STAGE_TITLES, Form, comparison_metrics, model_title, written
from rlhf_lightning.models import card_data, card_section

CARD = "MODEL_CARD.md"

_USE = (
    "Research on training from preferences: comparing these models with each other, under the prompts and judges named "
    "below. They are not made to answer the public, and nothing here says that they may."
)
_LIMITS = (
    "A win rate says whom these judges prefer on these prompts; other people may prefer otherwise.",
    "Intervals are 95 % bootstraps over prompts (for the loss over blocks of text). They do not cover other training "
    "seeds, and of many numbers some miss the truth.",
    "A model that was optimised against a reward model may exploit its errors: where the proxy reward rises and the "
    "gold reward does not, it did.",
    "Language models repeat themselves, state falsehoods, take over the biases of their data, and follow harmful "
    "requests; what no metric below asks for was not looked at.",
)


def evaluation_card(report: Mapping[str, Any]) -> str:
    """The text of ``MODEL_CARD.md``. Every number in its tables is read from ``report.json``.

    Args:
        report: the content of ``report.json``, of a comparison, of benchmarks, or of benchmarks with the comparison as
            ``preference``; ``training`` (settings by stage), ``data`` (data cards by stage) and ``command`` make it
            complete.
    """
    compared: Mapping[str, Any] = report if "baseline" in report else report.get("preference") or {}
    settings = report.get("settings") or {}
    done = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    parts = [
        "# Model card",
        f"Models: {', '.join(f'{model_title(name)} (`{name}`)' for name in report['models'])}."
        + (f" All are compared with {model_title(compared['baseline'])}." if compared else "")
        + (f" Settings of the evaluation: {done}." if done else ""),
        f"Command:\n\n```\n{report['command']}\n```" if report.get("command") else "",
        f"## Intended use\n\n{_USE}",
        *_training(report),
        *(part for stage, data in (report.get("data") or {}).items() for part in card_data(data, _stage_data(stage))),
        *(_models(compared) if compared else ()),
        *_preferences(compared.get("preferences") or {}),
        _reward_model(compared.get("reward_model") or {}),
        *benchmark_sections(report),
        _folds(report.get("labeler_folds") or {}),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _LIMITS),
        card_section(
            "Versions", ("package", "version"), [(n, str(v)) for n, v in (report.get("versions") or {}).items()]
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def card_drift(folder: str | Path) -> list[str]:
    """What differs between the card in a folder and the one that its ``report.json`` gives; empty if nothing does.

    Returns:
        Lines of a unified diff, from the file to what it should be.
    """
    folder = Path(folder)
    made = evaluation_card(json.loads((folder / "report.json").read_text(encoding="utf-8")))
    found = (folder / CARD).read_text(encoding="utf-8")
    return list(difflib.unified_diff(found.splitlines(), made.splitlines(), CARD, "report.json", lineterm="", n=0))


def _training(report: Mapping[str, Any]) -> list[str]:
    stages = report.get("training") or {}
    rows = [
        (STAGE_TITLES.get(stage, stage), name, f"{value:g}" if isinstance(value, float) else str(value))
        for stage, settings in stages.items()
        for name, value in settings.items()
    ]
    return [card_section("Training", ("stage", "setting", "value"), rows)]


def _stage_data(stage: str) -> str:
    return f"Data: {STAGE_TITLES.get(stage, stage)}"


def _models(report: Mapping[str, Any]) -> list[str]:
    """A table for each model: every number that the report has of it, with its interval."""
    baseline, rates = report["baseline"], set(report.get("rates", ()))
    known = {metric.key: metric for metric in comparison_metrics(baseline)}
    parts = []
    for name, values in report["models"].items():
        intervals = dict((report.get("intervals") or {}).get(name) or {})
        intervals[f"win_rate_vs_{baseline}"] = values.get("win_rate_interval")
        rows = []
        for key, value in values.items():
            if value is None or key == "win_rate_interval":
                continue
            metric = known.get(key)
            form: Form = metric.form if metric else "rate" if key in rates else "number"
            title = metric.title if metric else key.replace("_", " ").capitalize()
            rows.append((title, written(value, form), _interval(intervals.get(key), form)))
        parts.append(card_section(f"Evaluation: {model_title(name)}", ("metric", "value", "95 % interval"), rows))
    return parts


def _preferences(found: Mapping[str, Any]) -> list[str]:
    parts = []
    for judge, said in (found.get("judges") or {}).items():
        ratings = [
            (model_title(name), written(r["rating"], "signed"), _interval([r["low"], r["high"]], "signed"))
            for name, r in said["ratings"].items()
        ]
        duels = [
            (
                model_title(p["first"]),
                model_title(p["second"]),
                written(p["win_rate"], "rate"),
                _interval(p["interval"], "rate"),
            )
            for p in said["pairs"]
        ]
        columns = ("model", "log-odds", "95 % interval")
        parts.append(card_section(f"Bradley-Terry ratings: judge {judge}", columns, ratings))
        columns_of_duels = ("first", "second", "first wins", "95 % interval")
        parts.append(card_section(f"Duels: judge {judge}", columns_of_duels, duels))
        labels = said.get("labels")
        if labels and labels["agreement"] is not None:
            share, bounds = written(labels["agreement"], "rate"), _interval(labels["interval"], "rate")
            row = (f"{labels['decided']} pairs decided, {labels['ties']} tied", share, bounds)
            parts.append(card_section(f"Labels: judge {judge}", ("pairs", "agrees", "95 % interval"), [row]))
        if said.get("first_shown_won") is not None:
            share = written(said["first_shown_won"], "rate")
            parts.append(f"What was shown first won {share} of the verdicts that were no tie.")
    rows = [
        (" and ".join(a["judges"]), written(a["share"], "rate"), _interval(a["interval"], "rate"), str(a["pairs"]))
        for a in found.get("agreement") or ()
    ]
    parts.append(card_section("Agreement of judges", ("judges", "agree", "95 % interval", "pairs"), rows))
    return parts


def _reward_model(values: Mapping[str, Any]) -> str:
    titles = {
        "accuracy": "Accuracy on held-out comparisons",
        "gold_accuracy": "Gold reward on the same labels",
        "heldout_labeler_accuracy": "Accuracy against held-out labelers",
        "label_agreement": "Two labelers agree",
        "heldout_label_agreement": "Two held-out labelers agree",
    }
    rows = [
        (title, written(values[key], "rate"), _interval(values.get(f"{key}_interval"), "rate"))
        for key, title in titles.items()
        if values.get(key) is not None
    ]
    counts = [
        (name.capitalize(), str(values[name]), "–") for name in ("pairs", "prompts") if values.get(name) is not None
    ]
    return card_section("Evaluation: reward model", ("metric", "value", "95 % interval"), [*rows, *counts])


def _folds(values: Mapping[str, Any]) -> str:
    """Of the labeler folds, each with its interval; the mean with its standard error over folds."""
    rows = []
    for kind, title in (("heldout", "held-out labelers"), ("training", "labelers of training")):
        known = values.get(kind)
        if not known or known["accuracy"] is None:
            continue
        error = known["standard_error"]
        rows.append((f"Mean, {title}", written(known["accuracy"], "rate"), f"standard error {written(error, 'rate')}"))
        for number, fold in enumerate(known["folds"], 1):
            share, bounds = written(fold["accuracy"], "rate"), _interval(fold["accuracy_interval"], "rate")
            rows.append((f"Fold {number}, {title}, {fold['pairs']} pairs", share, bounds))
    return card_section("Evaluation: reward model by labelers", ("metric", "value", "95 % interval"), rows)


def _interval(bounds: Any, form: Form) -> str:
    return "–" if not bounds else f"{written(bounds[0], form)} to {written(bounds[1], form)}"
