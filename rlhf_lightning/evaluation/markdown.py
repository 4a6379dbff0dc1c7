"""report.md: what was found, the tables, the plots, samples and how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lightning.evaluation.findings import findings
from rlhf_lightning.evaluation.wording import (
    STAGE_TITLES,
    comparison_rows,
    model_title,
    other_rows,
    written,
    written_seconds,
)

_SHOWN = 240  # characters of a prompt or a response in the sample table

_PLOTS = {
    "win_rates": "Win rates",
    "ratings": "Ratings",
    "learning_curves": "Learning curves",
    "reward_against_kl": "Reward against KL",
    "alignment_tax": "Alignment tax",
    "calibration": "Calibration of the reward model",
}


def markdown(report: Mapping[str, Any], plots: Mapping[str, str]) -> str:
    """The text of ``report.md``.

    Args:
        report: as for :func:`~rlhf_lightning.evaluation.write_report`.
        plots: by name, the path of each plot relative to the report.
    """
    names = list(report["models"])
    parts = ["# Who wins", _list(findings(report)), "## Comparison", _setting(report)]
    parts.append(_table(["", *map(model_title, names)], [[row.title, *row.cells] for row in comparison_rows(report)]))
    if "win_rates" in plots:
        parts.append(_image("win_rates", plots))
    parts += _preferences(report, plots)
    others = other_rows(report)
    if others:
        parts += ["## What the judge found", "Share of responses, or mean, by model."]
        parts.append(_table(["", *map(model_title, names)], [[row.title, *row.cells] for row in others]))
    if report.get("reward_model"):
        parts += ["## Reward model", _reward_model(report["reward_model"])]
        parts += [_image("calibration", plots)] if "calibration" in plots else []
    for name in ("reward_against_kl", "alignment_tax", "learning_curves"):
        if name in plots:
            parts += [f"## {_PLOTS[name]}", _CAPTIONS[name], _image(name, plots)]
    if report.get("sample_table"):
        parts += [
            "## Samples",
            "Prompts drawn at random, not chosen. `…` marks text that is cut here, `✂` a response "
            "that the length limit cut off before its end.",
        ]
        parts += [_sample(entry) for entry in report["sample_table"]]
    parts += ["## How to read this", _list(_NOTES)]
    if report.get("seconds"):
        rows = [[STAGE_TITLES.get(stage, stage), written_seconds(s)] for stage, s in report["seconds"].items()]
        parts += ["## Time", _table(["stage", "wall clock"], rows)]
    made = {"seed": report.get("seed"), **(report.get("versions") or {})}
    known = [f"{name} {value}" for name, value in made.items() if value is not None]
    if known:
        parts += ["## Made with", ", ".join(known) + "."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _preferences(report: Mapping[str, Any], plots: Mapping[str, str]) -> list[str]:
    """Ratings by judge, and how far the judges agree; nothing without several models before named judges."""
    found = report.get("preferences") or {}
    judges = found.get("judges") or {}
    if not judges:
        return []
    rows = []
    for name in report["models"]:
        cells = []
        for said in judges.values():
            rating = said["ratings"].get(name)
            mark = " †" if rating and rating["separated"] else ""
            cells.append(
                "–"
                if rating is None
                else f"{written(rating['rating'], 'signed')} [{written(rating['low'], 'signed')}, "
                f"{written(rating['high'], 'signed')}]{mark}"
            )
        rows.append([model_title(name), *cells])
    parts = ["## Ratings", _CAPTIONS["ratings"], _table(["", *(judge.replace("_", " ") for judge in judges)], rows)]
    lines = [
        f"{' and '.join(a['judges'])} agree on {written(a['share'], 'rate')} of {a['pairs']} pairs that both decide "
        f"(95 % interval {written(a['interval'], 'interval')} %)."
        for a in found.get("agreement") or ()
        if a["share"] is not None
    ]
    lines += [
        f"{judge}: what was shown first won {written(said['first_shown_won'], 'rate')} of the decided pairs."
        for judge, said in judges.items()
        if said.get("first_shown_won") is not None
    ]
    lines += [
        f"{judge} prefers what the labelers preferred in {written(labels['agreement'], 'rate')} of {labels['decided']} "
        f"labeled pairs that it decides (95 % interval {written(labels['interval'], 'interval')} %)."
        for judge, said in judges.items()
        if (labels := said.get("labels")) and labels["agreement"] is not None
    ]
    return [*parts, _list(lines), *([_image("ratings", plots)] if "ratings" in plots else [])]


_CAPTIONS = {
    "ratings": "Bradley-Terry ratings from all duels of two models: `P(i beats j) = σ(θ_i − θ_j)`, the baseline at 0, "
    "with 95 % intervals (bootstrap over prompts). † marks ratings of models of which some never lost to the others: "
    "how far apart those are is not known.",
    "reward_against_kl": "Points are the models of the table; lines are the rollouts during training (running means), "
    "scored by the reward model, after the rule for a missing EOS. Where the proxy goes on rising and the gold reward "
    "does not, the policy exploits the reward model.",
    "alignment_tax": "What alignment costs the model as a language model. The dashed line is the baseline.",
    "learning_curves": "Thin lines are logged values, thick lines their running mean.",
}
_NOTES = [
    "**Win rate**: each response is judged against the baseline's response to the same prompt; ties count half. The "
    "interval is a 95 % bootstrap over prompts, so it says how much other prompts would change the number, not other "
    "training seeds.",
    "**Gold reward** is the judge's own score; **proxy reward** is the trained reward model's score, which PPO "
    "maximises. A judge that is that reward model is no second opinion: it reads each response as if it had ended, and "
    "training has seen it.",
    "**KL** is `log π(y|x) − log π_baseline(y|x)`, summed over a response and averaged over the model's own samples. "
    "For the few-shot base it is that of the response's text, given its longer prompt.",
    "**Length** counts tokens, its end included. **Ended by EOS**: the others reached the length limit.",
    "**–** stands for what could not be decided.",
]


def _setting(report: Mapping[str, Any]) -> str:
    settings = report.get("settings")
    if not settings:
        return ""
    return (
        f"{settings['prompts']} held-out prompts, one response each at temperature {settings['temperature']:g}, "
        f"at most {settings['max_new_tokens']} tokens."
    )


def _reward_model(values: Mapping[str, Any]) -> str:
    titles = {
        "accuracy": "Accuracy on held-out comparisons",
        "accuracy_interval": "95 % interval (bootstrap over prompts)",
        "gold_accuracy": "Gold reward on the same labels (the ceiling that label noise leaves)",
        "heldout_labeler_accuracy": "Accuracy against held-out labelers",
        "label_agreement": "Two labelers agree",
        "heldout_label_agreement": "Two held-out labelers agree",
    }
    rows = []
    for key, title in titles.items():
        if values.get(key) is None:
            continue
        bounds = values.get(f"{key}_interval") if "agreement" in key else None
        between = f" ({written(bounds, 'interval')} %)" if bounds else ""
        rows.append([title, written(values[key], "interval" if key == "accuracy_interval" else "rate") + between])
    rows.append(["Pairs (prompts)", f"{values['pairs']} ({values['prompts']})"])
    return _table(["", "share of pairs"], rows)


def _sample(entry: Mapping[str, Any]) -> str:
    rows = []
    for name, answer in entry["responses"].items():
        cut = "" if answer["finished"] else " ✂"
        score = written(answer.get("score"), "signed")
        gold = written(answer.get("gold_reward"), "signed")
        rows.append([model_title(name), _inline(answer["response"]) + cut, score, gold])
    return f"**{_inline(entry['prompt'])}**\n\n" + _table(["", "response", "proxy", "gold"], rows)


def _inline(text: str) -> str:
    """Text in one table cell, as it was written: nothing of it is markup."""
    text = text if len(text) <= _SHOWN else text[:_SHOWN].rstrip() + " …"
    for character in "\\`*_[]<>|#~":
        text = text.replace(character, f"\\{character}")
    return text.strip().replace("\n", " ⏎ ") or "*(empty)*"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    left = {0, header.index("response")} if "response" in header else {0}
    rule = [":--" if column in left else "--:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rows))


def _image(name: str, plots: Mapping[str, str]) -> str:
    return f"![{_PLOTS[name]}]({plots[name]})"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
