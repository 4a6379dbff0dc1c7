"""Benchmarks on models: who answers what how well, and what alignment cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_lightning.data import TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks.answering import Answered, answer, check_newline
from rlhf_lightning.evaluation.benchmarks.samples import write_samples
from rlhf_lightning.evaluation.benchmarks.task import Interval, Measured, Task
from rlhf_lightning.evaluation.benchmarks.tax import alignment_tax
from rlhf_lightning.evaluation.language_modelling import mean_loss, text_batches
from rlhf_lightning.evaluation.loaded import LoadedModel, ModelSource, device_of, load_encoder, load_model
from rlhf_lightning.models import content_fingerprint

log = logging.getLogger(__name__)


class _Model(NamedTuple):
    source: ModelSource
    prefix: str
    prefix_file: str | None


def evaluate_benchmarks(
    *,
    models: Mapping[str, Mapping[str, Any] | None],
    benchmarks: Mapping[str, Task] | Sequence[Task],
    out: str | Path,
    references: Sequence[str] = ("base", "sft"),
    text: str | None = None,
    text_block: int = 128,
    text_tokens: int | None = 32_768,
    document_eos: bool = True,
    sample_by: str = "document",
    batch_size: int = 32,
    seed: int = 0,
    device: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Run every benchmark on every model; each folder is loaded once.

    Answers are kept in ``<out>/answers`` under a hash of model, benchmark and settings: what was answered is not
    answered again, neither by a run that goes on nor by one with a benchmark or a model more.

    Args:
        models: a name for each ``{"name": folder, adapter folder or hub id, "prefix": optional path of a few-shot
            file}``, which may have its own ``dtype`` and so on; ``None`` is left out.
        benchmarks: as the functions of this package make them, in this order.
        out: folder for ``answers/`` and ``samples/<benchmark>.csv``.
        references: names of models that the alignment tax is counted from; those that are not there are left out.
        text: held-out text, for the loss of each model as a language model.
        text_block, text_tokens, document_eos, sample_by: as in
            :func:`~rlhf_lightning.evaluation.text_batches`.
        batch_size: texts that are read together.
        seed: of bootstrap intervals and of answers that are drawn.
        device: the accelerator if there is one, by default.
        dtype, revision, attn_implementation, trust_remote_code: of every model and its tokenizer.

    Returns:
        ``models``: by name its ``fingerprint``, ``prefix`` and ``text_loss`` (nats per token). ``benchmarks``: by name
        what it is, how many of how many rows were asked, and ``results[prompt type][model][metric]`` with ``value`` and
        ``interval`` (95 %). ``tax``: see :func:`alignment_tax`. ``samples``: the files. ``settings``, ``seconds``.

    Raises:
        UserError: no model, no benchmark, a tokenizer or prefix that is missing, all before a model is loaded.
    """
    tasks = list(benchmarks.values() if isinstance(benchmarks, Mapping) else benchmarks)
    form = ModelSource("", dtype, revision, attn_implementation, trust_remote_code)
    known = _models(models, form)
    if not tasks and text is None:
        raise UserError("there is nothing to evaluate: name benchmarks=[crows_pairs,...], or a held-out text")
    twice = next((task.name for task in tasks if [other.name for other in tasks].count(task.name) > 1), None)
    if twice is not None:
        raise UserError(f"two benchmarks are called {twice}: give one of them another name")
    for key, count in (("batch_size", batch_size), ("text_block", text_block), ("text_tokens", text_tokens)):
        if count is not None and count < 1:
            raise UserError(f"evaluate.{key}={count} must be at least 1")
    blocks = _blocks(known, tasks, text, text_block, text_tokens, document_eos, sample_by)
    out = Path(out)
    place = device_of(device)

    answered: dict[tuple[str, str, str], Answered] = {}
    fingerprints: dict[str, str] = {}
    losses: dict[str, float | None] = dict.fromkeys(known)
    seconds: dict[str, float] = {}
    for source in dict.fromkeys(model.source for model in known.values()):
        loaded = load_model(source, place, 1.0)
        fingerprint = content_fingerprint(loaded.model)
        names = [name for name, model in known.items() if model.source == source]
        loss = None
        if text is not None:
            loss = mean_loss(loaded.model, blocks[loaded.encoder.fingerprint()])
        for name in names:
            fingerprints[name], losses[name] = fingerprint, loss
            for task in tasks:
                start = time.monotonic()
                for prompt_type in task.prompt_types:
                    found = _ask(task, prompt_type, loaded, known[name], name, fingerprint, out, batch_size, seed)
                    answered[task.name, prompt_type, name] = found
                seconds[task.name] = seconds.get(task.name, 0.0) + time.monotonic() - start
        del loaded  # before the next one is loaded

    results: dict[tuple[str, str, str], Measured] = {}
    for task in tasks:
        start = time.monotonic()
        for (name, prompt_type, model), found in answered.items():
            if name == task.name:
                results[name, prompt_type, model] = task.measure(task.questions, found.answers)
        seconds[task.name] += time.monotonic() - start
    compared = [name for name in references if name in known]
    return {
        "models": {
            name: {"fingerprint": fingerprints[name], "prefix": model.prefix_file, "text_loss": losses[name]}
            for name, model in known.items()
        },
        "benchmarks": {task.name: _summary(task, answered, results, list(known), seed) for task in tasks},
        "tax": alignment_tax(tasks, results, list(known), compared, losses, seed=seed),
        "references": compared,
        "samples": {task.name: str(_write(task, answered, results, list(known), out)) for task in tasks},
        "settings": {"batch_size": batch_size, "seed": seed, "dtype": dtype, "device": place},
        "seconds": seconds,
    }


def _models(models: Mapping[str, Mapping[str, Any] | None], form: ModelSource) -> dict[str, _Model]:
    known = {}
    for name, spec in models.items():
        if spec is None:
            continue
        if not spec.get("name") or set(spec) - {"prefix", *ModelSource._fields}:
            others = ", ".join(ModelSource._fields[1:])
            raise UserError(f"models.{name} needs `name` and may have `prefix`, {others}; got {dict(spec)}")
        file = spec.get("prefix")
        if file is not None and not Path(file).is_file():
            raise UserError(f"models.{name}.prefix={file} does not exist: give a text file of solved examples")
        prefix = "" if file is None else Path(file).read_text(encoding="utf-8").rstrip("\n") + "\n\n"
        known[name] = _Model(form.of({**spec, "name": str(spec["name"])}), prefix, None if file is None else str(file))
    if not known:
        raise UserError("there is no model to evaluate: give models.NAME.name=FOLDER, or a hub id")
    return known


def _blocks(
    models: Mapping[str, _Model],
    tasks: Sequence[Task],
    text: str | None,
    text_block: int,
    text_tokens: int | None,
    document_eos: bool,
    sample_by: str,
) -> dict[str, list[TokenBatch]]:
    """The text as batches by tokenizer; every tokenizer is looked at before any weights are loaded."""
    blocks: dict[str, list[TokenBatch]] = {}
    for name, model in models.items():
        encoder = load_encoder(model.source)
        if any(task.max_new_tokens is not None for task in tasks):
            check_newline(name, encoder)
        tokenizer = encoder.fingerprint()
        if text is not None and tokenizer not in blocks:
            blocks[tokenizer] = text_batches(
                encoder,
                text,
                block_size=text_block,
                document_eos=document_eos,
                sample_by=sample_by,
                max_tokens=text_tokens,
            )
    return blocks


def _ask(
    task: Task,
    prompt_type: str,
    loaded: LoadedModel,
    model: _Model,
    name: str,
    fingerprint: str,
    out: Path,
    batch_size: int,
    seed: int,
) -> Answered:
    label = f"{name}: {task.title}, {prompt_type}"
    found: Answered = (task.ask or answer)(
        task,
        prompt_type,
        loaded,
        fingerprint=fingerprint,
        prefix=model.prefix,
        store=out / "answers",
        batch_size=batch_size,
        seed=seed,
        label=label,
    )
    if found.cut:
        log.warning("%s: %d prompts do not fit the model's context and lost their beginning", label, found.cut)
    return found


def _summary(
    task: Task,
    answered: Mapping[tuple[str, str, str], Answered],
    results: Mapping[tuple[str, str, str], Measured],
    models: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    cells: dict[str, dict[str, Any]] = {}
    for prompt_type in task.prompt_types:
        cells[prompt_type] = {}
        for model in models:
            figures = results[task.name, prompt_type, model].figures(seed)
            cells[prompt_type][model] = {metric: _figure(figure) for metric, figure in figures.items()}
    cut = {
        f"{prompt_type}/{model}": found.cut
        for (name, prompt_type, model), found in answered.items()
        if name == task.name and found.cut
    }
    return {
        "title": task.title,
        "metric": task.metric,
        "unit": task.unit,
        "higher_is_better": task.higher_is_better,
        "rows": len(task.questions),
        "available": task.available,
        "file": Path(task.file).name,
        "max_new_tokens": task.max_new_tokens,
        "samples_per_prompt": task.samples if task.max_new_tokens is not None else None,
        "cut_prompts": cut,
        "answers": {
            f"{prompt_type}/{model}": found.key
            for (name, prompt_type, model), found in answered.items()
            if name == task.name
        },
        "results": cells,
    }


def _figure(figure: Interval) -> dict[str, Any]:
    return {"value": figure.value, "interval": None if figure.low is None else [figure.low, figure.high]}


def _write(
    task: Task,
    answered: Mapping[tuple[str, str, str], Answered],
    results: Mapping[tuple[str, str, str], Measured],
    models: Sequence[str],
    out: Path,
) -> Path:
    cells = [(prompt_type, model) for model in models for prompt_type in task.prompt_types]
    return write_samples(
        task,
        {cell: answered[task.name, *cell].answers for cell in cells},
        {cell: results[task.name, *cell] for cell in cells},
        out / "samples",
    )
