"""The comparison that shows who wins: every model on the same held-out prompts, before the same judge."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rlhf_lightning.data import Encoder, Labeler, TokenBatch, write_rows
from rlhf_lightning.evaluation.compare_inputs import check_models, prompt_rows, read_prefix
from rlhf_lightning.evaluation.divergence import kl_from
from rlhf_lightning.evaluation.judges import Judge
from rlhf_lightning.evaluation.language_modelling import block_losses, text_batches
from rlhf_lightning.evaluation.loaded import LoadedModel, ModelSource, device_of, load_model, load_scorer
from rlhf_lightning.evaluation.preference import judge_in_random_order
from rlhf_lightning.evaluation.responses import Responses, intervals, sample_table, summarize, write_samples
from rlhf_lightning.evaluation.reward_model import evaluate_reward_model
from rlhf_lightning.evaluation.sampling import Samples, sample_responses
from rlhf_lightning.evaluation.several_judges import ask_judges
from rlhf_lightning.models import RewardModelScorer


class _Setup(NamedTuple):
    """What is the same for every model."""

    rows: list[dict[str, Any]]
    prompts: list[str]
    judge: Judge
    scorer: RewardModelScorer | None
    max_new_tokens: int
    temperature: float
    batch_size: int
    seed: int


def evaluate_models(
    *,
    models: Mapping[str, Mapping[str, Any] | None],
    baseline: str = "sft",
    reward_model: str | None,
    prompts: str,
    text: str | None,
    comparisons: str | None,
    judge: Judge,
    judges: Mapping[str, Judge] | None = None,
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
    dtype: str = "float32",
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Compare models on held-out prompts; each folder is loaded once.

    Every model answers every prompt once, with random numbers of its own. Its responses are judged against those of
    the baseline to the same prompts, either shown first by the toss of a coin, and assessed by themselves.

    Args:
        models: a name for each ``{"name": folder or hub id, "prefix": optional path of a few-shot file}``, which may
            have its own ``dtype`` and so on; ``None``, or a folder of ``None``, is left out: a stage that was skipped.
        baseline: the model that the others are compared with, and that the KL is measured from.
        reward_model: folder of the reward model that scores the responses (the proxy reward).
        prompts: prompts file; the judge sees its whole rows.
        text: held-out pretraining text, for the alignment tax.
        comparisons: held-out comparisons, for the reward model's accuracy.
        judge: prefers and assesses.
        judges: by name, who else compares every two of the models, for ratings and the judges' agreement; the reward
            model joins them. One pair of m models costs m·(m − 1)/2 questions a prompt and judge.
        labelers: second opinions on the comparisons, see
            :func:`~rlhf_lightning.evaluation.evaluate_reward_model`.
        out: folder for ``samples_<model>.jsonl``, ``text_losses.jsonl`` (nats and labels of each block and model) and
            ``preferences.jsonl`` (what each of ``judges`` said).
        max_new_tokens, temperature, batch_size, seed: of the sampling.
        limit: so many of the prompts, drawn by the seed; all by default.
        text_block, document_eos, sample_by: as in :class:`~rlhf_lightning.data.TextDataModule`.
        text_tokens: about how many tokens of ``text`` to read, taken evenly over it; ``None`` for all.
        sample_rows: prompts in the sample table, drawn by the seed.
        device: the accelerator if there is one, by default.
        dtype, revision, attn_implementation, trust_remote_code: of every model, its tokenizer and the reward model.

    Returns:
        ``models``: by name ``win_rate_vs_<baseline>`` and ``win_rate_interval`` (95 %), ``gold_reward``,
        ``proxy_reward``, ``kl`` (k1, nats per response, on the model's own samples), ``pretrain_loss`` (nats per
        token), ``eos_rate``, ``response_length`` (tokens, the end included), ``instruction_followed``, ``truthful``,
        ``rude``, ``likert`` and whatever else the judge assesses, each the mean over prompts, ``None`` where
        nobody can decide it. ``intervals``: of all these, 95 %,
        by model. ``preferences``: what ``judges`` found, see
        :func:`~rlhf_lightning.evaluation.ask_judges`. ``reward_model``: see
        :func:`~rlhf_lightning.evaluation.evaluate_reward_model`.
        ``rates``: the metrics that are shares of responses. ``samples``: the files. ``sample_table``: some prompts
        with every model's response. ``baseline`` and ``settings``: how it was done.

    Raises:
        UserError: no baseline, a model without a folder, or anything that the files and folders lack.
    """
    present = {
        name: dict(spec) for name, spec in models.items() if spec is not None and spec.get("name", "") is not None
    }
    check_models(present, baseline)
    prefixes = {name: read_prefix(name, spec.get("prefix")) for name, spec in present.items()}
    rows = prompt_rows(prompts, limit, seed)
    place = device_of(device)
    form = ModelSource("", dtype, revision, attn_implementation, trust_remote_code)
    scorer = None if reward_model is None else load_scorer(form.of({"name": str(reward_model)}), place)
    ranking = None
    if scorer is not None and comparisons is not None:
        ranking = evaluate_reward_model(scorer, comparisons, judge=judge, labelers=labelers)
    setup = _Setup(rows, [row["prompt"] for row in rows], judge, scorer, max_new_tokens, temperature, batch_size, seed)

    # The baseline comes first: the others are measured against its weights and its responses.
    sources = {name: form.of(spec | {"name": str(spec["name"])}) for name, spec in present.items()}
    first = sources[baseline]
    results: dict[str, Responses] = {}
    losses: dict[ModelSource, list[tuple[float, int]] | None] = {}
    blocks: dict[str, list[TokenBatch]] = {}
    reference: LoadedModel | None = None
    for source in sorted(set(sources.values()), key=lambda source: (source != first, str(source))):
        loaded = load_model(source, place, temperature)
        reference = reference or loaded
        losses[source] = None
        if text is not None:
            tokenizer = loaded.encoder.fingerprint()
            if tokenizer not in blocks:
                blocks[tokenizer] = text_batches(
                    loaded.encoder,
                    text,
                    block_size=text_block,
                    document_eos=document_eos,
                    sample_by=sample_by,
                    max_tokens=text_tokens,
                )
            losses[source] = block_losses(loaded.model, blocks[tokenizer])
        names = [name for name in present if sources[name] == source]
        for name in sorted(names, key=lambda name: name != baseline):
            results[name] = _answer(setup, loaded, reference, name, prefixes[name], results.get(baseline))

    ordered = {name: results[name] for name in present}
    of_models = {name: losses[source] for name, source in sources.items()}
    write_rows(Path(out) / "text_losses.jsonl", ({"model": n, "blocks": found} for n, found in of_models.items()))
    scores = {name: result.scores for name, result in ordered.items() if result.scores is not None}
    preferences = ask_judges(
        judges or {},
        rows,
        {name: result.samples.responses for name, result in ordered.items()},
        anchor=baseline,
        out=out,
        scores=scores if len(scores) == len(ordered) else None,
        comparisons=comparisons,
        seed=seed,
    )
    return {
        "models": {
            name: summarize(result, baseline=baseline, pretrain_loss=_mean_loss(of_models[name]), seed=seed)
            for name, result in ordered.items()
        },
        "intervals": {
            name: intervals(result, text_losses=of_models[name], seed=seed) for name, result in ordered.items()
        },
        "preferences": preferences,
        "reward_model": ranking,
        "baseline": baseline,
        "rates": sorted({name for result in results.values() for name in result.rates()}),
        "samples": {name: str(write_samples(result, rows, name, out)) for name, result in ordered.items()},
        "sample_table": sample_table(ordered, setup.prompts, count=sample_rows, seed=seed),
        "settings": {"prompts": len(rows), "temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed},
    }


def _stream(seed: int, name: str) -> int:
    """A seed of its own for every model: with shared noise, similar models would give the same text and the
    comparison would be one of a model with itself."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")


def _answer(
    setup: _Setup,
    loaded: LoadedModel,
    reference: LoadedModel,
    name: str,
    prefix: str | None,
    baseline: Responses | None,
) -> Responses:
    """One model's responses and everything about them; without ``baseline`` it is the baseline itself."""
    samples = sample_responses(
        loaded.model,
        loaded.encoder,
        setup.prompts,
        max_new_tokens=setup.max_new_tokens,
        temperature=setup.temperature,
        seed=_stream(setup.seed, name),
        batch_size=setup.batch_size,
        prefix=prefix,
        label=name,
    )
    prompted = prefix is not None
    scores = _scores(setup.scorer, loaded.encoder, samples, setup.prompts, prompted=prompted)
    assessed = setup.judge.assess(setup.rows, samples.responses)
    if baseline is None:
        return Responses(samples, [0.0] * len(setup.rows), scores, [0.5] * len(setup.rows), assessed)
    kl = kl_from(
        reference.logprobs,
        reference.encoder,
        loaded.logprobs,
        loaded.encoder,
        samples,
        setup.prompts,
        prompted=prompted,
    )
    said = judge_in_random_order(
        setup.judge, setup.rows, samples.responses, baseline.samples.responses, seed=f"{setup.seed} {name}"
    )
    return Responses(samples, kl, scores, said.preferences, assessed)


def _mean_loss(blocks: list[tuple[float, int]] | None) -> float | None:
    return None if blocks is None else sum(loss for loss, _ in blocks) / max(sum(count for _, count in blocks), 1)


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
