"""The report of a comparison: report.json, report.md and plots/."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_lightning.data import whole_file
from rlhf_lightning.evaluation import plots
from rlhf_lightning.evaluation.card import CARD, evaluation_card
from rlhf_lightning.evaluation.curves import Curve, read_curves
from rlhf_lightning.evaluation.instructions import labeling_instructions
from rlhf_lightning.evaluation.learning_curves import learning_curves
from rlhf_lightning.evaluation.markdown import markdown

log = logging.getLogger(__name__)


def write_report(
    report: Mapping[str, Any], out: str | Path, *, curves: Mapping[str, str | Path | None] | None = None
) -> Path:
    """Write ``report.json``, ``report.md``, ``plots/*.png``, ``MODEL_CARD.md`` and ``labeling_instructions.md`` to
    ``out``; each file is replaced whole.

    Args:
        report: the result of :func:`~rlhf_lightning.evaluation.evaluate_models`, with ``seconds`` (by stage),
            ``seed`` and ``versions``; for the card also ``command``, ``training`` (settings by stage) and ``data``
            (data cards by stage).
        out: the folder; made if it is not there.
        curves: by stage (``pretrain``, ``sft``, ``reward``, ``ppo``, ``ppo_ptx``) the ``metrics.csv`` of its logger. A
            file that is missing leaves its curve out, with a warning.

    Returns:
        The path of ``report.md``.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_facts(report, out)
    _replace(out / "report.md", markdown(report, draw_plots(report, out, curves=curves)))
    return out / "report.md"


def write_facts(report: Mapping[str, Any], out: Path) -> None:
    """Write ``report.json``, the card that is made of it, and ``labeling_instructions.md`` to ``out``."""
    text = json.dumps(_finite(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _replace(out / "report.json", text)
    _replace(out / CARD, evaluation_card(json.loads(text)))  # of what the file says, so that the two cannot differ
    _replace(out / "labeling_instructions.md", labeling_instructions())


def draw_plots(
    report: Mapping[str, Any], out: Path, *, curves: Mapping[str, str | Path | None] | None = None
) -> dict[str, str]:
    """Draw a comparison to ``<out>/plots``.

    Returns:
        By name, the path of each plot relative to ``out``.
    """
    folder = out / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    found = _read(curves or {})
    drawings = {
        "win_rates": plots.win_rates(report),
        "ratings": plots.ratings(report),
        "learning_curves": learning_curves(found),
        "reward_against_kl": plots.reward_against_kl(report, found),
        "alignment_tax": plots.alignment_tax(report),
        "calibration": plots.calibration(report),
    }
    drawn = {}
    for name, drawing in drawings.items():
        file = folder / f"{name}.png"
        if drawing is None:
            file.unlink(missing_ok=True)  # of an earlier report, which had what this one lacks
        else:
            plots.save(drawing, file)
            drawn[name] = f"plots/{file.name}"
    return drawn


def _read(curves: Mapping[str, str | Path | None]) -> dict[str, dict[str, Curve]]:
    found = {}
    for stage, file in curves.items():
        if file is None:
            continue
        if Path(file).is_file():
            found[stage] = read_curves(file)
        else:
            log.warning("the report has no learning curve of stage %s: %s does not exist", stage, file)
    return found


def _finite(value: Any) -> Any:
    """The value in JSON's terms: NaN and infinity, which it has no words for, as null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _replace(file: Path, text: str) -> None:
    with whole_file(file) as partial:
        partial.write_text(text, encoding="utf-8")
