"""The model card of an exported folder: its README.md, every figure of it from the run."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, metadata_load

CARD = "README.md"
_MARK = "<!-- written by rlhf_lightning, {}: a card that was edited is kept -->\n"
_LONGEST = 120


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run tells of a model that it trained.

    Args:
        method: what was done, such as "supervised fine-tuning (SFT)".
        tags: of the Hub.
        settings: names and values of what was set, and of how far training went.
        data: what :func:`~rlhf_lightning.data.data_card` gives; empty where nothing is known.
        metrics: the last value of each.
        notes: on what the model is, a sentence each.
        limits: what must be known before it is used, a sentence each.
    """

    method: str
    tags: Sequence[str] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    limits: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that training started from.

    Args:
        name: as it is shown; of a folder outside the working folder the last two parts.
        hub_id: its name on the Hub, or that of the model which a folder's own card names.
        license: where a card at hand tells it.
    """

    name: str | None = None
    hub_id: str | None = None
    license: str | None = None


def base_of(name: str | None) -> Base:
    """What is known of the model that was loaded as ``name``, without a look at the network."""
    if not name:
        return Base()
    path = Path(name)
    if not path.is_dir():
        return Base(name=name, hub_id=name, license=_known(_cached_card(name)).get("license"))
    shown = name if not path.is_absolute() else str(Path(*path.parts[-2:]))
    known = _known(path / CARD)
    hub_id = known.get("base_model")
    return Base(name=shown, hub_id=hub_id if isinstance(hub_id, str) else None, license=known.get("license"))


def model_card(
    record: RunRecord, *, base: Base, scalar: bool, adapter: bool, usage: str, export: str | None = None
) -> str:
    """The text of a card: front matter for the Hub, then what the model is, how to load it and how it came about.

    Args:
        record: of the run.
        base: where it started.
        scalar: whether the model gives scores, or else text.
        adapter: whether the folder holds an adapter alone.
        usage: Python that loads the folder and uses it.
        export: a sentence on how the folder was compared with the model that was trained.
    """
    front = ModelCardData(
        base_model=base.hub_id,
        base_model_relation=None if base.hub_id is None else "adapter" if adapter else "finetune",
        library_name="peft" if adapter else "transformers",
        license=base.license,
        pipeline_tag="text-classification" if scalar else "text-generation",
        tags=["rlhf", "rlhf_lightning", *record.tags, *(["lora"] if adapter else [])],
    )
    start = "weights drawn anew" if base.name is None else f"`{base.name}`"
    if base.hub_id not in (None, base.name):
        start += f", which goes back to `{base.hub_id}`"
    what = "A reward model" if scalar else "A language model"
    form = " The folder holds the adapter alone; the base is needed beside it." if adapter else ""
    title = record.method[:1].upper() + record.method[1:] + ("" if base.name is None else f" of {base.name}")
    parts = [
        f"---\n{front.to_yaml()}\n---\n\n# {title}",
        f"{what} from {record.method}, trained from {start} with rlhf_lightning.{form}",
        *record.notes,
        f"## Use\n\n```python\n{usage}\n```",
        card_section(
            "Training", ("setting", "value"), [(name, _shown(value)) for name, value in record.settings.items()]
        ),
        *card_data(record.data),
        card_section("Last metrics", ("metric", "value"), [(n, _shown(v)) for n, v in sorted(record.metrics.items())]),
        "" if export is None else f"## Export\n\n{export}",
        "" if not record.limits else "## Limits\n\n" + "\n".join(f"- {limit}" for limit in record.limits),
        card_section("Versions", ("package", "version"), list(_versions(adapter))),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n\n"
    return text + _MARK.format(_digest(text))


def is_own_card(file: Path) -> bool:
    """Whether a card is as :func:`model_card` wrote it; one that a person wrote or edited is not."""
    text = file.read_text(encoding="utf-8", errors="replace")
    body, _, mark = text.rpartition("<!--")
    return f"<!--{mark}" == _MARK.format(_digest(body))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def card_data(data: Mapping[str, Any], title: str = "Data") -> list[str]:
    """The parts of a card on what :func:`~rlhf_lightning.data.data_card` says of the data."""
    columns = ("used as", "source", "rows", "left out", "SHA-256")
    return [part for part in (card_section(title, columns, _sources(data)), _counts(data)) if part]


def card_section(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table under a heading of the second level; nothing without rows."""
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"## {title}\n\n{table}"


def _sources(data: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for role, entries in data.get("sources", {}).items():
        for entry in entries:
            name = entry.get("path") or "/".join(str(entry[k]) for k in ("hub", "config", "split") if entry.get(k))
            path = Path(name)
            shown = path.name if path.is_absolute() else name  # the folders of somebody's machine are no one's business
            revision = "" if not entry.get("revision") else f" at {entry['revision'][:12]}"
            rows = "streamed" if entry.get("streaming") else str(entry.get("rows", ""))
            lost = ", ".join(f"{kind} {count}" for kind, count in entry.get("unreadable_rows", {}).items())
            found.append((role, f"`{shown}`{revision}", rows, lost or "none", str(entry.get("hash") or "")[:12]))
    return found


def _counts(data: Mapping[str, Any]) -> str:
    lines = [
        f"- {role}: " + ", ".join(f"{what} {count}" for what, count in counts.items())
        for role, counts in data.get("counts", {}).items()
        if len(counts) > 1
    ]
    return "What became of them:\n\n" + "\n".join(lines) if lines else ""


def _versions(adapter: bool) -> list[tuple[str, str]]:
    found = []
    for name in ("rlhf-lightning", "torch", "lightning", "transformers", *(["peft"] if adapter else [])):
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            continue
    return found


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "none" if value is None else " ".join(str(value).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _known(card: Path | None) -> dict[str, Any]:
    if card is None or not card.is_file():
        return {}
    try:
        return metadata_load(card) or {}
    except Exception:  # somebody else's card: whatever is wrong with its front matter, it tells nothing
        return {}


def _cached_card(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, CARD)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
