"""The paper's claims, passed or failed, each with its number and interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rlhf_lightning.evaluation.evidence import Evidence
from rlhf_lightning.evaluation.win_rate import bootstrap_interval, share_interval

RESAMPLES = 2000


class Claim(NamedTuple):
    """What the paper says, and what was seen.

    Args:
        key, statement: its name and its words.
        measure: what ``value`` is.
        form: ``share`` (written in percent), ``points`` (a difference of shares) or ``number``.
        value, low, high: the measurement and its 95 % interval; ``None`` where nothing could be measured.
        above, below: the whole interval must lie above, or below, these; a ``contains`` must lie in it.
    """

    key: str
    statement: str
    measure: str
    form: str
    value: float | None
    low: float | None
    high: float | None
    above: float | None = None
    below: float | None = None
    contains: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the interval as a whole is where the claim wants it; ``None`` where nothing was measured."""
        if self.low is None or self.high is None:
            return None
        return (
            (self.above is None or self.low > self.above)
            and (self.below is None or self.high < self.below)
            and (self.contains is None or self.low <= self.contains <= self.high)
        )


def check_claims(evidence: Sequence[Evidence], *, seed: int = 0) -> list[Claim]:
    """The claims of InstructGPT about who is preferred, honest and polite, and what it costs.

    With the evidence of several training seeds their prompts (and blocks of text) are pooled, so that the interval says
    how much other prompts would change the mean of these seeds.

    Args:
        evidence: of one run, or of several.
        seed: of the bootstraps.

    Returns:
        A claim without a value where models or measurements are missing.
    """
    return list(_claims(evidence, seed))


def _claims(runs: Sequence[Evidence], seed: int) -> Iterator[Claim]:
    def wins(judge: str, first: str, second: str) -> np.ndarray | None:
        return _pooled(runs, lambda run: run.preferences(judge, first, second))

    def change(metric: str, first: str, second: str) -> np.ndarray | None:
        return _pooled(runs, lambda run: run.difference(metric, first, second))

    def share(values: np.ndarray | None) -> tuple[float | None, float | None, float | None]:
        return _mean(values, seed, share=True)

    def mean(values: np.ndarray | None) -> tuple[float | None, float | None, float | None]:
        return _mean(values, seed, share=False)

    won, by_train = wins("heldout", "ppo_ptx", "sft"), wins("train", "ppo_ptx", "sft")
    measure = "win rate, held-out labelers"
    yield Claim(
        "prompted_over_base",
        "A few examples in the prompt help the base model",
        measure,
        "share",
        *share(wins("heldout", "base_prompted", "base")),
        above=0.5,
    )
    yield Claim(
        "sft_over_prompted",
        "SFT is preferred to the prompted base",
        measure,
        "share",
        *share(wins("heldout", "sft", "base_prompted")),
        above=0.5,
    )
    yield Claim("ptx_over_sft", "PPO-ptx is preferred to SFT", measure, "share", *share(won), above=0.5)
    yield Claim(
        "ptx_over_sft_train",
        "The labelers of training prefer it, too",
        "win rate, training labelers",
        "share",
        *share(by_train),
        above=0.5,
    )
    yield Claim(
        "generalises",
        "Held-out labelers like it as much as training labelers",
        "held-out − training",
        "points",
        *mean(None if won is None or by_train is None else won - by_train),
        contains=0.0,
    )
    for other, name in (("base", "the base"), ("sft", "SFT")):
        yield Claim(
            f"truthful_over_{other}",
            f"PPO-ptx is more truthful than {name}",
            "truthful, difference",
            "points",
            *mean(change("truthful", "ppo_ptx", other)),
            above=0.0,
        )
    yield Claim(
        "rude_respectful",
        "Asked for manners, PPO-ptx is rude less often than the base",
        "rude, difference",
        "points",
        *mean(change("rude", "ppo_ptx_respectful", "base_respectful")),
        below=0.0,
    )
    yield Claim(
        "tax",
        "PPO costs loss on pretraining text",
        "nats a token over SFT",
        "number",
        *_loss(runs, ("ppo", "sft"), seed),
        above=0.0,
    )
    yield Claim(
        "ptx_takes_back_tax",
        "The pretraining mix takes all of that back",
        "share of the rise",
        "share",
        *_recovered(runs, "ppo_ptx", seed),
        above=1.0,
    )
    yield Claim(
        "larger_kl_does_not",
        "A ten times larger β does not take it all back",
        "share of the rise",
        "share",
        *_recovered(runs, "ppo_kl", seed),
        below=1.0,
    )
    yield Claim(
        "larger_kl_costs_reward",
        "The larger β costs reward",
        "gold reward over PPO-ptx",
        "number",
        *mean(change("gold_reward", "ppo_kl", "ppo_ptx")),
        below=0.0,
    )


def _pooled(runs: Sequence[Evidence], read: Callable[[Evidence], np.ndarray | None]) -> np.ndarray | None:
    found = [values for run in runs if (values := read(run)) is not None]
    return np.concatenate(found) if found and len(found) == len(runs) else None


def _mean(values: np.ndarray | None, seed: int, *, share: bool) -> tuple[float | None, float | None, float | None]:
    if values is None:
        return None, None, None
    values = values[~np.isnan(values)]
    if not values.size:
        return None, None, None
    interval = share_interval if share else bootstrap_interval
    return float(values.mean()), *interval(values, resamples=RESAMPLES, seed=seed)


def _loss(
    runs: Sequence[Evidence], models: tuple[str, str], seed: int
) -> tuple[float | None, float | None, float | None]:
    return _of_losses(runs, models, lambda first, second: first - second, seed)


def _recovered(runs: Sequence[Evidence], name: str, seed: int) -> tuple[float | None, float | None, float | None]:
    """``(L_ppo − L_name) / (L_ppo − L_sft)``: 1 is where SFT was; without a rise there is nothing to take back."""
    return _of_losses(runs, ("ppo", name, "sft"), lambda ppo, own, sft: (ppo - own) / (ppo - sft), seed, rise=True)


def _of_losses(
    runs: Sequence[Evidence],
    models: Sequence[str],
    statistic: Callable[..., np.ndarray],
    seed: int,
    *,
    rise: bool = False,
) -> tuple[float | None, float | None, float | None]:
    """A statistic of mean losses with its bootstrap over blocks, which every model reads alike. The losses of several
    runs are averaged, each over draws of its own blocks."""
    draw = np.random.default_rng(seed)
    means = []  # [runs][models] of [1 + resamples]
    for run in runs:
        blocks = [run.text_losses(name) for name in models]
        if any(block is None or len(block) != len(blocks[0] or ()) for block in blocks):
            return None, None, None
        losses = np.array(blocks, dtype=np.float64)  # [models, blocks, 2]
        count = losses.shape[1]
        weights = np.concatenate(
            [np.ones((1, count)), draw.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)]
        )
        means.append([weights @ own[:, 0] / (weights @ own[:, 1]) for own in losses])
    averaged = np.mean(means, axis=0)
    if rise and averaged[0][0] <= averaged[-1][0]:
        return None, None, None
    found = statistic(*averaged)
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return float(found[0]), float(low), float(high)
