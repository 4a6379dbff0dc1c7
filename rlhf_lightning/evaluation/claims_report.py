"""The table and the plot of the paper's claims, over training seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lightning.data import whole_file
from rlhf_lightning.evaluation.claims import Claim, check_claims
from rlhf_lightning.evaluation.evidence import Evidence
from rlhf_lightning.evaluation.plots import figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_claims(reports: Mapping[int, str | Path], out: str | Path, *, command: str | None = None) -> Path:
    """Check the claims for each training seed and for all of them together; write ``claims.json``, ``claims.md`` and
    ``plots/claims.png``.

    Args:
        reports: by seed the ``report.json``, or its folder.
        out: the folder.
        command: what made the runs, for the table.

    Returns:
        The path of ``claims.md``.
    """
    out = Path(out)
    runs = {seed: Evidence(_read(Path(path))) for seed, path in reports.items()}
    found = {str(seed): check_claims([run]) for seed, run in runs.items()}
    found["all"] = check_claims(list(runs.values()))
    prompts = {str(seed): run.report.get("settings", {}).get("prompts") for seed, run in runs.items()}
    seconds = {str(seed): (run.report.get("seconds") or {}).get("total") for seed, run in runs.items()}
    content = {
        "command": command,
        "prompts": prompts,
        "seconds": seconds,
        "claims": {
            name: [claim._asdict() | {"holds": claim.holds} for claim in claims] for name, claims in found.items()
        },
    }
    with whole_file(out / "claims.json") as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "plots").mkdir(parents=True, exist_ok=True)
    save(claims_plot(found), out / "plots" / "claims.png")
    with whole_file(out / "claims.md") as partial:
        partial.write_text(_page(content, found), encoding="utf-8")
    return out / "claims.md"


def claims_table(found: Mapping[str, Sequence[Claim]]) -> str:
    """A Markdown table: a row for each claim, a column for each seed and one for all of them."""
    names = list(found)
    heads = ["claim", "measured", "wanted", *(f"seed {n}" if n != "all" else "all" for n in names)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "|".join([" --- "] * len(heads)) + "|"]
    for number, claim in enumerate(found[names[-1]]):
        cells = [_cell(found[name][number]) for name in names]
        lines.append("| " + " | ".join([claim.statement, claim.measure, _wanted(claim), *cells]) + " |")
    return "\n".join(lines)


def claims_plot(found: Mapping[str, Sequence[Claim]]) -> Figure:
    """Every claim with its interval for each seed and for all, in units of its own, beside what it must not touch."""
    names = list(found)
    kinds = [k for k in ("share", "points", "number") if any(c.form == k for c in found[names[-1]])]
    rows = {kind: [i for i, claim in enumerate(found[names[-1]]) if claim.form == kind] for kind in kinds}
    height = max(len(group) for group in rows.values())
    drawing, axes = figure(5.6 * len(kinds), 1.2 + 0.5 * height, 1, len(kinds))
    for ax, kind in zip(axes, kinds, strict=True):
        scale = 1 if kind == "number" else 100
        for place, index in enumerate(reversed(rows[kind])):
            for offset, name in enumerate(names):
                claim = found[name][index]
                if claim.value is None or claim.low is None or claim.high is None:
                    continue
                y = place + 0.3 - 0.6 * offset / max(len(names) - 1, 1)
                color = "#009E73" if claim.holds else "#D55E00"
                wide = 3.0 if name == "all" else 1.2
                ax.plot([scale * claim.low, scale * claim.high], [y, y], color=color, linewidth=wide)
                ax.plot(scale * claim.value, y, "o" if claim.holds else "X", color=color, markersize=4 + wide)
            claim = found[names[-1]][index]
            for limit in (claim.above, claim.below, claim.contains):
                if limit is not None:
                    ax.plot(
                        [scale * limit] * 2, [place - 0.42, place + 0.42], color="black", linewidth=1, linestyle="--"
                    )
        ax.set_yticks(range(len(rows[kind])), [found[names[-1]][i].statement for i in reversed(rows[kind])])
        ax.grid(visible=False, axis="y")
        ax.set_xlabel({"share": "%", "points": "percentage points", "number": "nats, or reward"}[kind])
    axes[0].set_title(
        "● holds   ✖ fails   thick: all seeds   dashed: what the interval must clear", fontsize=8, loc="left"
    )
    return drawing


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "report.json" if path.is_dir() else path).read_text(encoding="utf-8"))
    return content


def _page(content: Mapping[str, Any], found: Mapping[str, Sequence[Claim]]) -> str:
    together = found["all"]
    held = sum(claim.holds is True for claim in together)
    parts = [
        "# The paper's claims",
        f"{held} of {len(together)} claims hold over all seeds.",
        claims_table(found),
        "![The claims with their intervals](plots/claims.png)",
        "A claim holds where its whole 95 % interval lies on the wanted side. Intervals are bootstraps over prompts "
        "(for losses over blocks of text); those of all seeds pool their prompts, and do not count how much another "
        "training seed would differ from the ones shown.",
    ]
    if content["command"]:
        parts.insert(1, f"```\n{content['command']}\n```")
    return "\n\n".join(parts) + "\n"


def _cell(claim: Claim) -> str:
    if claim.value is None:
        return "–"
    low, high = _number(claim.low, claim.form), _number(claim.high, claim.form)
    return f"{'✓' if claim.holds else '**✗**'} {_number(claim.value, claim.form)} [{low}, {high}]"


def _wanted(claim: Claim) -> str:
    if claim.contains is not None:
        return f"has {_number(claim.contains, claim.form)} in it"
    limit, word = (claim.above, "above") if claim.above is not None else (claim.below, "below")
    return f"{word} {_number(limit, claim.form)}"


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    text = {"share": f"{100 * value:.1f} %", "points": f"{100 * value:+.1f}", "number": f"{value:+.3f}"}[form]
    return text.replace("-", "−")
