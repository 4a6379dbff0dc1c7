"""The comparison that shows who wins: every model on the same held-out prompts, before the same judge."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from rlhf_lightning.data import Encoder, Labeler, TokenBatch, load_rows
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.divergence import kl_from
from rlhf_lightning.evaluation.judges import Judge
from rlhf_lightning.evaluation.language_modelling import mean_loss, text_batches
from rlhf_lightning.evaluation.responses import Responses, sample_table, summarize, write_samples
from rlhf_lightning.evaluation.reward_model import evaluate_reward_model
from rlhf_lightning.evaluation.sampling import Samples, sample_responses
from rlhf_lightning.models import RewardModelScorer, TokenLogprobs, load_causal_lm


class _Loaded(NamedTuple):
    model: nn.Module
    encoder: Encoder
    logprobs: TokenLogprobs


def evaluate_models(
    *,
    models: Mapping[str, Mapping[str, Any] | None],
    baseline: str = "sft",
    reward_model: str | None,
    prompts: str,
    text: str | None,
    comparisons: str | None,
    judge: Judge,
    labelers: Mapping[str, Labeler] | None = None,
    out: str | Path,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    limit: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    text_block: int = 128,
    document_eos: bool = True,
    sample_by: str = "document",
    text_tokens: int | None = 32_768,
    sample_rows: int = 8,
    device: str | None = None,
) -> dict[str, Any]:
    """Compare models on held-out prompts; each folder is loaded once.

    Every model answers every prompt once, with random numbers of its own. Its responses are judged against those of
    the baseline to the same prompts, and assessed by themselves.

    Args:
        models: a name for each ``{"name": folder, "prefix": optional path of a few-shot file}``; ``None`` is left out.
        baseline: the model that the others are compared with, and that the KL is measured from.
        reward_model: folder of the reward model that scores the responses (the proxy reward).
        prompts: prompts file; the judge sees its whole rows.
        text: held-out pretraining text, for the alignment tax.
        comparisons: held-out comparisons, for the reward model's accuracy.
        judge: prefers and assesses.
        labelers: second opinions on the comparisons, see
            :func:`~rlhf_lightning.evaluation.evaluate_reward_model`.
        out: folder for ``samples_<model>.jsonl``.
        max_new_tokens, temperature, batch_size, seed: of the sampling.
        limit: so many of the prompts, drawn by the seed; all by default.
        text_block, document_eos, sample_by: as in :class:`~rlhf_lightning.data.TextDataModule`.
        text_tokens: about how many tokens of ``text`` to read, taken evenly over it; ``None`` for all.
        sample_rows: prompts in the sample table, drawn by the seed.
        device: the accelerator if there is one, by default.

    Returns:
        ``models``: by name ``win_rate_vs_<baseline>`` and ``win_rate_interval`` (95 %), ``gold_reward``,
        ``proxy_reward``, ``kl`` (k1, nats per response, on the model's own samples), ``pretrain_loss`` (nats per
        token), ``eos_rate``, ``response_length`` (tokens, the end included), ``instruction_followed``, ``truthful``,
        ``rude``, ``likert`` and whatever else the judge assesses, each the mean over prompts, ``None`` where
        nobody can decide it. ``reward_model``: see :func:`~rlhf_lightning.evaluation.evaluate_reward_model`.
        ``rates``: the metrics that are shares of responses. ``samples``: the files. ``sample_table``: some prompts
        with every model's response. ``baseline`` and ``settings``: how it was done.

    Raises:
        UserError: no baseline, a model without a folder, or anything that the files and folders lack.
    """
    present = {name: dict(spec) for name, spec in models.items() if spec is not None}
    _check(present, baseline)
    rows = _rows(prompts, limit, seed)
    texts = [row["prompt"] for row in rows]
    scorer = None if reward_model is None else RewardModelScorer(name=str(reward_model), batch_size=batch_size)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if scorer is not None:
        scorer.to(place)

    # The baseline comes first: the others are measured against its weights and its responses.
    folders = sorted(
        {str(spec["name"]) for spec in present.values()}, key=lambda f: f != str(present[baseline]["name"])
    )
    results: dict[str, Responses] = {}
    losses: dict[str, float | None] = {}
    blocks: dict[str, list[TokenBatch]] = {}
    reference: _Loaded | None = None
    for folder in folders:
        loaded = _load(folder, place, temperature)
        reference = reference or loaded
        losses[folder] = None
        if text is not None:
            key = loaded.encoder.fingerprint()
            if key not in blocks:
                blocks[key] = text_batches(
                    loaded.encoder,
                    text,
                    block_size=text_block,
                    document_eos=document_eos,
                    sample_by=sample_by,
                    max_tokens=text_tokens,
                )
            losses[folder] = mean_loss(loaded.model, blocks[key])
        names = [name for name, spec in present.items() if str(spec["name"]) == folder]
        for name in sorted(names, key=lambda name: name != baseline):
            prefix = present[name].get("prefix")
            samples = sample_responses(
                loaded.model,
                loaded.encoder,
                texts,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=_stream(seed, name),
                batch_size=batch_size,
                prefix=None if prefix is None else _read(name, str(prefix)),
                label=name,
            )
            if name == baseline:
                kl = [0.0] * len(rows)
            else:
                kl = kl_from(
                    reference.logprobs,
                    reference.encoder,
                    loaded.logprobs,
                    loaded.encoder,
                    samples,
                    texts,
                    prompted=prefix is not None,
                    batch_size=batch_size,
                )
            scores = _scores(scorer, loaded.encoder, samples, texts, prompted=prefix is not None)
            results[name] = Responses(samples, kl, scores, *_judged(judge, rows, samples, results.get(baseline)))

    ordered = {name: results[name] for name in present}
    return {
        "models": {
            name: summarize(result, baseline=baseline, pretrain_loss=losses[str(present[name]["name"])], seed=seed)
            for name, result in ordered.items()
        },
        "reward_model": None
        if scorer is None or comparisons is None
        else evaluate_reward_model(scorer, comparisons, judge=judge, labelers=labelers),
        "baseline": baseline,
        "rates": sorted({name for result in results.values() for name in result.rates()}),
        "samples": {name: str(write_samples(result, rows, name, out)) for name, result in ordered.items()},
        "sample_table": sample_table(ordered, texts, count=sample_rows, seed=seed),
        "settings": {"prompts": len(rows), "temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed},
    }


def _check(models: Mapping[str, Mapping[str, Any]], baseline: str) -> None:
    if baseline not in models:
        raise UserError(
            f"evaluation.baseline={baseline} is none of the models ({', '.join(models) or 'none'}): "
            "name one that is compared"
        )
    for name, spec in models.items():
        unknown = set(spec) - {"name", "prefix"}
        if unknown or not spec.get("name"):
            raise UserError(f"evaluation.models.{name} needs `name` and may have `prefix`, got {dict(spec)}")
    if models[baseline].get("prefix") is not None:
        raise UserError(f"evaluation.models.{baseline}.prefix: the baseline answers without few-shot examples")


def _rows(prompts: str, limit: int | None, seed: int) -> list[dict[str, Any]]:
    if limit is not None and limit < 1:
        raise UserError(f"evaluation.limit={limit} must be at least 1, or null for all prompts")
    rows = load_rows(prompts, fields=("prompt",))
    if limit is None or limit >= len(rows):
        return list(rows)
    # Drawn, not the first: a prompts file may be sorted by use case.
    return list(rows.select(sorted(random.Random(seed).sample(range(len(rows)), limit))))


def _load(folder: str, device: str, temperature: float) -> _Loaded:
    model = load_causal_lm(name=folder).to(device)  # type: ignore[arg-type]
    model.requires_grad_(False).eval()
    return _Loaded(model, Encoder.from_pretrained(folder), TokenLogprobs(model, temperature=temperature))


def _stream(seed: int, name: str) -> int:
    """A seed of its own for every model: with shared noise, similar models would give the same text and the
    comparison would be one of a model with itself."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")


def _read(name: str, prefix: str) -> str:
    path = Path(prefix)
    if not path.is_file():
        raise UserError(f"evaluation.models.{name}.prefix={prefix} does not exist: give a text file of solved examples")
    return path.read_text(encoding="utf-8")


def _scores(
    scorer: RewardModelScorer | None, encoder: Encoder, samples: Samples, prompts: list[str], *, prompted: bool
) -> list[float] | None:
    """The reward model's raw scores; of the very ids where it shares the tokenizer, as in PPO."""
    if scorer is None:
        return None
    if prompted or not scorer.shares_tokenizer(encoder):
        found = scorer(prompts, samples.responses, samples.finished)
    else:
        sequences = [p + r for p, r in zip(samples.prompt_ids, samples.response_ids, strict=True)]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        input_ids = torch.full((len(sequences), int(lengths.max())), encoder.pad_token_id)
        for line, sequence in zip(input_ids, sequences, strict=True):
            line[: len(sequence)] = torch.tensor(sequence)
        found = scorer.score_ids(input_ids, lengths)
    return [float(score) for score in found]


def _judged(
    judge: Judge, rows: list[dict[str, Any]], samples: Samples, baseline: Responses | None
) -> tuple[list[float], dict[str, list[float]]]:
    """Preferences over the baseline's responses (a tie with itself), and the judge's metrics."""
    assessed = judge.assess(rows, samples.responses)
    if baseline is None:
        return [0.5] * len(rows), assessed
    return judge.prefer(rows, samples.responses, baseline.samples.responses), assessed
